"""answers.jsonl: what has been answered is not asked again, whatever ended the run in between; results.jsonl, read."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from mllm.eval.sounds import Sound
from mllm.eval.task import EvalError, Messages


def prompt_key(model: str, messages: Messages, **settings: Any) -> str:
    """sha256 of what an answer depends on: the model's hash, the words, the sounds' samples, the settings."""
    text = json.dumps([model, messages, settings], default=_plain, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _plain(value: Any) -> str:
    if isinstance(value, Sound):
        return value.key
    return str(value)


class Answers:
    """Key -> answer, in a file that grows line by line; a half-written last line is dropped."""

    def __init__(self, path: Path):
        """Read what is there. Raises EvalError where a line in the middle of the file is none of ours."""
        self.path = path
        self._known: dict[str, Any] = {}
        whole = 0
        for number, line in enumerate(path.read_bytes().splitlines(keepends=True) if path.exists() else [], start=1):
            if not line.endswith(b"\n"):
                break
            try:
                record = json.loads(line)
                self._known[record["key"]] = record["answer"]
            except (ValueError, KeyError, TypeError) as error:
                raise EvalError(
                    f"{path}, line {number}: not an answer; remove the line and it is asked again"
                ) from error
            whole += len(line)
        if path.exists() and path.stat().st_size != whole:
            os.truncate(path, whole)

    def __contains__(self, key: str) -> bool:
        return key in self._known

    def __getitem__(self, key: str) -> Any:
        return self._known[key]

    def add(self, answers: dict[str, Any]) -> None:
        """Write answers (words, or what JSON can hold) down; they are on disk when this returns."""
        lines = [json.dumps({"key": k, "answer": v}, ensure_ascii=False) + "\n" for k, v in answers.items()]
        with self.path.open("a", encoding="utf-8") as out:
            out.write("".join(lines))
        self._known |= answers


def read_records(folder: Path) -> list[dict[str, Any]]:
    """The records that an evaluation has just written into its folder, in order."""
    return [json.loads(line) for line in (folder / "results.jsonl").read_text(encoding="utf-8").splitlines()]
