"""Facts of a clip -> questions and answers, with the wordings of wordings.yaml."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from string import Formatter
from typing import Any

import numpy as np
import yaml

from mllm.data_recipes.instruments import is_plural, with_article
from mllm.data_recipes.row import Turn
from mllm.errors import MllmError
from mllm.metronome import nearest_mark
from mllm.score_types import Key

Facts = dict[str, Any]

SHORT_TASKS = ("instrument", "key", "tempo", "metre")
MELODY_TASKS = ("melody_lowest", "melody_highest", "melody_range", "melody_contour", "melody_first_notes")

_METRE_WORDS = {
    "2/4": "two beats in a bar",
    "3/4": "three beats in a bar",
    "4/4": "four beats in a bar",
    "6/8": "two beats in a bar, each divided into three",
}
_TEXTURES = {
    "solo": "A single line without accompaniment.",
    "duet": "Two voices move together.",
    "voices": "Several voices move together.",
    "accompanied": "A melody over bass and chords.",
}
_SHAPES = {
    "level": "stays level",
    "rising": "rises",
    "falling": "falls",
    "arch": "forms an arch",
    "valley": "dips and returns",
}
_CONTOURS = {"ascending": "rising", "descending": "falling"}
"""Words of `mllm.score_facts` -> words of `row.FACTS`."""
_KEY = re.compile(r"([A-G][#b]?) ([a-z]+)")
_METRE = re.compile(r"\d{1,2}/(?:1|2|4|8|16)")
NOUNS = {"arch": "an arch", "valley": "a valley", "duet": "a duet"}
"""Words of a property that a sentence says with an article."""
_PLURAL_VERBS = {"Is": "Are", "Does": "Do"}
_VERB = re.compile(r"\b(Is|Does)(?= \{value_words\})")
_ONE = re.compile(r"\b(?:(There) are )?1 (bar|section)s\b")
_MOST_COUNTED = 60
"""Notes that somebody may be asked to count."""
_UNSTEADY = 0.06
"""Beats whose intervals spread more than this (interquartile range over median) have no one tempo."""


@lru_cache
def wordings(about: str = "clips") -> dict[str, dict[str, Any]]:
    """task -> style -> questions, answers; and `difficulty`, 1 to 3, where a task is not easy.

    `about`: "clips" (wordings.yaml), or "scores" (wordings_scores.yaml, whose head says what stands in it).
    """
    name = {"clips": "wordings.yaml", "scores": "wordings_scores.yaml"}[about]
    return yaml.safe_load((Path(__file__).parent / name).read_text(encoding="utf-8"))


def pick(options: list[str], rng: np.random.Generator) -> str:
    """One of the options."""
    return options[int(rng.integers(len(options)))]


def known(facts: Mapping[str, Any]) -> Facts:
    """The facts that say something: no None, NaN, empty list; contours in our words; a tempo where beats are steady."""
    out = {k: v for k, v in facts.items() if v is not None and v == v and (isinstance(v, bool | int | float) or len(v))}
    if "instruments" in out:
        out["instruments"] = [name for name in out["instruments"] if name]
    for name, wrong in (("instruments", out.get("instruments") == []), ("tempo", not out.get("tempo", 1) > 0)):
        if wrong:
            del out[name]
    if "contour" in out:
        out["contour"] = _CONTOURS.get(out["contour"], out["contour"])
    beats = out.get("beats", ())
    if "tempo" not in out and len(beats) >= 8:
        gaps = np.diff(np.asarray(beats, float))
        low, middle, high = np.percentile(gaps, (25, 50, 75))
        if middle > 0 and (high - low) / middle < _UNSTEADY:
            out["tempo"] = float(60 / middle)
    return out


def speed(bpm: float) -> str:
    """A tempo in a word: slow, moderate, lively or fast."""
    return "slow" if bpm < 76 else "moderate" if bpm < 108 else "lively" if bpm < 144 else "fast"


def round_tempo(bpm: float) -> int:
    """The metronome mark nearest to a tempo, or the tempo itself where it lies beyond the marks."""
    mark = nearest_mark(bpm)
    return mark if abs(mark / bpm - 1) < 0.03 else round(bpm)


def agreeing(template: str, name: str) -> str:
    """The template with its verb in the number of the instrument that `value_words` is going to name."""
    return _VERB.sub(lambda verb: _PLURAL_VERBS[verb[1]], template) if is_plural(name) else template


def in_number(text: str) -> str:
    """`There is 1 bar` for `There are 1 bars`."""
    return _ONE.sub(lambda m: f"{'There is ' if m[1] else ''}1 {m[2]}", text)


def parse_key(text: str) -> Key | None:
    """The key of `F# minor`, or None where it is no such name."""
    try:
        tonic, mode = text.split()
        return Key(tonic, mode)
    except (ValueError, MllmError):
        return None


def join(words: list[str]) -> str:
    """`a flute, a harp and drums`."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def instrument_words(names: Iterable[str]) -> str:
    """`a flute, a harp and drums`, each name once."""
    return join([with_article(name) for name in dict.fromkeys(names)])


