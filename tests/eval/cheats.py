"""Models that pass without listening, and what a report must make of them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from typing import Any

from mllm.eval.sounds import Sound
from mllm.eval.task import Messages

RATE = 8000


class Cheat:
    """Answers by a function of (question, sounds)."""

    at_once = 64

    def __init__(self, name: str, say: Callable[[str, list[Any]], str]):
        self.name, self.say, self.heard = name, say, []
        self.sha256 = hashlib.sha256(name.encode()).hexdigest()

    def answer(self, messages: Sequence[Messages], max_new_tokens: int) -> list[str]:
        out = []
        for one in messages:
            content = one[-1]["content"]
            parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
            sounds = [part["audio"] for part in parts if part["type"] == "audio"]
            self.heard += sounds
            out.append(self.say([part["text"] for part in parts if part["type"] == "text"][-1], sounds))
        return out


def first_option(question: str, sounds: list[Any]) -> str:
    """The letter A to everything."""
    return "A"


def file_name(question: str, sounds: list[Any]) -> str:
    """Whatever a name on the sound betrays, looked for wherever a name could hide."""
    for sound in sounds:
        names = [str(sound), repr(sound), *(str(getattr(sound, n, "")) for n in ("name", "path", "filename", "key"))]
        names.append(sound.wav()[:400].decode("latin-1"))
        for name in names:
            if found := re.search(r"truth-is-([A-G][b#]?)-(\w+)", name):
                return f"{found[1]} {found[2]}"
    return "C major"


def fingerprint(sound: Sound) -> str:
    """The samples, hashed."""
    return hashlib.sha256(sound.load(RATE).tobytes()).hexdigest()


def memorised(answers: dict[str, str]) -> Callable[[str, list[Any]], str]:
    """Knows each test clip by its samples, and no music."""
    return lambda question, sounds: answers.get(fingerprint(sounds[0]), "C major") if sounds else "C major"
