"""Questions between a recording and scores: do they match, which one is played, where do they differ, what is played.

A recording holds whole bars of the melody of a tune, alone or accompanied, from bar 1 after a short silence; its score
is made from the notes that are played, so it stands in their key and octave. Nothing in a text tells the answer:

- Of the passages that a question compares (the right one and the wrong ones) each could have been the one that is
  played: which it is is drawn after all of them are there. The changed version of a passage is played as often as
  the passage itself.
- Passages of two tunes are of one collection, split, metre, mode and key, have as many bars, the same header and about
  as many notes, and lie where the instrument that is heard would play each of them.

The tasks: `match` (yes or no; the wrong score is of another tune, or the same with two bars or more changed),
`which_of_three` (three tunes, or three versions of one), `first_difference` (the first bar with other notes, or "they
agree"), `transcribe` (the ABC under a given header, two to four bars of one voice) and `bar_at` (the bar that plays at
a whole second, away from bar lines). Levels: easy where the wrong scores are other tunes, hard where they are versions
of one; of the others by the number of bars.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mllm.data_recipes.arrange import Arrangement, arrange, excerpt, starts
from mllm.data_recipes.augment import finish
from mllm.data_recipes.choices import Pool
from mllm.data_recipes.clip import UnusableTune, melody_facts
from mllm.data_recipes.config import Mixture
from mllm.data_recipes.instruments import FAMILIES, Program
from mllm.data_recipes.perform import Event, draw_tempo, perform
from mllm.data_recipes.plan import ClipPlan
from mllm.data_recipes.score_changes import first_difference, varied
from mllm.data_recipes.score_questions import Question, bar_question
from mllm.data_recipes.score_rows import Written, fills_its_bars, melody_of, written
from mllm.data_recipes.synthesizer import play
from mllm.data_recipes.templates import clock
from mllm.data_recipes.tune import Bar, Tune, key_name
from mllm.data_recipes.voices import octaves_into
from mllm.score import Note, Score

SOLO = 0.7
"""Share of the recordings in which the melody plays alone."""
_LEAD, _RING = 0.25, 0.35
_TRIES = 300
"""Passages that are looked at for one that is as long as another."""
_DRAWS = 12
"""Arrangements that are tried for passages that lie near one another."""
_BUCKET = 3
"""Notes by which passages that are compared may differ at most."""
_NEAR = 9.0
"""Semitones between the middles of passages that are compared, at most."""
_MARGIN = 0.3
"""Seconds between a moment asked about and the nearest bar line."""
AGREE = "they agree"


@dataclass(frozen=True)
class Shape:
    """Bars of a recording and what it has to be."""

    bars: tuple[int, int]
    solo: bool = False


SHAPES = {
    "match": Shape((2, 6)),
    "which_of_three": Shape((2, 4)),
    "first_difference": Shape((3, 8)),
    "transcribe": Shape((2, 4), solo=True),
    "bar_at": Shape((3, 8)),
}
"""Task -> the recordings that it is asked about."""
TURNS = {"match": 6, "which_of_three": 4, "first_difference": 4, "transcribe": 5, "bar_at": 1}
"""Task -> how many of twenty recordings are asked about it."""
DECK = tuple(task for task, count in TURNS.items() for _ in range(count))


@dataclass(frozen=True)
class Version:
    """Bars of a tune as they are or with other notes in some of them."""

    tune: Tune
    bars: list[Bar]
    changed: bool


@dataclass
class Heard:
    """A recording before it sounds: who plays which notes when, its score, and the scores it could be taken for."""

    task: str
    plan: ClipPlan
    piece: Arrangement
    events: list[Event]
    tempo: float
    lead_in: float
    seconds: float
    score: Score
    """The melody as it is played."""
    wrong: list[Score]
    """In the key and octave of the recording."""
    kind: str
    """What `wrong` are: "other tunes" or "versions"."""
    about: dict[str, Any]

    @property
    def text(self) -> Written:
        """The ABC of what is played."""
        return written(self.score)

    @property
    def bar_seconds(self) -> float:
        """Length of a bar."""
        return (self.seconds - _RING - self.lead_in) / self.piece.bars


def compose(
    task: str, plan: ClipPlan, tune: Tune, alike: Sequence[Tune], mixture: Mixture, rng: np.random.Generator, pool: Pool
) -> Heard:
    """Everything about a recording for `task` but its sound.

    Args:
        plan: key, instruments and soundfont.
        tune: what is played, unless one of `alike` is in its place.
        alike: tunes of its collection and split, of other works.
        pool: deals which kind the wrong scores are of.

    Raises:
        UnusableTune: the tune has no such passage, or nothing to compare it with.
    """
    shape = SHAPES[task]
    tempo = draw_tempo(tune, mixture.sound.tempo_low, mixture.sound.tempo_high, rng)
    bar_seconds = 60 / tempo * tune.bar_quarters / tune.beat_quarters
    lead_in = float(rng.uniform(0.0, _LEAD))
    most = min(shape.bars[1], int((mixture.clips.seconds - _LEAD - _RING) // bar_seconds))
    if most < shape.bars[0]:
        raise UnusableTune("too slow for the bars that are wanted")
    bars = int(rng.integers(shape.bars[0], most + 1))
    first = _whole(tune, bars, rng)
    if first is None:
        raise UnusableTune("no passage of full bars with enough notes")
    versions = 3 if task == "which_of_three" else 2
    kinds = {"match": 2, "which_of_three": 2}.get(task, 1)
    others = None
    if kinds == 2 and pool.deal(f"kind {task}", 2):
        others = _others(first, tune, alike, versions - 1, rng)
    if others:
        passages = [_perhaps_changed(Version(t, b, False), rng) for t, b in ((tune, first), *others)]
    else:
        passages = [Version(tune, first, False)]
        while len(passages) < versions:
            new = Version(tune, varied(first, _which(task, bars, rng), tune, rng), True)
            # Two versions may by chance be changed alike; with two bars or more to change they seldom are.
            if all(_melody(new) != _melody(p) for p in passages):
                passages.append(new)
    # In turn: were the changed version played more often, changed scores would be right more often.
    place = pool.deal(f"played {task}", len(passages))
    played, rest = passages[place], [*passages[:place], *passages[place + 1 :]]
    piece, wrong = _arranged(played, rest, plan, bool(others), rng)
    if shape.solo or rng.random() < SOLO:
        piece.voices = piece.voices[:1]
    events = perform(piece, tempo, lead_in, rng)
    if min(e.pitch for e in events) < 0 or max(e.pitch for e in events) > 127:
        raise UnusableTune("notes outside MIDI")
    notes = [Note(o, d, p) for o, d, p in piece.voices[0].notes]
    score = replace(_placed(played, plan.tonic, piece.transposition), notes=sorted(notes))
    if any(written(w).head != written(score).head for w in wrong):
        raise UnusableTune("no passage of another tune under the same header")
    about = {
        "tune_id": played.tune.id,
        "distractors": sorted({p.tune.id for p in rest} - {played.tune.id}),
        "changed": played.changed,
        "transposition": piece.transposition,
    }
    seconds = lead_in + bars * bar_seconds + _RING
    kind = "other tunes" if others else "versions"
    return Heard(task, plan, piece, events, tempo, lead_in, seconds, score, wrong, kind, about)


def _arranged(
    played: Version, rest: list[Version], plan: ClipPlan, several: bool, rng: np.random.Generator
) -> tuple[Arrangement, list[Score]]:
    """Who plays, and the wrong scores beside it: versions of one tune move alike, another tune goes where it is played.

    The octave that the instrument gives each of `several` tunes is drawn again, for all of them, until they are near.
    """
    source, bars = replace(played.tune, runs=[played.bars]), len(played.bars)
    for _ in range(_DRAWS):
        try:
            piece = arrange(
                source, 0, bars, plan.tonic, plan.family, rng, plan.accompanied, plan.second_family, plan.drums
            )
        except (ValueError, IndexError) as error:
            raise UnusableTune(str(error)) from error
        if not several:
            return piece, [_placed(p, plan.tonic, piece.transposition) for p in rest]
        program = next(p for p in FAMILIES[plan.family] if p.number == piece.voices[0].program)
        wrong = [_placed(p, plan.tonic, _octave(p, plan.tonic, program, rng)) for p in rest]
        middles = [float(np.median([n.pitch for n in s.notes])) for s in wrong]
        middles.append(float(np.median([p for _, _, p in piece.voices[0].notes])))
        if max(middles) - min(middles) <= _NEAR:
            return piece, wrong
    raise UnusableTune("no passage of another tune in the same octave")


def _which(task: str, bars: int, rng: np.random.Generator) -> list[int]:
    """Bars (from 0) to change: for the first difference each bar is as often the first; else two or more."""
    if task == "first_difference":
        first = int(rng.integers(bars))
        return [first, *(b for b in range(first + 1, bars) if rng.random() < 0.4)]
    count = int(rng.integers(2, max(2, (bars + 1) // 2) + 1))
    return sorted(int(b) for b in rng.permutation(bars)[:count])


def _perhaps_changed(it: Version, rng: np.random.Generator) -> Version:
    """Changed as often as versions of one tune are: that a score looks changed must not tell its kind."""
    if rng.random() < 0.5:
        return it
    return Version(it.tune, varied(it.bars, _which("match", len(it.bars), rng), it.tune, rng), True)


def _whole(tune: Tune, bars: int, rng: np.random.Generator) -> list[Bar] | None:
    """Full bars of the tune from the start of a phrase, or None where it has none of that length."""
    begins, offset = [], 0
    places = set(starts(tune, bars))
    for run in tune.runs:
        begins += [offset + b for b in range(len(run) - bars + 1) if offset + b in places]
        offset += len(run)
    if not begins:
        return None
    content = excerpt(tune, begins[int(rng.integers(len(begins)))], bars)
    score = melody_of(content, tune)
    return content if fills_its_bars(score, bars) and len(score.notes) >= 2 * bars else None


def _count(bars: Sequence[Bar]) -> int:
    return sum(note[3] == 0 for bar in bars for note in bar)


def _others(
    bars: list[Bar], tune: Tune, alike: Sequence[Tune], count: int, rng: np.random.Generator
) -> list[tuple[Tune, list[Bar]]] | None:
    """Passages of `count` other tunes with the same header and about as many notes, or None where there are none."""
    bucket, head = _count(bars) // _BUCKET, written(melody_of(bars, tune)).head.split("\nK:")[0]
    out: list[tuple[Tune, list[Bar]]] = []
    for _ in range(_TRIES if alike else 0):
        other = alike[int(rng.integers(len(alike)))]
        if (other.metre, other.mode) != (tune.metre, tune.mode) or any(other is t for t, _ in out):
            continue
        some = _whole(other, len(bars), rng)
        if some is None or _count(some) // _BUCKET != bucket:
            continue
        if written(melody_of(some, other)).head.split("\nK:")[0] == head:
            out.append((other, some))
            if len(out) == count:
                return out
    return None


def _melody(it: Version) -> list[tuple[float, float, int]]:
    """The melody as intervals above the tonic, so that passages of two tunes can be compared."""
    score = melody_of(it.bars, it.tune)
    return [(round(n.onset, 4), round(n.duration, 4), n.pitch - it.tune.tonic) for n in score.notes]


def _octave(it: Version, tonic: int, program: Program, rng: np.random.Generator) -> int:
    """Semitones to move the passage by so that its tonic is `tonic` (a pitch class) and the instrument can play it."""
    base = (tonic - it.tune.tonic) % 12
    return base + octaves_into(
        [n.pitch + base for n in melody_of(it.bars, it.tune).notes], program.low, program.high, rng
    )


def _placed(it: Version, tonic: int, shift: int) -> Score:
    """The passage `shift` semitones higher, in the key with this tonic (a pitch class)."""
    key = melody_of(it.bars, replace(it.tune, tonic=tonic)).key
    return replace(melody_of(it.bars, it.tune, shift), key=key)


def sound(heard: Heard, mixture: Mixture, font: Path, rng: np.random.Generator) -> tuple[np.ndarray, list[str]]:
    """(samples float32 [time] mono in -1..1, names of what was done to them) of a recording.

    Raises UnusableTune where nothing is heard.
    """
    rate = mixture.clips.sampling_rate
    samples = play(heard.events, heard.piece.voices, font, heard.seconds, rate)
    if not float(np.sqrt(np.mean(samples**2))) >= 1e-4:
        raise UnusableTune("the render is silent")
    codec = mixture.sound.codec if heard.plan.split != "test" else 0.0
    return finish(samples, rate, rng, mixture.sound.clean, codec)


def facts_of(heard: Heard, done: list[str]) -> dict[str, Any]:
    """What is true of a recording, named as in row.FACTS, and `abc`, the score of what is played.

    `notes` are those of the melody as performed: onset and end in seconds, MIDI number.
    """
    piece, voices = heard.piece, heard.piece.voices
    melody = [e for e in heard.events if e.voice == 0]
    chords = any(v.role == "chords" for v in voices)
    lines = sum(v.role != "drums" for v in voices)
    return {
        "instruments": list(dict.fromkeys(v.family for v in voices)),
        "programs": list(dict.fromkeys(v.program for v in voices if v.role != "drums")),
        "key": key_name(heard.plan.tonic, piece.mode),
        "tempo": heard.tempo,
        "metre": f"{piece.metre[0]}/{piece.metre[1]}",
        **melody_facts(melody, heard.plan.tonic, piece.mode),
        "texture": "accompanied" if chords else {1: "solo", 2: "duet"}.get(lines, "voices"),
        "drums": any(v.role == "drums" for v in voices),
        "bars": piece.bars,
        "notes": [[round(e.onset, 4), round(e.end, 4), e.pitch] for e in melody],
        "soundfont": heard.plan.soundfont,
        "augmentation": done,
        "lead_in": round(heard.lead_in, 3),
        "seconds": round(heard.seconds, 3),
        "abc": heard.text.text,
        **heard.about,
    }


def question(heard: Heard, rng: np.random.Generator, pool: Pool) -> Question:
    """The question of the recording's task. Raises UnusableTune where it cannot be asked."""
    return _QUESTIONS[heard.task](heard, rng, pool)


