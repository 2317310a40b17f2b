"""A build that is stopped, by Ctrl-C or from outside, ends in one line, at once and with all its processes."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import yaml
from small_set import hash_of, write_mixture, write_set

from mllm.data_recipes.build import build_mixture
from mllm.data_recipes.config import HERE

LONG = 20_000
"""Clips that no build of a test comes to the end of."""


@pytest.fixture
def mixture(tmp_path: Path) -> Path:
    content = yaml.safe_load((HERE / "mixtures" / "tiny.yaml").read_text())
    content["clips"] = {"train": LONG, "validation": 0, "test": 0, "unit": 200}
    path = tmp_path / "long.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture
def running(mixture: Path, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], list[psutil.Process]]]:
    """A build in the middle of its clips, and its workers."""
    command = [sys.executable, "-c", "from mllm.cli import app; app()", "data", "build", str(mixture)]
    process = subprocess.Popen(
        [*command, "--output", str(tmp_path / "out"), "--workers", "2"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while len(list(tmp_path.glob("out/clips/*.part/*.flac"))) < 4:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    workers = psutil.Process(process.pid).children(recursive=True)
    assert len(workers) == 2
    yield process, workers
    for left in [process, *workers]:
        try:
            left.kill()
        except (psutil.NoSuchProcess, ProcessLookupError):
            pass
    process.communicate()


def test_workers_end_with_a_build_that_is_killed(running: tuple) -> None:
    process, workers = running
    process.kill()
    _, alive = psutil.wait_procs(workers, timeout=10)
    assert not alive


@pytest.mark.parametrize("whole_group", [True, False])
def test_ctrl_c_is_one_line_and_leaves_no_process(running: tuple, whole_group: bool) -> None:
    process, workers = running
    began = time.monotonic()
    # A terminal sends it to all processes, another program often only to the first.
    (os.killpg if whole_group else os.kill)(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130 and time.monotonic() - began < 10
    assert stderr.splitlines()[-1] == "stopped; run the same command again to go on" and "Traceback" not in stderr
    assert not psutil.wait_procs(workers, timeout=5)[1]


def test_a_worker_that_is_killed_is_one_line(running: tuple) -> None:
    process, workers = running
    workers[0].kill()
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 1 and "Traceback" not in stderr
    assert stderr.splitlines()[-1].startswith("error: a worker process was killed")
    assert "run the same command again" in stderr.splitlines()[-1]
    assert not psutil.wait_procs(workers, timeout=5)[1]


def test_what_was_stopped_goes_on_to_the_same_rows(tmp_path: Path, mixture: Path) -> None:
    """Also at once after a kill: the folder is free again, and no worker of before writes into it."""
    write_set(tmp_path, count=110)
    small = write_mixture(tmp_path, "mine")
    build_mixture(small, tmp_path / "whole", workers=2)
    code = "import sys; from mllm.data_recipes.build import build_mixture; build_mixture(*sys.argv[1:], workers=2)"
    process = subprocess.Popen([sys.executable, "-c", code, small, tmp_path / "out"], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("out/clips/*.part/*.flac")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    build_mixture(small, tmp_path / "out", workers=2)
    assert hash_of(tmp_path / "out") == hash_of(tmp_path / "whole")
    names = [{p.relative_to(tmp_path / f) for p in (tmp_path / f).rglob("*")} for f in ("out", "whole")]
    assert names[0] == names[1]
