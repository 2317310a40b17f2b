"""Questions about the bars of a score: counting, comparing, locating, errors, what comes next, form."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np

from mllm.data_recipes.choices import Pool
from mllm.data_recipes.score_changes import spoiled, varied
from mllm.data_recipes.score_passages import TRIES, Passage, letter, melody
from mllm.data_recipes.score_questions import Question, bar_question, drawn
from mllm.data_recipes.score_rows import Written, fills_its_bars, melody_of, written
from mllm.score import Key, transpose


def count_notes(it: Passage, rng: np.random.Generator, pool: Pool) -> Question | None:
    """How many notes one bar (easy) or the whole score holds; rests are none."""
    bar = int(rng.integers(it.bars))
    count = len(it.by_bar[bar]) if it.level == "easy" else len(it.score.notes)
    where = f"in bar {bar + 1}" if it.level == "easy" else "in the whole score"
    near = [str(n) for n in range(max(1, count - 4), count + 5) if n != count]
    return Question(str(count), it.level, (it.text.text,), {"where": where}, drawn(near), value=count)


def count_pitch(it: Passage, rng: np.random.Generator, pool: Pool) -> Question | None:
    """How many notes have a name, in any octave; the name is one of the passage, or (one in six) another of the key."""
    found = Counter(letter(name) for name in it.names)
    scale = [letter(it.key.spell(p)) for p in range(60, 72) if _in_key(p, it.key)]
    absent = [name for name in scale if name not in found]
    names = absent if absent and pool.deal("absent pitch", 6) == 0 else sorted(found)
    note = names[int(rng.integers(len(names)))]
    near = [str(n) for n in range(max(0, found[note] - 3), found[note] + 4) if n != found[note]]
    return Question(str(found[note]), it.level, (it.text.text,), {"note": note}, drawn(near), value=found[note])


def _in_key(pitch: int, key: Key) -> bool:
    """Whether a MIDI pitch lies in the key signature: seven neighbours on the line of fifths."""
    return pitch % 12 in {(key.signature + i) * 7 % 12 for i in range(-1, 6)}


MEASURES: dict[str, Callable[[Passage, list[int]], float]] = {
    "has more notes": lambda it, some: len(some),
    "has fewer notes": lambda it, some: -len(some),
    "goes higher": lambda it, some: max(it.score.notes[i].pitch for i in some),
    "goes lower": lambda it, some: -min(it.score.notes[i].pitch for i in some),
}
"""What two bars are compared by -> the number that is larger in the right one."""
EXTREMES: dict[str, Callable[[Passage, list[int]], float]] = {
    "the most notes": MEASURES["has more notes"],
    "the fewest notes": MEASURES["has fewer notes"],
    "the highest note": MEASURES["goes higher"],
    "the lowest note": MEASURES["goes lower"],
    "the longest note": lambda it, some: max(it.score.notes[i].duration for i in some),
    "the shortest note": lambda it, some: -min(it.score.notes[i].duration for i in some),
}
"""What one bar alone has -> the number that is largest in it."""


def compare(it: Passage, rng: np.random.Generator, pool: Pool) -> Question | None:
    """Which of two bars has more or fewer notes, or goes higher or lower; equal ones are not compared."""
    what = list(MEASURES)[int(rng.integers(len(MEASURES)))]
    sizes = [MEASURES[what](it, some) for some in it.by_bar]
    pairs = [(a, b) for a in range(it.bars) for b in range(it.bars) if sizes[a] > sizes[b]]
    if not pairs:
        return None
    right, wrong = pairs[int(rng.integers(len(pairs)))]
    a, b = (right, wrong) if pool.deal("compare", 2) else (wrong, right)
    given = {"what": what, "a": str(a + 1), "b": str(b + 1)}
    scores, false = (it.text.text,), drawn([f"bar {wrong + 1}"])
    return Question(f"bar {right + 1}", it.level, scores, given, false, value=right + 1, facts={"what": what})


def locate(it: Passage, rng: np.random.Generator, pool: Pool) -> Question | None:
    """The one bar that has the highest note, the most notes, and so on; asked where no other bar has as much."""
    what = list(EXTREMES)[int(rng.integers(len(EXTREMES)))]
    sizes = [EXTREMES[what](it, some) for some in it.by_bar]
    if sizes.count(max(sizes)) > 1:
        return None
    bar = sizes.index(max(sizes)) + 1
    return bar_question(bar, it.bars, it.level, (it.text.text,), given={"what": what}, facts={"what": what})


def _spoiled(it: Passage, rng: np.random.Generator) -> list[Written] | None:
    """For each bar the text in which it is too long or too short by one note or rest; None where a bar cannot be."""
    out = []
    for b, bar in enumerate(it.text.bars):
        wrong = spoiled(bar, bool(rng.integers(2)), rng)
        if wrong is None:
            return None
        out.append(replace(it.text, bars=(*it.text.bars[:b], wrong, *it.text.bars[b + 1 :])))
    return out


def bar_error(it: Passage, rng: np.random.Generator, pool: Pool) -> Question | None:
    """Which bar does not add up to the metre: all others do, so it can be told by counting."""
    wrong = _spoiled(it, rng)
    if wrong is None:
        return None
    bar = pool.deal("wrong bar", it.bars)
    return bar_question(bar + 1, it.bars, it.level, (wrong[bar].text,), given={"metre": it.metre})


def _yes_no(yes: bool, level: str, scores: tuple[str, ...], **more: Any) -> Question:
    return Question("yes" if yes else "no", level, scores, value=yes, **more)


def bar_sum(it: Passage, rng: np.random.Generator, pool: Pool) -> Question | None:
    """Whether every bar adds up to the metre; half of the scores have one bar that does not."""
    wrong = _spoiled(it, rng)
    if wrong is None:
        return None
    yes, bar = pool.deal("bar sum", 2) == 0, int(rng.integers(it.bars))
    text = it.text if yes else wrong[bar]
    facts = {"wrong_bar": None if yes else bar + 1}
    return _yes_no(yes, it.level, (text.text,), given={"metre": it.metre}, facts=facts)


def wrong_note(it: Passage, rng: np.random.Generator, pool: Pool) -> Question | None:
    """In which bar score B differs from score A, where A is right: exactly one bar has other notes."""
    bar = pool.deal("wrong note", it.bars)
    other = transpose(melody_of(varied(it.content, [bar], it.tune, rng), it.tune), it.shift)
    return bar_question(bar + 1, it.bars, it.level, (it.text.text, written(other).text))


def next_bar(it: Passage, rng: np.random.Generator, pool: Pool) -> Question | None:
    """Which bar of the tune comes next, among three or four of its bars as ABC.

    No wrong bar equals the true one, and none follows the last shown bar anywhere in the tune.
    """
    before, truth = it.content[:-1], it.content[-1]
    head = transpose(melody_of(before, it.tune), it.shift)
    if not fills_its_bars(head, it.bars - 1):
        return None
    follow = [b for run in it.tune.runs for a, b in pairwise(run) if melody(a) == melody(before[-1])]
    false: dict[str, None] = {}
    for run in it.tune.runs:
        for bar in run:
            if melody(bar) == melody(truth) or any(melody(bar) == melody(b) for b in follow):
                continue
            text = written(transpose(melody_of([*before, bar], it.tune), it.shift))
            if text.head == it.text.head and len(text.bars) == it.bars:
                false[text.bars[-1]] = None
    right, shown = it.text.bars[-1], written(head)
    wrong = [bar for bar in false if bar != right]
    # Hard: bars of about as many notes.
    if it.level == "hard":
        wrong = sorted(wrong, key=lambda bar: (abs(len(bar.split()) - len(right.split())), bar))[:6]
    count = 2 + int(rng.integers(2))
    if len(wrong) < count or shown.head != it.text.head:
        return None
    draws = [[wrong[int(i)] for i in rng.permutation(len(wrong))[:count]] for _ in range(TRIES)]
    others = pool.fairest("next bar", right, draws)
    place = pool.deal("next bar", count + 1)
    options = (*others[:place], right, *others[place:])
    return Question(right, it.level, (shown.text,), options=options, place=place)


FORM_UNITS = {"easy": 1, "medium": 2, "hard": 1}
"""Level -> bars of a part of the form."""


def form(it: Passage, rng: np.random.Generator, pool: Pool) -> Question | None:
    """A letter a part of one or two bars: the same letter for exactly the same notes, new letters in order.

    Most have a part that comes back: passages without one are taken only now and then.
    """
    unit = FORM_UNITS[it.level]
    parts = [[melody(bar) for bar in it.content[i : i + unit]] for i in range(0, it.bars, unit)]
    kinds: list[list[Any]] = []
    for part in parts:
        if part not in kinds:
            kinds.append(part)
    if len(kinds) == len(parts) and rng.random() < 0.99:
        return None
    answer = " ".join("ABCDEFGH"[kinds.index(part)] for part in parts)
    given = {"unit": "one bar" if unit == 1 else f"{unit} bars"}
    return Question(answer, it.level, (it.text.text,), given, value=answer)
