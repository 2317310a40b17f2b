"""Prompts with examples, made of the test clips: the same queries with 0 to 8 labelled clips before them.

They have the form of a build's `episode_*` rows, but every number of examples asks the same queries and shows the same
clips in the same order, so that curves over that number compare like with like.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mllm.eval.data import EvalClip, read_clips, rows_of_task
from mllm.eval.item import Item
from mllm.eval.task import EvalError, Facts, Messages, Verdict
from mllm.eval.tasks import instrument

LABELS = ("ordinary", "made-up", "changing")
"""The property's own words; invented words that always mean the same; invented words that mean anew in each prompt."""
VARIANTS = ("plain", "shuffled", "reversed")
"""As it is; labels of the examples that tell nothing; the same examples in the other order."""
WORDS = (
    "dovuz", "fanib", "gabov", "kedaz", "lirof", "mazub", "nevif", "pagoz", "ruvab", "sedif", "tofaz", "vakub",
    "zilaf", "bograz", "demif", "fulov", "garuz", "kinab", "lopif", "mubaz",
)  # fmt: skip
"""Invented words that mean anew each time, and those that always mean the same where the build has none."""
PROPERTIES: Mapping[str, tuple[str, Callable[[Facts], str | None]]] = {
    "metre": ("metre", lambda facts: facts.get("metre")),
    "instrument": ("instrument", lambda facts: instrument.truth(facts) if facts.get("instruments") else None),
    "mode": ("mode", lambda facts: facts["mode"] if facts.get("mode") in ("major", "minor") else None),
}
"""Property -> what a prompt calls it, and the value of a clip with these facts (None: it has no one value)."""
_TRIES = 200


@dataclass(frozen=True)
class Episode:
    """One query and the examples that may stand before it, before anything is called by a label.

    `shown`: clips with their values, most examples that are ever shown; the first k of them are shown with k.
    """

    number: int
    property: str
    classes: tuple[str, ...]
    shown: tuple[tuple[EvalClip, str], ...]
    query: EvalClip
    value: str
    noise: tuple[str, ...]
    """Values that the shuffled control takes for those of `shown`: within each class every value as often."""


def work(clip: EvalClip) -> str:
    """What the clip is a version of."""
    return str(clip.facts.get("tune_id") or clip.name)


