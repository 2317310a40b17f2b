"""What tests of several rooms need."""

import os
import signal
import subprocess

import pytest

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Started in the background of a shell. What tests start would ignore Ctrl-C too, and some are about that.
    signal.signal(signal.SIGINT, signal.default_int_handler)

if "PYTEST_XDIST_WORKER" in os.environ:
    # As many workers as cores: with a thread for each core in each of them, and in what they start, all wait for all.
    os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture
def tiny_disk(tmp_path):
    """A real file system of 1 MiB, where this user may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("mounting a small disk needs root")
    yield folder
    subprocess.run(["umount", folder], check=True)
