"""In-context episodes: labelled clips and scores as examples, then one to label: the labels must be learnt there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mllm.data_recipes.licences import DataError
from mllm.data_recipes.plan import seed_of
from mllm.data_recipes.properties import PROPERTIES
from mllm.data_recipes.row import Item, Message
from mllm.data_recipes.templates import known, pick
from mllm.errors import MllmError
from mllm.score import facts as score_facts
from mllm.score import read_score

LABEL_KINDS = ("ordinary", "made-up", "changing")
"""The property's own words; invented words that always mean the same; invented words that mean anew each time."""
EPISODE_PROPERTIES = {
    "instrument": "instrument",
    "mode": "mode",
    "metre": "metre",
    "tempo_class": "tempo",
    "melody_contour": "contour of the melody",
    "texture": "texture",
    "drums": "use of drums",
    "genre": "genre",
    "valence": "valence",
    "arousal": "energy",
}
"""Property of `PROPERTIES` -> what an instruction calls it."""
MOST_EXAMPLES = 8
_MOST_LABELS = 4
_TRIES = 60

# Words of music that no made-up label may hold.
_MUSIC = frozenset(
    """
    alto aria band bass beat bell brass cello chor clef coda dance disco dolce doom drum duet duo fado folk forte
    fugue funk gamba gig harp horn jazz kazoo koto lento lute lyra lyre mass mele metal mezzo mode mood motet music
    nota oboe opera opus organ paso piano polka pop rap raga rest riff rock rondo rumba salsa samba sax sega sitar
    solo sona song soul tabla tala tango tempo tenor toccata tonal tone trio tuba tune tutti vals vina viol viola
    vivo voce waltz zither bar bis key lay lied pipe reed fife flat slur time rit ped tacet
    """.split()
)
# Words of English, beside those of music, that these syllables make: few, by the endings below.
_ENGLISH = frozenset(
    """
    bedub begob benab berob daraf demob dorab kabob kafiz kalif karob kebab kebob kenaf kitab lanaz lulab metif motif
    nabob namaz nasab ninib polab rebab rebob redif redub rerob rerub saraf sarif serab serif taraf topaz zebub
    """.split()
)
# Stems of slurs and coarse words in the languages of Europe: what holds one is thrown away, harmless or not.
_REFUSED = tuple(
    """
    dag dik dup fag fat feg fif fik fod fot fuf fuk fut gip god kaf kak kik kok kon kul kum kun kur lez lol mof mon mor
    naz neg nig nob nud pak ped pen pik pis piz pol pub pup pus put rap sat sod suk sux tar tit vag vul zig zob
    """.split()
)
# Hardly a word of English ends like these.
_CONSONANTS, _VOWELS, _LAST_VOWELS, _ENDS = "bdfgklmnprstvz", "aeiou", "aiou", "bfvz"

QUESTIONS = {
    True: ("Which label fits its {what}?", "Label its {what}.", "By its {what}, which label is right?"),
    False: ("Which label fits?", "What is the label?", "Label this one."),
}
"""Whether the property is named -> questions of an episode."""
OPENINGS = {
    True: "Each piece has a label for its {what}: {labels}. Answer with the label only.",
    False: "Each piece has one of these labels: {labels}. Find out what they stand for. Answer with the label only.",
}
GLOSSARY = " Here {pairs}."


def made_up_word(rng: np.random.Generator) -> str:
    """A word of two syllables, five letters, that can be spoken and means nothing, such as `nilov` or `zegub`."""
    while True:
        letters = (_CONSONANTS, _VOWELS, _CONSONANTS, _LAST_VOWELS, _ENDS)
        word = "".join(pick(list(some), rng) for some in letters)
        if word not in _ENGLISH and not any(stem in word for stem in (*_MUSIC, *_REFUSED)):
            return word


@dataclass(frozen=True)
class _Example:
    item: Item

    @property
    def work(self) -> str:
        return self.item.work or self.item.id


KINDS: dict[str, tuple[str, ...]] = {"audio": ("audio",), "score": ("score",), "mixed": ("audio", "score")}
"""What an episode is made of -> what each of its examples may be."""


