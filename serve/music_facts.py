"""`response_format: {"type": "music_facts"}`: what is to be known of a piece, as JSON of one schema.

A score says its facts exactly: they have confidence 1 and the source "score". Of a recording each fact is one question
to the model, in the words that it was taught; an answer that is no such fact is null, and the confidence of one that is
is the probability that the model gave to just these words. It is the model's own, and no share of being right.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from mllm.chord_symbols import is_chord_symbol
from mllm.claim_words import INSTRUMENTS
from mllm.errors import ScoreError
from mllm.score import Score
from mllm.score_checks import felt_beat
from mllm.score_types import Key
from mllm.serve.generation import GenerationRequest

Source = Literal["score", "model"]


class _Fact(BaseModel):
    model_config = ConfigDict(extra="forbid")
    confidence: float
    """0 to 1."""
    source: Source


class KeyFact(_Fact):
    """Tonic and mode."""

    value: str
    """Such as `F# minor`."""


class TempoFact(_Fact):
    """The beat."""

    bpm: float
    """Beats a minute; the beat of 6/8 is a dotted quarter."""


class MetreFact(_Fact):
    """The time signature."""

    value: str
    """Such as `6/8`."""


class InstrumentFact(_Fact):
    """Something that plays."""

    name: str


class SectionFact(_Fact):
    """A part of the form."""

    label: str
    start: float
    """Seconds."""
    end: float | None
    """Seconds; null where the piece ends with it."""


class ChordFact(_Fact):
    """A chord, in the order in which they sound."""

    chord: str
    start: float | None
    """Seconds; null where only the order is known."""


class MusicFacts(BaseModel):
    """The facts of one piece; null is what cannot be told."""

    model_config = ConfigDict(extra="forbid")
    key: KeyFact | None
    tempo: TempoFact | None
    metre: MetreFact | None
    instruments: list[InstrumentFact] | None
    sections: list[SectionFact] | None
    chords: list[ChordFact] | None


@dataclass(frozen=True)
class Question:
    """What a model is asked for a fact, and how its answer is read: None where it is no such fact."""

    words: str
    read: Callable[[str, dict[str, Any]], Any]
    max_tokens: int = 16


def _read_key(text: str, how: dict[str, Any]) -> KeyFact | None:
    try:
        tonic, mode = text.split()
        return KeyFact(value=Key(tonic, mode).name, **how)
    except (ValueError, ScoreError):
        return None


def _read_tempo(text: str, how: dict[str, Any]) -> TempoFact | None:
    match = re.fullmatch(r"(?:about |around )?(\d{2,3}(?:\.\d+)?)(?: ?(?:BPM|bpm|beats (?:a|per) minute))?", text)
    return TempoFact(bpm=float(match[1]), **how) if match and 20 <= float(match[1]) <= 400 else None


def _read_metre(text: str, how: dict[str, Any]) -> MetreFact | None:
    return MetreFact(value=text, **how) if re.fullmatch(r"(?:[1-9]|1\d)/(?:1|2|4|8|16)", text) else None


def _read_instruments(text: str, how: dict[str, Any]) -> list[InstrumentFact] | None:
    names = list(dict.fromkeys(name.strip() for name in re.split(r",| and ", text)))
    words = [re.findall(r"[a-z]+", name.lower()) for name in names]
    known = all(any(w in _INSTRUMENT_WORDS for w in of_name) and len(of_name) <= 4 for of_name in words)
    return [InstrumentFact(name=name, **how) for name in names] if known and len(names) <= 16 else None


def _read_sections(text: str, how: dict[str, Any]) -> list[SectionFact] | None:
    rows = [re.fullmatch(r"(\d+):([0-5]\d) ([\w' -]{1,40})", row.strip()) for row in text.split(",")]
    starts = [int(row[1]) * 60.0 + int(row[2]) for row in rows if row]
    if len(starts) < len(rows) or len(rows) < 2 or starts != sorted(set(starts)):
        return None
    ends = [*starts[1:], None]
    return [
        SectionFact(label=row[3].strip(), start=start, end=end, **how)
        for row, start, end in zip(rows, starts, ends, strict=True)
        if row
    ]


def _read_chords(text: str, how: dict[str, Any]) -> list[ChordFact] | None:
    names = [name.strip() for name in re.split(r",|\s-\s", text)]
    # "A3" is a note with its octave, not a chord.
    if not all(
        is_chord_symbol(name.replace(":", "")) and not re.fullmatch(r"[A-G][#b]?[0-48]", name) for name in names
    ):
        return None
    return [ChordFact(chord=name, start=None, **how) for name in names]


_INSTRUMENT_WORDS = {word for name in INSTRUMENTS for word in re.findall(r"[a-z]+", name.lower())}
QUESTIONS: dict[str, Question] = {
    "key": Question("What key is this in?", _read_key),
    "tempo": Question("What is the tempo?", _read_tempo),
    "metre": Question("What is the metre?", _read_metre),
    "instruments": Question("Which instruments play in this clip?", _read_instruments, 32),
    "sections": Question("List the sections with their starting times.", _read_sections, 96),
    "chords": Question("List the chords in order.", _read_chords, 96),
}


def requests_for(audio: bytes, client: str, seconds: float) -> list[GenerationRequest]:
    """One for each of `QUESTIONS`, in their order; the recording comes first in all, so it is read once."""
    return [
        GenerationRequest(
            messages=[
                {
                    "role": "user",
                    "content": [{"type": "audio", "audio": audio}, {"type": "text", "text": question.words}],
                }
            ],
            max_tokens=question.max_tokens,
            top_logprobs=0,
            seconds=seconds,
            client=client,
        )
        for question in QUESTIONS.values()
    ]


def read_answers(answers: Sequence[tuple[str, Sequence[float], bool]]) -> MusicFacts:
    """The facts of a recording.

    Args:
        answers: text, logarithms of probability of its tokens, and whether it was complete, for each of `QUESTIONS`.
    """
    found: dict[str, Any] = {}
    for (name, question), (text, logprobs, complete) in zip(QUESTIONS.items(), answers, strict=True):
        how = {"confidence": round(math.exp(min(sum(logprobs), 0.0)), 4), "source": "model"}
        found[name] = question.read(text.strip().rstrip("."), how) if complete else None
    return MusicFacts(**found)


def facts_of_score(score: Score) -> MusicFacts:
    """What a score says; sections are not written in it."""
    how: dict[str, Any] = {"confidence": 1.0, "source": "score"}
    names = list(dict.fromkeys(name for name in score.instruments if name))
    steady = 60 / score.tempo if score.tempo and not score.tempos else None  # seconds a quarter
    return MusicFacts(
        key=KeyFact(value=score.key.name, **how) if score.key else None,
        tempo=TempoFact(bpm=round(score.tempo / felt_beat(score.metre), 2), **how) if score.tempo else None,
        metre=MetreFact(value=f"{score.metre[0]}/{score.metre[1]}", **how) if score.metre else None,
        instruments=[InstrumentFact(name=name, **how) for name in names] or None,
        sections=None,
        chords=[
            ChordFact(chord=c.text, start=round(c.onset * steady, 3) if steady else None, **how) for c in score.chords
        ]
        or None,
    )
