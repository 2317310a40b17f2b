"""The model that a verb of the command line talks to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from mllm.chat import MusicLM

ModelName = Annotated[str, typer.Option("--model", "-m", help="`mini`, or the folder of a checkpoint or adapter.")]


def load_quietly(model: str, **options: Any) -> MusicLM:
    """`mllm.chat.load`; no bars of transformers from here on, not when something is saved either."""
    from transformers.utils import logging

    from mllm.chat import load

    logging.disable_progress_bar()
    return load(model, **options)
