"""The pipeline that a music model has to beat: an untuned language model that is told what classical tools heard."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from mllm.audio_checks import Recording
from mllm.errors import AudioError
from mllm.estimators import RATE
from mllm.eval.classical import NOTES
from mllm.eval.local_models import TextModel
from mllm.eval.note_tools import named
from mllm.eval.respondents import Failure
from mllm.eval.sounds import Sound
from mllm.eval.task import Messages

VERSION = "1"
"""Of the words below: other words are other answers."""
FIRST_NOTES, MOST_CHORDS = 4, 6


def heard(sound: Sound) -> str:
    """One line of facts about a recording, by librosa, Basic Pitch and music21's profiles. Raises AudioError."""
    recording = Recording(sound.load(RATE))
    if recording.silent:
        return f"Tools heard a recording of {recording.seconds:.0f} seconds: it is silent."
    tempo, facts = recording.tempo, [f"key: {recording.key.best.name}"]
    facts.append(f"tempo: {tempo.bpm or tempo.prior:.0f} beats per minute")
    spans: dict[str, float] = {}
    for span in recording.chords:
        name = NOTES[span.root] + span.kind
        spans[name] = spans.get(name, 0.0) + span.end - span.start
    if chords := sorted(spans, key=spans.__getitem__, reverse=True)[:MOST_CHORDS]:
        facts.append("chords: " + ", ".join(chords))
    if melody := recording.melody:
        pitches = [note.pitch for note in melody]
        facts.append(f"lowest note: {named(min(pitches))}")
        facts.append(f"highest note: {named(max(pitches))}")
        facts.append("first notes: " + " ".join(named(pitch) for pitch in pitches[:FIRST_NOTES]))
        facts.append("one voice" if recording.one_voice else "several notes at once")
    return f"Tools heard a recording of {recording.seconds:.0f} seconds: " + "; ".join(facts) + "."


class Cascade:
    """A text model that is given a line of facts in the place of each recording; see `mllm.eval.respondents`."""

    def __init__(self, spec: str):
        """`spec`: as `TextModel` takes it."""
        self._model = TextModel(spec)
        self.name = f"cascade:{spec}"
        self.sha256 = hashlib.sha256(f"{self.name} {VERSION} {self._model.sha256}".encode()).hexdigest()
        self.at_once = self._model.at_once
        self._told: dict[str, str] = {}

    def answer(self, messages: Sequence[Messages], max_new_tokens: int) -> list[str | Failure]:
        """Greedy answers to conversations, in order; a recording that cannot be read is a Failure."""
        told = [self._tell(one) for one in messages]
        said = iter(self._model.answer([one for one in told if not isinstance(one, Failure)], max_new_tokens))
        return [one if isinstance(one, Failure) else next(said) for one in told]

    def _tell(self, messages: Messages) -> Messages | Failure:
        try:
            return [
                m if isinstance(m["content"], str) else m | {"content": [self._part(p) for p in m["content"]]}
                for m in messages
            ]
        except AudioError as error:
            return Failure(str(error))

    def _part(self, part: dict[str, Any]) -> dict[str, Any]:
        if part["type"] != "audio":
            return part
        sound = part["audio"]
        if sound.key not in self._told:
            self._told[sound.key] = heard(sound)
        return {"type": "text", "text": self._told[sound.key]}
