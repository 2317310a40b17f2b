"""The model that a verb of the command line talks to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mllm.chat import MusicLM


def load_quietly(model: str, **options: Any) -> MusicLM:
    """`mllm.chat.load`; no bars of transformers from here on, not when something is saved either."""
    from transformers.utils import logging

    from mllm.chat import load

    logging.disable_progress_bar()
    return load(model, **options)
