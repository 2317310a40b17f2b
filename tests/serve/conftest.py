"""One server for all tests that need nothing special of it."""

import pytest
from live import LiveServer


@pytest.fixture(scope="session")
def server():
    live = LiveServer()
    yield live
    live.close()


@pytest.fixture
def client(server):
    return server.client()
