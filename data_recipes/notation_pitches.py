"""Questions about the pitches of a score: transposition, inversion, retrograde, intervals, key."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from mllm.data_recipes.choices import Pool
from mllm.data_recipes.properties import PROPERTIES
from mllm.data_recipes.score_changes import inverted, retrograde
from mllm.data_recipes.score_passages import Passage, letter
from mllm.data_recipes.score_questions import Question, drawn
from mllm.data_recipes.score_rows import fills_its_bars, written
from mllm.data_recipes.theory import LETTERS, QUALITIES, interval
from mllm.data_recipes.tune import analysed_key
from mllm.score import Key, Score, transpose

STEPS = {fifths * 7 % 12: name for fifths, name in QUALITIES.items() if abs(fifths) < 6}
"""Semitones inside an octave -> the interval, without the tritone, which has two names."""
RELATIONS = ("transposition", "inversion", "retrograde", "retrograde inversion")


def _step(rng: np.random.Generator) -> int:
    steps = [s for s in STEPS if s]
    return steps[int(rng.integers(len(steps)))] * (1 if rng.random() < 0.5 else -1)


def _direction(step: int) -> str:
    return f"{'up' if step > 0 else 'down'} a {STEPS[abs(step)]}"


def ask_transpose(it: Passage, rng: np.random.Generator, pool: Pool) -> Question | None:
    """The passage an interval (less than an octave) higher or lower, written in the key that the question names."""
    step = _step(rng)
    new = written(transpose(it.score, step))
    if new.head.split("\nK:")[0] != it.text.head.split("\nK:")[0]:
        return None
    given = {"interval": _direction(step), "key": it.key.transpose(step).name}
    return Question(new.body, it.level, (it.text.text,), given, facts={"semitones": step, "head": new.head})


def transposed_by(it: Passage, rng: np.random.Generator, pool: Pool) -> Question | None:
    """By which interval score B lies above or below score A."""
    step = _step(rng)
    other = written(transpose(it.score, step)).text
    false = [_direction(s * sign) for s in STEPS for sign in (1, -1) if s and s * sign != step]
    facts = {"semitones": step}
    answer = _direction(step)
    return Question(answer, it.level, (it.text.text, other), others=drawn(false), value=answer, facts=facts)


def changed(change: Callable[[Score], Score], it: Passage, rng: np.random.Generator, pool: Pool) -> Question | None:
    """The passage changed by rule and written under the same header."""
    new = written(change(it.score))
    if new.head != it.text.head or len(new.bars) != it.bars or not fills_its_bars(change(it.score), it.bars):
        return None
    first = it.names[0]
    return Question(new.body, it.level, (it.text.text,), {"first": first}, facts={"head": new.head})


def relation(it: Passage, rng: np.random.Generator, pool: Pool) -> Question | None:
    """How score B comes from score A: by transposition, inversion, retrograde or both of these.

    Asked where no two of the four give the same melody, in whatever key.
    """
    moves = (-5, -3, -2, 2, 3, 5, 7)
    made = {
        "transposition": transpose(it.score, moves[int(rng.integers(len(moves)))]),
        "inversion": inverted(it.score),
        "retrograde": retrograde(it.score),
        "retrograde inversion": retrograde(inverted(it.score)),
    }
    shapes = [_shape(score) for score in made.values()]
    whole = all(fills_its_bars(score, it.bars) for score in made.values())
    if not whole or any(shapes.count(shape) > 1 for shape in shapes):
        return None
    answer = RELATIONS[pool.deal(f"relation {it.level}", len(RELATIONS))]
    new = made[answer]
    false = drawn([r for r in RELATIONS if r != answer])
    return Question(answer, it.level, (it.text.text, written(new).text), others=false, value=answer)


def _shape(score: Score) -> tuple[Any, ...]:
    first = score.notes[0].pitch
    return tuple((round(n.onset, 4), round(n.duration, 4), n.pitch - first) for n in score.notes)


def fifths_of(name: str) -> int:
    """The place of a note's name on the line of fifths, 0 = F, as `theory.spell` counts."""
    return LETTERS.index(name[0]) + 7 * (name.count("#", 1) - name.count("b", 1))


def ask_interval(it: Passage, rng: np.random.Generator, pool: Pool) -> Question | None:
    """The interval from one note of a bar to the next: its name as it is spelled, and whether it rises or falls.

    Not asked of repeated notes, of more than an octave, and of augmented or diminished ones beside the tritone.
    """
    bar = int(rng.integers(it.bars))
    some = it.by_bar[bar]
    if len(some) < 2:
        return None
    at = int(rng.integers(len(some) - 1))
    a, b = some[at], some[at + 1]
    size = it.score.notes[b].pitch - it.score.notes[a].pitch
    low, high = (a, b) if size > 0 else (b, a)
    if not 0 < abs(size) <= 12:
        return None
    try:
        name = interval(fifths_of(letter(it.names[low])), fifths_of(letter(it.names[high])))
    except KeyError:
        return None
    name = "perfect octave" if name == "perfect unison" else name
    answer = f"{'rising' if size > 0 else 'falling'} {name}"
    given = {"bar": str(bar + 1), "a": str(at + 1), "b": str(at + 2)}
    false = [f"{way} {other}" for way in ("rising", "falling") for other in QUALITIES.values() if "unison" not in other]
    others = drawn([f for f in false if f != answer])
    facts = {"semitones": size}
    return Question(answer, it.level, (it.text.text,), given, others, value=answer, facts=facts)


def ask_signature(it: Passage, rng: np.random.Generator, pool: Pool) -> Question | None:
    """How many sharps or flats the header's key has."""
    count = it.key.signature
    said = [f"{abs(n)} {'sharp' if n > 0 else 'flat'}{'s' * (abs(n) > 1)}" if n else "none" for n in range(-7, 8)]
    answer = said[count + 7]
    false = drawn([s for s in said if s != answer])
    return Question(answer, it.level, (it.text.text,), others=false, value=answer, facts={"sharps": count})


def ask_key(it: Passage, rng: np.random.Generator, pool: Pool) -> Question | None:
    """The key of the end of a tune written without a key, every accidental at its note; the collection's key is true.

    Asked where it can be told: the last note is the tonic, D. Temperley's profiles (`tune.analysed_key`) find the same
    key in these bars alone, and no note is spelled otherwise than in the key.
    """
    notes = [(n.onset, n.duration, n.pitch, 0) for n in it.score.notes]
    ends = it.first + it.bars == len(it.tune.runs[it.run])
    if not ends or notes[-1][2] % 12 != it.key.pitch_class:
        return None
    if analysed_key(notes, ("major", "minor", "dorian", "mixolydian")) != (it.key.pitch_class, it.key.mode):
        return None
    if any(Key("C").spell(n.pitch) != name for n, name in zip(it.score.notes, it.names, strict=True)):
        return None
    text = written(replace(it.score, key=None)).text
    truth, facts = it.key.name, {"key": it.key.name}

    def others(count: int, rng: np.random.Generator) -> list[str]:
        return PROPERTIES["key"].others(facts, truth, count, rng, {})

    return Question(truth, it.level, (text,), others=others, value=truth, facts=facts)
