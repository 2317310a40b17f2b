"""The tiny random model of `tiny.py` as a checkpoint on disk, made once a test run."""

import atexit
import functools
import shutil
import tempfile
from pathlib import Path

from tiny import tiny_model

from mllm.assemble import save_model


@functools.cache
def tiny_folder() -> Path:
    """Folder of the checkpoint; it knows nothing, but hears, reads and answers with the real code."""
    root = Path(tempfile.mkdtemp(prefix="mllm-tiny-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    return save_model(*tiny_model(root / "text"), root / "tiny", {"licence": "Apache-2.0", "note": "random weights"})
