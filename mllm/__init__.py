"""Music language models: hear a recording, read a score, answer in words or in notation.

>>> from mllm import load
>>> print(load("mini").ask("song.mp3", "What key is this in?"))  # doctest: +SKIP
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mllm.chat import Answer, MusicLM, load

__all__ = ["Answer", "MusicLM", "load"]

# Where DeepSpeed is installed, transformers imports it, and it says so on standard output, among a command's JSON.
logging.getLogger("DeepSpeed").addFilter(lambda record: "Setting accelerator to CPU" not in record.getMessage())


def __getattr__(name: str) -> Any:
    """`load` and its classes, imported when first asked for: they need torch, which takes seconds to import."""
    if name not in __all__:
        raise AttributeError(f"module 'mllm' has no attribute {name!r}")
    from mllm import chat

    return getattr(chat, name)