@dataclass
class EpisodePool:
    """Items of one split, indexed by what can be asked about them; an episode then takes the same time in any pool."""

    examples: list[_Example] = field(default_factory=list)
    values: list[dict[str, str]] = field(default_factory=list)
    """Example -> property -> value."""
    by_value: dict[tuple[str, str], dict[str, list[int]]] = field(default_factory=dict)
    """Property and kind (audio, score) -> value -> numbers of examples."""
    works: dict[tuple[str, str], dict[str, int]] = field(default_factory=dict)
    """Property and kind -> value -> how many works it has."""
    _askable: dict[tuple[int, str], dict[str, list[str]]] = field(default_factory=dict)

    @classmethod
    def of(cls, items: Iterable[Item], skipped: Counter[str] | None = None) -> EpisodePool:
        """Index items that have an audio path (cut to `start` and `end` already) or ABC text, and facts.

        The facts of a score without any are read from its text. Items of which nothing can be asked are counted in
        `skipped`. Raises DataError where the items stand in several splits: then examples would leak.
        """
        pool, counts = cls(), Counter[str]() if skipped is None else skipped
        splits: set[str] = set()
        works: dict[tuple[str, str], dict[str, set[str]]] = {}
        for item in items:
            splits.add(item.split)
            if not item.audio and not item.score:
                counts["neither audio nor score"] += 1
                continue
            found = _values(known(item.facts or _read(item.score)))
            if not found:
                counts["no property to ask about"] += 1
                continue
            number, kind = len(pool.examples), "audio" if item.audio else "score"
            pool.examples.append(_Example(item))
            pool.values.append(found)
            for name, value in found.items():
                pool.by_value.setdefault((name, kind), {}).setdefault(value, []).append(number)
                works.setdefault((name, kind), {}).setdefault(value, set()).add(pool.examples[number].work)
        if len(splits) > 1:
            raise DataError(f"examples and queries must be of one split, not of {', '.join(sorted(splits))}")
        pool.works = {key: {value: len(w) for value, w in sorted(by.items())} for key, by in works.items()}
        return pool

    def askable(self, each: int, kind: str) -> dict[str, list[str]]:
        """Property -> values with at least `each` works of every sort in `KINDS[kind]`, where two values or more do.

        A value that only scores have never competes with one that only recordings have: the sort would tell them apart.
        """
        if (each, kind) not in self._askable:
            out = {}
            for name in EPISODE_PROPERTIES:
                per_sort = [self.works.get((name, sort), {}) for sort in KINDS[kind]]
                values = [v for v in per_sort[0] if all(by.get(v, 0) >= each for by in per_sort)]
                if len(values) >= 2:
                    out[name] = values
            self._askable[each, kind] = out
        return self._askable[each, kind]


def _values(facts: dict[str, Any]) -> dict[str, str]:
    """Property -> value, of those that these facts decide."""
    fixed = np.random.default_rng(0)
    found = {}
    for name in EPISODE_PROPERTIES:
        prop = PROPERTIES[name]
        # A clip with two instruments has no one label.
        several = name == "instrument" and len(set(facts.get("instruments", ())) - {"drums"}) != 1
        if all(need in facts for need in prop.needs) and not several and (value := prop.value(facts, fixed)):
            found[name] = value
    return found


def _read(score: str) -> dict[str, Any]:
    """The facts of ABC text; a single line would be taken for a path, and is none of ours to open."""
    if "\n" not in score:
        return {}
    try:
        found: dict[str, Any] = dict(score_facts(read_score(score)))
    except MllmError:
        return {}
    # Quarter notes a minute are the felt beat in simple metres only.
    return {name: value for name, value in found.items() if name != "tempo"}


@dataclass(frozen=True)
class _Draw:
    """What an episode is about, before its words."""

    name: str
    classes: list[str]
    shown: list[int]
    query: int