def clock(seconds: float) -> str:
    """m:ss, cut off to the whole second."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def pitch_name(pitch: int, key: str | None = None) -> str:
    """Name with octave of a MIDI number, 60 = C4, spelled as in `key`; as in C major where none is known."""
    return (parse_key(key or "") or Key("C")).spell(pitch)


def chord_name(label: str) -> str:
    """A label in Harte's syntax as an answer gives it: `C` for `C:maj`, `no chord` for `N`."""
    return "no chord" if label in ("N", "X") else label.removesuffix(":maj")


def affect(value: float, low: str, middle: str, high: str) -> str:
    """A rating in -1..1 in one of three words; the middle third is the middle word."""
    return low if value < -1 / 3 else high if value > 1 / 3 else middle


def _key(facts: Facts, part: int) -> str | None:
    match = _KEY.fullmatch(facts["key"])
    return match and match[part]


def _metre_sentence(facts: Facts) -> str | None:
    return _METRE_WORDS.get(facts["metre"])


def _texture_sentence(facts: Facts) -> str | None:
    texture, shape = _TEXTURES.get(facts["texture"]), _SHAPES.get(facts["contour"])
    if facts["texture"] == "solo" or texture is None or shape is None:
        return texture
    return f"{texture} The melody {shape}."


def _caption(facts: Facts) -> str | None:
    text = " ".join(str(facts["caption"]).split())
    # A caption that names the work or its author teaches to recall, not to hear.
    named = [str(facts[k]).lower() for k in ("title", "composer") if len(str(facts.get(k) or "")) > 3]
    return None if not text or any(n in text.lower() for n in named) else text


def _count(facts: Facts) -> str | None:
    count = facts["notes"] if isinstance(facts["notes"], int) else len(facts["notes"])
    return str(count) if count <= _MOST_COUNTED else None


def _in_words(value: Any) -> str:
    return value if isinstance(value, str) else ", ".join(value)


FIELDS: dict[str, tuple[tuple[str, ...], Callable[[Facts], str | None]]] = {
    "instrument_list": (("instruments",), lambda f: ", ".join(dict.fromkeys(f["instruments"]))),
    "instrument_words": (("instruments",), lambda f: instrument_words(f["instruments"])),
    "instrument_count": (("instruments",), lambda f: str(len(set(f["instruments"])))),
    "key": (("key",), lambda f: _key(f, 0)),
    "tonic": (("key",), lambda f: _key(f, 1)),
    "mode": (("key",), lambda f: _key(f, 2)),
    "bpm": (("tempo",), lambda f: str(round_tempo(f["tempo"]))),
    "tempo_word": (("tempo",), lambda f: speed(f["tempo"])),
    "a_speed": (("tempo",), lambda f: f"a {speed(f['tempo'])}"),
    "A_speed": (("tempo",), lambda f: f"A {speed(f['tempo'])}"),
    "metre": (("metre",), lambda f: f["metre"] if _METRE.fullmatch(f["metre"]) else None),
    "metre_words": (("metre",), _metre_sentence),
    "texture": (("texture",), lambda f: f["texture"] if f["texture"] in _TEXTURES else None),
    "texture_line": (("texture",), lambda f: _TEXTURES.get(f["texture"])),
    "texture_sentence": (("texture", "contour"), _texture_sentence),
    "lowest": (("lowest",), lambda f: f["lowest"]),
    "highest": (("highest",), lambda f: f["highest"]),
    "contour": (("contour",), lambda f: f["contour"] if f["contour"] in _SHAPES else None),
    "contour_words": (("contour",), lambda f: _SHAPES.get(f["contour"])),
    "first_notes": (("first_notes",), lambda f: ", ".join(f["first_notes"][:3]) if len(f["first_notes"]) > 2 else None),
    "caption": (("caption",), _caption),
    "tag_list": (("tags",), lambda f: ", ".join(f["tags"])),
    "genre": (("genre",), lambda f: f["genre"]),
    "mood_list": (("mood",), lambda f: _in_words(f["mood"])),
    "valence_word": (("valence",), lambda f: affect(f["valence"], "negative", "neutral", "positive")),
    "arousal_word": (("arousal",), lambda f: affect(f["arousal"], "calm", "moderate", "energetic")),
    "pitch_name": (("pitch",), lambda f: pitch_name(int(f["pitch"]), f.get("key"))),
    "pitch_number": (("pitch",), lambda f: str(int(f["pitch"]))),
    "drums_word": (("drums",), lambda f: "yes" if f["drums"] else "no"),
    "drums_words": (("drums",), lambda f: "Drums play" if f["drums"] else "No drums play"),
    "bar_count": (("bars",), lambda f: str(f["bars"])),
    "note_count": (("notes",), _count),
}
"""Field in braces of wordings.yaml -> the facts it needs, and what it says (None where the facts do not let it)."""