def draw_episodes(
    data: Path, split: str, count: int, most_examples: int, classes: int = 2, seed: int = 0
) -> list[Episode]:
    """`count` episodes about the properties by turns; no work stands twice in one.

    Examples come in rounds of all classes, each round in an order of its own, so any number of them is as balanced as
    it can be. The query's class is drawn apart from them: no count and no place among the examples tells it.

    Raises EvalError where the clips of `split` are too few for that.
    """
    clips = read_clips(data, split)
    rounds = -(-most_examples // classes)
    pools: dict[str, dict[str, list[EvalClip]]] = {}
    for name, (_, value_of) in PROPERTIES.items():
        by_value: dict[str, list[EvalClip]] = {}
        for clip in clips:
            if (value := value_of(clip.facts)) is not None:
                by_value.setdefault(value, []).append(clip)
        enough = {v: c for v, c in sorted(by_value.items()) if len({work(clip) for clip in c}) > rounds}
        if len(enough) >= classes:
            pools[name] = enough
    if not pools:
        raise EvalError(
            f"{data}: no property has {classes} values with {rounds + 1} works each in the split {split!r}: "
            "give fewer --shots or another --data"
        )
    names = list(pools)
    return [_draw(i, names[i % len(names)], pools, rounds, most_examples, classes, seed) for i in range(count)]


def _draw(
    number: int,
    name: str,
    pools: Mapping[str, Mapping[str, list[EvalClip]]],
    rounds: int,
    most: int,
    classes: int,
    seed: int,
) -> Episode:
    rng = np.random.default_rng([seed, number])
    values = list(pools[name])
    chosen = tuple(values[int(i)] for i in rng.permutation(len(values))[:classes])
    order = [chosen[int(i)] for _ in range(rounds) for i in rng.permutation(classes)][:most]
    wanted = [*order, chosen[int(rng.integers(classes))]]
    for _ in range(_TRIES):
        found = [pools[name][value][int(rng.integers(len(pools[name][value])))] for value in wanted]
        if len({work(clip) for clip in found}) == len(found):
            break
    else:
        found = _without_repeats(wanted, pools[name], rng)
    start = {value: int(rng.integers(classes)) for value in chosen}
    seen = dict.fromkeys(chosen, 0)
    noise = []
    for value in order:
        noise.append(chosen[(start[value] + seen[value]) % classes])
        seen[value] += 1
    shown = tuple(zip(found[:-1], order, strict=True))
    return Episode(number, name, chosen, shown, found[-1], wanted[-1], tuple(noise))


def _without_repeats(
    wanted: Sequence[str], pool: Mapping[str, list[EvalClip]], rng: np.random.Generator
) -> list[EvalClip]:
    """Clips of the wanted values, drawn among the works that are still free."""
    found: list[EvalClip] = []
    for value in wanted:
        taken = {work(clip) for clip in found}
        free = [clip for clip in pool[value] if work(clip) not in taken]
        if not free:
            raise EvalError(f"too few works are {value}: give fewer --shots or another --data")
        found.append(free[int(rng.integers(len(free)))])
    return found


def fixed_words(data: Path, split: str) -> dict[tuple[str, str], str]:
    """(property, value) -> the invented word that always means it: the build's own episodes' where they have one.

    Training may have taught those words; the others are WORDS in the order of the values.
    """
    words: dict[tuple[str, str], str] = {}
    for row in rows_of_task(data, split, "episode_made_up".__eq__):
        facts = row.get("facts") or {}
        words |= {(facts["property"], value): word for value, word in (facts.get("mapping") or {}).items()}
    free = [word for word in WORDS if word not in words.values()]
    for name, (_, value_of) in PROPERTIES.items():
        values = sorted({value for clip in read_clips(data, split) if (value := value_of(clip.facts)) is not None})
        for i, value in enumerate(values):
            again, place = divmod(i, len(free))
            words.setdefault((name, value), free[place] + (free[again] if again else ""))
    return words


def labels_of(episode: Episode, kind: str, words: Mapping[tuple[str, str], str], seed: int = 0) -> dict[str, str]:
    """Value -> what it is called in the prompt, for a kind out of LABELS; `words`: see `fixed_words`."""
    if kind == "ordinary":
        return {value: value for value in episode.classes}
    if kind == "made-up":
        return {value: words[episode.property, value] for value in episode.classes}
    order = np.random.default_rng([seed, episode.number, 1]).permutation(len(WORDS))
    return {value: WORDS[int(i)] for value, i in zip(episode.classes, order, strict=False)}


def item_of(episode: Episode, kind: str, examples: int, variant: str, labels: Mapping[str, str], seed: int = 0) -> Item:
    """The question with `examples` examples before it."""
    what = PROPERTIES[episode.property][0]
    order = np.random.default_rng([seed, episode.number, 2]).permutation(len(episode.classes))
    listed = ", ".join(labels[episode.classes[int(i)]] for i in order)
    opening = f"Each piece has a label for its {what}: {listed}. Answer with the label only."
    question = f"Which label fits its {what}?"
    values = episode.noise if variant == "shuffled" else [value for _, value in episode.shown]
    shown = [(clip, labels[value]) for (clip, _), value in zip(episode.shown, values, strict=True)][:examples]
    if variant == "reversed":
        shown.reverse()
    talk: Messages = []
    for i, (clip, label) in enumerate([*shown, (episode.query, "")]):
        text = f"{opening} {question}" if i == 0 else question
        talk.append(
            {"role": "user", "content": [{"type": "audio", "audio": clip.path}, {"type": "text", "text": text}]}
        )
        talk.append({"role": "assistant", "content": label})
    return Item(
        id=f"{kind}/{variant}/{episode.number:04d}/{examples}", question=question, truth=labels[episode.value],
        audio=(episode.query.path,), messages=tuple(talk[:-1]), group=work(episode.query),
        strata={"shots": str(examples), "property": episode.property},
        meta={"labels": tuple(labels.values()), "shown": tuple(label for _, label in shown)},
    )  # fmt: skip


def read_label(answer: str, labels: Sequence[str]) -> str | None:
    """The one label that an answer is or names as a word; None where it names none or several."""
    said = f" {_plain(answer)} "
    named = [label for label in labels if f" {_plain(label)} " in said]
    # "string ensemble" does not also name "ensemble"
    whole = [label for label in named if not any(label != other and _plain(label) in _plain(other) for other in named)]
    return whole[0] if len(whole) == 1 else None


def _plain(text: str) -> str:
    return " ".join("".join(c if c.isalnum() or c == "/" else " " for c in text.casefold()).split())


def score(answer: str, item: Item) -> Verdict:
    """Right where the right label alone is named; extras say what was answered in its stead."""
    label, shown = read_label(answer, item.meta["labels"]), item.meta["shown"]
    extras: dict[str, float] = {}
    if shown:
        extras["a shown label, wrongly"] = float(label in shown and label != item.truth)
        extras["the last label shown"] = float(label == shown[-1])
        counts = sorted(((shown.count(one), one) for one in set(shown)), reverse=True)
        if len(counts) == 1 or counts[0][0] > counts[1][0]:
            extras["the commonest label shown"] = float(label == counts[0][1])
    return Verdict(label, float(label == item.truth), extras)
