"""The registry of makers: facts of a clip or score -> conversations of one question, and dialogues of several."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from mllm.data_recipes.choices import LETTERS, Pool, listed, options
from mllm.data_recipes.licences import DataError
from mllm.data_recipes.properties import PROPERTIES, Property
from mllm.data_recipes.row import FACTS, Turn
from mllm.data_recipes.templates import (
    NOUNS,
    Facts,
    agreeing,
    chord_name,
    clock,
    fill,
    in_number,
    known,
    needs,
    pick,
    round_tempo,
    with_article,
    wordings,
)
from mllm.data_recipes.timeline import TIMELINE, chord_at, other_chords
from mllm.data_recipes.unanswerable import CAN_TELL, VOICES, cannot_tell

Make = Callable[[Facts, np.random.Generator, Pool], list[Turn] | None]


@dataclass(frozen=True)
class Maker:
    """Asks one kind of question in one style.

    `make(facts, rng, pool)` gives the turns, or None where these facts do not let the question be asked after all.
    """

    name: str
    """`key.choice`: the task and the way it is asked."""
    needs: tuple[str, ...]
    """Names of FACTS that must be there."""
    style: str
    """short, sentence, json, choice, verify or honest."""
    make: Make
    difficulty: int = 1
    """1 what anyone hears, 2 what takes training, 3 what takes careful listening."""
    beside: tuple[str, ...] = ()
    """What its turns are about beside the facts it needs."""

    @property
    def task(self) -> str:
        """What is asked about; makers of one task ask the same in other ways."""
        return self.name.partition(".")[0]

    @property
    def about(self) -> set[str]:
        """The facts that its turns ask for or tell; makers that share one would repeat each other."""
        return {*self.needs, *self.beside, *(told for fact in self.needs for told in TELLS.get(fact, ()))}


TELLS = {"instruments": ("drums",), "roman": ("key",), "tags": ("genre", "mood")}
"""Fact -> others that an answer about it gives away."""


def _templated(task: str, style: str, facts: Facts, rng: np.random.Generator, pool: Pool) -> list[Turn] | None:
    words = wordings()[task][style]
    answer = fill(pick(words["answers"], rng), facts)
    return None if answer is None else [(pick(words["questions"], rng), answer)]


CHOICE_ENDINGS = (
    ("Answer with the letter.", "{letter}"),
    ("Give the letter only.", "{letter}"),
    ("Answer with letter and text.", "{letter}. {text}"),
)
"""What follows the options -> how the answer is given."""


def chosen(
    name: str, question: str, truth: str, others: Callable[[int], list[str]], rng: np.random.Generator, pool: Pool
) -> list[Turn] | None:
    """The question over options (see `choices.options`), answered by a letter; None where there is no wrong option."""
    found = options(name, truth, others, rng, pool)
    if found is None:
        return None
    texts, place = found
    ending, form = CHOICE_ENDINGS[int(rng.integers(len(CHOICE_ENDINGS)))]
    answer = form.format(letter=LETTERS[place], text=texts[place])
    return [(f"{question}\n{listed(texts)}\n{ending}", answer)]


def _choice(task: str, prop: Property, facts: Facts, rng: np.random.Generator, pool: Pool) -> list[Turn] | None:
    truth = prop.value(facts, rng)
    if truth is None:
        return None

    def others(count: int) -> list[str]:
        """Up to `count` wrong options."""
        return [in_number(prop.unit.format(v)) for v in prop.others(facts, truth, count, rng, pool.vocabulary)]

    question = pick(wordings()[task]["choice"], rng)
    return chosen(task, question, in_number(prop.unit.format(truth)), others, rng, pool)


def _chord_choice(facts: Facts, rng: np.random.Generator, pool: Pool) -> list[Turn] | None:
    found = chord_at(facts, rng)
    if found is None:
        return None
    question = pick(wordings()["chords"]["choice"], rng).format(time=clock(found[0]))
    return chosen("chords", question, chord_name(found[1]), lambda n: other_chords(found[1], n, rng), rng, pool)


def _verify(task: str, prop: Property, facts: Facts, rng: np.random.Generator, pool: Pool) -> list[Turn] | None:
    truth = prop.value(facts, rng)
    wrong = [] if truth is None else prop.others(facts, truth, 1, rng, pool.vocabulary)
    # Asked only where a wrong value could have stood there too, else a question alone would say yes.
    if truth is None or not wrong:
        return None
    yes = pool.deal(f"verify {task}", 2) == 0
    value = truth if yes else wrong[0]
    given = {"value": NOUNS.get(value, value), "value_words": with_article(value), "truth": NOUNS.get(truth, truth)}
    words = wordings()[task]["verify"]
    question = agreeing(pick(words["questions"], rng), value).format(**given)
    if rng.random() < 0.5:
        return [(f"{question} Answer yes or no.", "Yes." if yes else "No.")]
    answer = fill(pick(words["yes" if yes else "no"], rng), facts, **given)
    return None if answer is None else [(question, answer)]


@dataclass(frozen=True)
class _JsonField:
    needs: str
    schema: Mapping[str, Any]
    says: str
    value: Callable[[Facts], Any]


_STRINGS = {"type": "array", "items": {"type": "string"}}
JSON_FIELDS: dict[str, _JsonField] = {
    "instruments": _JsonField("instruments", _STRINGS, "list of strings", lambda f: list(f["instruments"])),
    "key": _JsonField("key", {"type": "string"}, "string, tonic and mode", lambda f: f["key"]),
    # The number that sentences say: rows about one recording may be joined into one dialogue for training.
    "tempo": _JsonField(
        "tempo",
        {"type": "integer", "description": "BPM, the nearest metronome mark"},
        "integer, BPM of the nearest metronome mark",
        lambda f: round_tempo(f["tempo"]),
    ),
    "metre": _JsonField("metre", {"type": "string"}, "string, as 3/4", lambda f: f["metre"]),
    "texture": _JsonField("texture", {"type": "string"}, "string", lambda f: f["texture"]),
    "drums": _JsonField("drums", {"type": "boolean"}, "boolean", lambda f: bool(f["drums"])),
    "bars": _JsonField("bars", {"type": "integer"}, "integer", lambda f: int(f["bars"])),
    "lowest": _JsonField("lowest", {"type": "string"}, "string, lowest melody note", lambda f: f["lowest"]),
    "highest": _JsonField("highest", {"type": "string"}, "string, highest melody note", lambda f: f["highest"]),
    "contour": _JsonField("contour", {"type": "string"}, "string, contour of the melody", lambda f: f["contour"]),
    "genre": _JsonField("genre", {"type": "string"}, "string", lambda f: f["genre"]),
    "tags": _JsonField("tags", _STRINGS, "list of strings", lambda f: list(f["tags"])),
    "sections": _JsonField("sections", _STRINGS, "list of labels", lambda f: [s["label"] for s in f["sections"]]),
}
"""Field of a JSON answer -> the fact it needs, its schema, how a question says it, its value."""
_TASK_FIELDS = {"instrument": "instruments", "melody_lowest": "lowest", "melody_highest": "highest",
                "melody_contour": "contour"}  # fmt: skip
"""Task -> field of JSON, where their names differ."""


def _as_json(names: Sequence[str], facts: Facts) -> str:
    return json.dumps({name: JSON_FIELDS[name].value(facts) for name in names}, ensure_ascii=False)


def _said_fields(names: Sequence[str]) -> str:
    return ", ".join(f'"{name}" ({JSON_FIELDS[name].says})' for name in names)


def json_schema(names: Sequence[str]) -> dict[str, Any]:
    """The JSON Schema (2020-12) of an object with exactly these fields of JSON_FIELDS."""
    properties = {name: JSON_FIELDS[name].schema for name in names}
    return {"type": "object", "properties": properties, "required": list(names), "additionalProperties": False}


def _json(kind: str, facts: Facts, rng: np.random.Generator, pool: Pool) -> list[Turn] | None:
    ready = [name for name, field in JSON_FIELDS.items() if field.needs in facts]
    if not ready:
        return None
    count = int(rng.integers(1, min(5, len(ready)) + 1))
    names = [ready[int(i)] for i in rng.permutation(len(ready))[:count]]
    fields = _said_fields(names) if kind == "listed" else json.dumps(json_schema(names))
    return [(pick(wordings()["json"][kind], rng).format(fields=fields), _as_json(names, facts))]


def _all() -> Iterator[Maker]:
    for task, entry in wordings().items():
        difficulty = entry.get("difficulty", 1)
        for style in ("short", "sentence"):
            if style in entry:
                read = needs(entry[style]["answers"])
                yield Maker(f"{task}.{style}", read, style, partial(_templated, task, style), difficulty)
        for style, ask in (("choice", _choice), ("verify", _verify)):
            if task in PROPERTIES and style in entry:
                prop = PROPERTIES[task]
                yield Maker(f"{task}.{style}", prop.needs, style, partial(ask, task, prop), difficulty)
    for name, (read, style, make) in TIMELINE.items():
        yield Maker(name, read, style, make, wordings()[name.partition(".")[0]]["difficulty"])
    yield Maker("chords.choice", ("chords",), "choice", _chord_choice, 3)
    for kind in ("listed", "schema"):
        yield Maker(f"json.{kind}", (), "json", partial(_json, kind), wordings()["json"]["difficulty"])
    yield Maker("cannot_tell", (), "honest", cannot_tell, 2, VOICES)
    for kind, (read, make, beside) in CAN_TELL.items():
        yield Maker(f"can_tell.{kind}", read, "honest", make, 2, beside)


MAKERS: dict[str, Maker] = {maker.name: maker for maker in _all()}
"""Name -> maker."""
assert all(set(maker.needs) <= set(FACTS) for maker in MAKERS.values())


def chosen_makers(only: Sequence[str] = ()) -> list[Maker]:
    """The makers that `only` names, by task (`key`) or by name (`key.choice`); all where it names none.

    Raises DataError for a name that is neither.
    """
    tasks = {maker.task for maker in MAKERS.values()}
    if unknown := [name for name in only if name not in MAKERS and name not in tasks]:
        raise DataError(f"no maker asks {unknown[0]!r}; known tasks: {', '.join(sorted(tasks))}")
    return [m for m in MAKERS.values() if not only or m.name in only or m.task in only]


def make_turns(
    facts: Mapping[str, Any], rng: np.random.Generator, only: Sequence[str] = (), pool: Pool | None = None
) -> list[tuple[str, str, list[Turn]]]:
    """(task, style, turns) of every maker whose needed facts are there, in the order of MAKERS.

    Args:
        facts: see `row.FACTS`; what is not there is not asked about, title and composer never are.
        only: tasks or names of makers; empty means all. Raises DataError for an unknown one.
        pool: the decks of a run, which balance its answers; without one this call stands alone.
    """
    usable = known(facts)
    pool = pool or Pool(int(rng.integers(2**31)))
    made = []
    for maker in chosen_makers(only):
        if all(name in usable for name in maker.needs) and (turns := maker.make(usable, rng, pool)):
            made.append((maker.task, maker.style, turns))
    return made


def draw_turns(
    facts: Mapping[str, Any],
    rng: np.random.Generator,
    count: int,
    only: Sequence[str] = (),
    pool: Pool | None = None,
) -> list[tuple[str, str, list[Turn]]]:
    """As `make_turns`, of `count` makers: of as many tasks as there are, then of other styles of these.

    Only what is drawn is made, so the decks of `pool` stay balanced over what a run keeps.
    """
    usable = known(facts)
    pool = pool or Pool(int(rng.integers(2**31)))
    by_task: dict[str, list[Maker]] = {}
    makers = [m for m in chosen_makers(only) if all(name in usable for name in m.needs)]
    for i in rng.permutation(len(makers)):
        by_task.setdefault(makers[int(i)].task, []).append(makers[int(i)])
    tasks = [list(by_task)[int(i)] for i in rng.permutation(len(by_task))]
    made: list[tuple[str, str, list[Turn]]] = []
    while any(by_task.values()):
        for task in tasks:
            if len(made) == count:
                return made
            while by_task[task]:
                maker = by_task[task].pop()
                if turns := maker.make(usable, rng, pool):
                    made.append((task, maker.style, turns))
                    break
    return made


OPENERS = ("describe", "caption")
"""Tasks that may only open a dialogue: later they would repeat what was said."""
_FOLLOW, _RECAP = 0.6, 0.35


def dialogue(
    facts: Mapping[str, Any],
    rng: np.random.Generator,
    turns: int | None = None,
    only: Sequence[str] = (),
    pool: Pool | None = None,
) -> list[Turn] | None:
    """Several turns about one clip in mixed styles; none asks for a fact that an earlier one asked for or told.

    Later turns may lean on earlier ones, and the last may ask to put what was said into JSON.

    Args:
        facts, only, pool: as for `make_turns`.
        turns: how many, 2 to 6; drawn where not given. Fewer come where the facts do not carry so many.

    Returns:
        The turns, or None where not even two can be made.
    """
    wanted = int(rng.integers(2, 7)) if turns is None else turns
    if not 2 <= wanted <= 6:
        raise DataError(f"a dialogue has 2 to 6 turns, not {wanted}")
    usable = known(facts)
    pool = pool or Pool(int(rng.integers(2**31)))
    by_task: dict[str, list[Maker]] = {}
    for maker in chosen_makers(only):
        if maker.style != "json" and all(name in usable for name in maker.needs):
            by_task.setdefault(maker.task, []).append(maker)
    tasks = list(by_task)
    recap = wanted >= 3 and rng.random() < _RECAP
    out: list[Turn] = []
    asked: list[str] = []
    told: set[str] = set()
    for i in rng.permutation(len(tasks)):
        task = tasks[int(i)]
        if len(out) == wanted - recap:
            break
        if out and task in OPENERS:
            continue
        fresh = [maker for maker in by_task[task] if not maker.about & told]
        if not fresh:
            continue
        maker = fresh[int(rng.integers(len(fresh)))]
        made = maker.make(usable, rng, pool)
        if not made:
            continue
        told |= maker.about
        question, answer = made[0]
        follow = wordings().get(task, {}).get("follow")
        if out and follow and maker.style == "short" and rng.random() < _FOLLOW:
            question = pick(follow, rng)
        out.append((question, answer))
        asked.append(task)
    fields = [f for f in (_TASK_FIELDS.get(t, t) for t in asked) if f in JSON_FIELDS and JSON_FIELDS[f].needs in usable]
    if recap and len(fields) >= 2:
        question = pick(wordings()["json"]["recap"], rng)
        names = f"{', '.join(fields[:-1])} and {fields[-1]}"
        out.append((question.format(names=names, fields=_said_fields(fields)), _as_json(fields, usable)))
    return out if len(out) >= 2 else None