def needs(templates: list[str]) -> tuple[str, ...]:
    """Facts that the fields of these templates read, sorted."""
    names = {name for t in templates for _, name, _, _ in Formatter().parse(t) if name}
    return tuple(sorted({fact for name in names for fact in FIELDS[name][0]}))


def fill(template: str, facts: Facts, **given: str) -> str | None:
    """The template with its fields said (those of `given` as given), or None where one of them cannot be said."""
    names = [name for _, name, _, _ in Formatter().parse(template) if name]
    said = {name: given[name] if name in given else FIELDS[name][1](facts) for name in names}
    return None if None in said.values() else in_number(template.format(**said))


def ask(task: str, facts: Facts, rng: np.random.Generator, style: str | None = None) -> Turn:
    """A question of `task` and its true answer; `style` is short, sentence, or drawn (short three times in four).

    For clips of our own, whose facts are all there; makers.py asks about anything.
    """
    styles = {s: w for s, w in wordings()[task].items() if s in ("short", "sentence")}
    if style is None or style not in styles:
        style = next(iter(styles)) if len(styles) == 1 else ("short" if rng.random() < 0.75 else "sentence")
    question = pick(styles[style]["questions"], rng)
    answer = fill(pick(styles[style]["answers"], rng), facts)
    if answer is None:
        raise ValueError(f"the facts of this clip do not answer {task!r}")
    return question, answer


def conversations(split: str, facts: Facts, rng: np.random.Generator) -> list[tuple[str, list[Turn]]]:
    """(task, turns) of every row of a clip.

    Training: one dialogue of all short questions in random order (most with a melody question), and one row that
    describes or asks about the melody. Validation and test: one row a task, asked shortly, so each can be scored alone.
    """
    melody = MELODY_TASKS[int(rng.integers(len(MELODY_TASKS)))]
    if split == "train":
        tasks = [SHORT_TASKS[i] for i in rng.permutation(len(SHORT_TASKS))]
        if rng.random() < 0.2:
            tasks = tasks[:3]
        elif rng.random() < 0.6:
            tasks.insert(int(rng.integers(len(tasks) + 1)), MELODY_TASKS[int(rng.integers(len(MELODY_TASKS)))])
        dialogue = [ask(t, facts, rng) for t in tasks]
        other = "describe" if rng.random() < 0.5 else melody
        return [("dialogue", dialogue), (other, [ask(other, facts, rng)])]
    rows = [(t, [ask(t, facts, rng, "short")]) for t in (*SHORT_TASKS, melody)]
    rows.append(("describe", [ask("describe", facts, rng)]))
    if split == "validation":
        order = [SHORT_TASKS[i] for i in rng.permutation(len(SHORT_TASKS))]
        rows.append(("dialogue", [ask(t, facts, rng, "short") for t in order]))
    return rows
