"""What tests of several rooms need."""

import os
import signal
import subprocess

import pytest

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Started in the background of a shell. What tests start would ignore Ctrl-C too, and some are about that.
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The kernels of an evaluation, before any test computes: answers are held against each other to the bit.
os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16")

if "PYTEST_XDIST_WORKER" in os.environ:
    # As many workers as cores: with a thread for each core in each of them, and in what they start, all wait for all.
    os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(scope="session")
def same_bits() -> bool:
    """Whether this machine's kernels are those with which batched answers were found to be the same to the bit."""
    import torch  # not above: threads are counted when it is loaded

    from mllm.eval.kernels import answers_may_differ

    return bool(torch.cpu.get_capabilities().get("avx512_bf16")) and not answers_may_differ()


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
