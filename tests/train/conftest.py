"""Fixtures that several tests of training share."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click_rows import click_settings
from feature_clips import write_clips
from rich.console import Console
from small_run import run


@pytest.fixture(scope="package")
def whole(tmp_path_factory) -> SimpleNamespace:
    folder, console = tmp_path_factory.mktemp("run"), Console(file=io.StringIO())
    trainer = run(folder, console)
    return SimpleNamespace(folder=folder, trainer=trainer, printed=console.file.getvalue())


@pytest.fixture
def clips(tmp_path) -> list[Path]:
    return write_clips(tmp_path / "clips", 6)


@pytest.fixture(scope="package")
def settings(tmp_path_factory) -> dict[str, Any]:
    """Fields of a TrainConfig of a tiny model that learns in seconds; see `click_rows`."""
    return click_settings(tmp_path_factory.mktemp("clicks"))