def _by_bars(bars: int) -> str:
    return "easy" if bars <= 2 else "medium" if bars <= 4 else "hard"


def _match(it: Heard, rng: np.random.Generator, pool: Pool) -> Question:
    yes = pool.deal(f"match {it.kind} {it.about['changed']}", 2) == 0
    level = "easy" if it.kind == "other tunes" else "hard"
    differ = None if yes else first_difference(it.score, it.wrong[0])
    facts = {"wrong": it.kind, "first_difference": differ}
    text = it.text if yes else written(it.wrong[0])
    return Question("yes" if yes else "no", level, (text.text,), value=yes, facts=facts)


def _which_of_three(it: Heard, rng: np.random.Generator, pool: Pool) -> Question:
    place = pool.deal(f"which {it.kind}", 3)
    texts = [written(w).text for w in it.wrong]
    texts.insert(place, it.text.text)
    names = ["Score A", "Score B", "Score C"]
    level = "easy" if it.kind == "other tunes" else "hard"
    return Question(names[place], level, tuple(texts), value=names[place][-1], facts={"wrong": it.kind})


def _first_difference(it: Heard, rng: np.random.Generator, pool: Pool) -> Question:
    agree = pool.deal("agree", 5) == 0
    bar = first_difference(it.score, it.wrong[0])
    if bar is None:
        raise UnusableTune("the changed version is the same")
    level, bars = _by_bars(it.piece.bars), it.piece.bars
    if agree:
        return Question(AGREE, level, (it.text.text,), facts={"first_difference": None})
    facts = {"first_difference": bar}
    asked = bar_question(bar, bars, level, (written(it.wrong[0]).text,), facts=facts)
    return replace(asked, others=None, value=None)  # options, or a JSON number, would tell that they do not agree


def transcription(it: Heard) -> Question:
    """The question for the ABC of what is played, under its header."""
    return Question(it.text.body, _by_bars(it.piece.bars), given={"head": it.text.head}, facts={"head": it.text.head})


def _bar_at(it: Heard, rng: np.random.Generator, pool: Pool) -> Question:
    lines = [it.lead_in + n * it.bar_seconds for n in range(it.piece.bars + 1)]
    margin = min(_MARGIN, it.bar_seconds / 4)
    moments = [
        (t, n + 1)
        for n, (a, b) in enumerate(zip(lines, lines[1:], strict=False))
        for t in range(1, int(it.seconds) + 1)
        if a + margin <= t <= b - margin
    ]
    if not moments:
        raise UnusableTune("no whole second lies away from the bar lines")
    at, bar = moments[int(rng.integers(len(moments)))]
    facts = {"time": at}
    given = {"time": clock(at)}
    level = _by_bars(it.piece.bars)
    return bar_question(bar, it.piece.bars, level, (it.text.text,), given=given, facts=facts)


_QUESTIONS = {
    "match": _match,
    "which_of_three": _which_of_three,
    "first_difference": _first_difference,
    "transcribe": lambda heard, rng, pool: transcription(heard),
    "bar_at": _bar_at,
}