def _draw(pool: EpisodePool, rng: np.random.Generator, k: int, name: str | None, count: int) -> _Draw | None:
    """Examples and query of `count` classes with no work twice, or None where this draw did not succeed."""
    ready: dict[tuple[str, str], list[str]] = {}
    for kind in KINDS:
        for asked, values in pool.askable(k // count + 2, kind).items():
            if len(values) >= count and name in (None, asked):
                ready[asked, kind] = values
    if not ready:
        return None
    name = pick(list(dict.fromkeys(asked for asked, _ in ready)), rng)
    kind = pick([kind for asked, kind in ready if asked == name], rng)
    values = ready[name, kind]
    classes = [values[int(i)] for i in rng.permutation(len(values))[:count]]
    # The query's class is drawn apart from the examples': no count and no place among them tells it.
    wanted = [classes[i % count] for i in range(k)]
    order = [wanted[int(i)] for i in rng.permutation(k)] + [classes[int(rng.integers(count))]]
    seen: set[str] = set()
    numbers = []
    for value in order:
        among = pool.by_value[name, pick(list(KINDS[kind]), rng)][value]
        for _ in range(_TRIES):
            number = among[int(rng.integers(len(among)))]
            if pool.examples[number].work not in seen:
                break
        else:
            return None
        seen.add(pool.examples[number].work)
        numbers.append(number)
    return _Draw(name, classes, numbers[:-1], numbers[-1])


def _ambiguous(pool: EpisodePool, draw: _Draw) -> bool:
    """Whether another property fits the examples as well but would label the query differently."""
    labels = [pool.values[n][draw.name] for n in draw.shown]
    truth = pool.values[draw.query][draw.name]
    for other in EPISODE_PROPERTIES:
        seen = [pool.values[n].get(other) for n in draw.shown]
        query = pool.values[draw.query].get(other)
        if other == draw.name or query is None or None in seen:
            continue
        pairs = set(zip(seen, labels, strict=True))
        if len(pairs) == len(set(seen)) == len(set(labels)) and dict(pairs).get(query, truth) != truth:
            return True
    return False


def _mapping(name: str, classes: Sequence[str], labels: str, rng: np.random.Generator) -> dict[str, str]:
    if labels == "ordinary":
        return {c: c for c in classes}
    out: dict[str, str] = {}
    for value in classes:
        # A fixed word comes from the value's own generator, so it is the same in every build.
        source = seed_of(0, f"label {name} {value}") if labels == "made-up" else rng
        word = made_up_word(source)
        while word in out.values():
            word = made_up_word(source)
        out[value] = word
    return out


def episode(
    items: EpisodePool | Iterable[Item],
    rng: np.random.Generator,
    k: int,
    labels: str = "ordinary",
    *,
    property: str | None = None,
    named: bool = True,
) -> tuple[list[Message], dict[str, Any]]:
    """A conversation of `k` labelled examples and one query, each a user and an assistant message.

    Majority, last label, and any one label are right by chance only: the query's class is drawn apart from the
    examples. With at least as many examples as labels every label is shown. With fewer, invented labels are explained.

    Args:
        items: a pool (made once), or the items of one.
        k: examples, 0 to 8.
        labels: one of LABEL_KINDS.
        property: one of EPISODE_PROPERTIES; drawn where not given.
        named: whether the instruction names the property. Otherwise it must be found from the examples, which then
            are drawn so that no other property fits them as well; too few examples to find it from name it after all.

    Returns:
        The messages in the house format, and facts: k, property, named, label_kind, mapping (value -> label), classes,
        examples (ids in order), query (id), query_value, answer (the right label).

    Raises:
        DataError: unknown name, `k` out of range, or items too few for an episode.
    """
    pool = items if isinstance(items, EpisodePool) else EpisodePool.of(items)
    if not 0 <= k <= MOST_EXAMPLES:
        raise DataError(f"an episode has 0 to {MOST_EXAMPLES} examples, not {k}")
    if labels not in LABEL_KINDS:
        raise DataError(f"unknown kind of labels {labels!r}; known: {', '.join(LABEL_KINDS)}")
    if property is not None and property not in EPISODE_PROPERTIES:
        raise DataError(f"unknown property {property!r}; known: {', '.join(EPISODE_PROPERTIES)}")
    draw, clear = None, False
    for _ in range(_TRIES):
        most = max(2, min(_MOST_LABELS, k))
        draw = _draw(pool, rng, k, property, int(rng.integers(2, most + 1))) or draw
        clear = draw is not None and k >= 2 * len(draw.classes) and not _ambiguous(pool, draw)
        # Two examples a label, at the least, tell a property from another.
        if draw is not None and (named or clear or k < 4):
            break
    if draw is None:
        about = f" about {property}" if property else ""
        raise DataError(f"{len(pool.examples)} items are too few, or of too few works, for {k} examples{about}")
    return _tell(pool, draw, rng, labels, named or not clear)


def _tell(
    pool: EpisodePool, draw: _Draw, rng: np.random.Generator, labels: str, named: bool
) -> tuple[list[Message], dict[str, Any]]:
    mapping = _mapping(draw.name, draw.classes, labels, rng)
    what = EPISODE_PROPERTIES[draw.name]
    words = [mapping[draw.classes[int(i)]] for i in rng.permutation(len(draw.classes))]
    opening = OPENINGS[named].format(what=what, labels=", ".join(words))
    if labels != "ordinary" and len(draw.shown) < len(draw.classes):
        means = {label: value for value, label in mapping.items()}
        opening += GLOSSARY.format(pairs=", ".join(f"{word} means {means[word]}" for word in words))
    question = pick(list(QUESTIONS[named]), rng).format(what=what)
    talk: list[Message] = []
    for i, number in enumerate([*draw.shown, draw.query]):
        item = pool.examples[number].item
        part = (
            {"type": "audio", "audio": item.audio}
            if item.audio
            else {"type": "text", "text": item.score.rstrip("\n") + "\n"}
        )
        text = f"{opening} {question}" if i == 0 else question
        talk.append({"role": "user", "content": [part, {"type": "text", "text": text}]})
        talk.append({"role": "assistant", "content": mapping[pool.values[number][draw.name]]})
    value = pool.values[draw.query][draw.name]
    facts = {
        "k": len(draw.shown),
        "property": draw.name,
        "named": named,
        "label_kind": labels,
        "mapping": mapping,
        "classes": draw.classes,
        "examples": [pool.examples[n].item.id for n in draw.shown],
        "query": pool.examples[draw.query].item.id,
        "query_value": value,
        "answer": mapping[value],
    }
    return talk, facts


def episodes(
    pool: EpisodePool | Iterable[Item], rng: np.random.Generator, count: int, most_examples: int = MOST_EXAMPLES
) -> Iterator[tuple[list[Message], dict[str, Any]]]:
    """`count` episodes: 0 to `most_examples` examples and all kinds of labels by turns, the property named in half.

    Each takes the same time however large the pool is. A pool of few works gives shorter episodes than asked for;
    raises DataError where it gives none.
    """
    pool = pool if isinstance(pool, EpisodePool) else EpisodePool.of(pool)
    # What an episode of two labels and k examples can be about.
    about = [sorted({n for kind in KINDS for n in pool.askable(k // 2 + 2, kind)}) for k in range(most_examples + 1)]
    for number in range(count):
        # By turns, not drawn: any stretch of episodes holds every number of examples and kind of labels alike.
        kind = LABEL_KINDS[number // (most_examples + 1) % len(LABEL_KINDS)]
        yield _longest(pool, rng, number % (most_examples + 1), kind, about)


def _longest(
    pool: EpisodePool, rng: np.random.Generator, k: int, labels: str, about: Sequence[Sequence[str]]
) -> tuple[list[Message], dict[str, Any]]:
    """An episode of `k` examples, or of as many as the works of the pool suffice for."""
    property = pick(list(about[k]), rng) if about[k] else None
    try:
        return episode(pool, rng, k, labels, property=property, named=bool(rng.random() < 0.5))
    except DataError:
        if k == 0:
            raise
        return _longest(pool, rng, k - 1, labels, about)
