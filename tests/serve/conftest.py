"""One server for all tests that need nothing special of it, and one engine a file."""

import pytest
import torch
from live import LiveServer
from tiny_checkpoint import tiny_folder

from mllm import load
from mllm.serve.engine import MusicEngine


@pytest.fixture(scope="session")
def server():
    live = LiveServer()
    yield live
    live.close()


@pytest.fixture
def client(server):
    return server.client()


@pytest.fixture(scope="module")
def music():
    return load(str(tiny_folder()), dtype=torch.float32)


@pytest.fixture(scope="module")
def engine(music):
    with MusicEngine(music, slots=4, waiting=16) as engine:
        yield engine
