"""Exported questions as a task of lmms-eval; `mllm.eval.export` puts a copy of this file beside the task's YAML.

It stands alone: lmms-eval's environment need not have `mllm`. Recordings go to the server as data: addresses.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

Question = dict[str, Any]
"""A row of the export."""


def sounds(question: Question) -> list[bytes]:
    """The recordings, files of their own."""
    return [sound["bytes"] for sound in question["audio"]]


def messages(question: Question) -> list[dict[str, Any]]:
    """The conversation as lmms-eval's chat models take it."""
    heard = iter(question["audio"])
    out = []
    for message in json.loads(question["messages"]):
        content = message["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        out.append({"role": message["role"], "content": [_part(part, heard) for part in parts]})
    return out


def _part(part: dict[str, Any], heard: Iterator[dict[str, Any]]) -> dict[str, Any]:
    if part["type"] != "audio":
        return part
    sound = next(heard)
    kind = sound["path"].rsplit(".", 1)[-1]
    return {"type": "audio", "url": f"data:audio/{kind};base64,{base64.b64encode(sound['bytes']).decode()}"}


def judge(question: Question, results: list[str]) -> dict[str, float]:
    """Right where nothing but the answer is said, or the right option's letter; what was never answered is wrong."""
    said = results[0].strip().rstrip(".").strip("()").casefold()
    return {"right": float(said in {text.casefold() for text in (question["answer"], question["letter"]) if text})}
