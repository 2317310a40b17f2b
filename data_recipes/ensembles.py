"""Who plays what: each ensemble turns the content of an excerpt into voices, and ENSEMBLES names them all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mllm.data_recipes.accompaniment import DRUM_BARS, FIGURES, beaten, figured, harmony
from mllm.data_recipes.instruments import ACCOMPANISTS, FAMILIES, Program, bass_program
from mllm.data_recipes.tune import SCALES, Bar, Tune
from mllm.data_recipes.voices import Sounding, Voice, best_member, chordal, fold, into_range, octaves_into


@dataclass
class Setting:
    """What an ensemble is to play: `content` is bars of the tune as written, everything else is asked for."""

    tune: Tune
    content: list[Bar]
    tonic: int
    """Pitch class that the tune's tonic becomes."""
    family: str
    """Plays the melody."""
    second_family: str | None
    accompanied: bool
    drums: bool
    rng: np.random.Generator

    @property
    def lower(self) -> list[int]:
        """The written voices under the melody, the bass last."""
        return sorted({n[3] for bar in self.content for n in bar} - {0})

    @property
    def length(self) -> float:
        """Quarters of a bar."""
        return self.tune.bar_quarters

    def written(self, voice: int, shift: int) -> list[Sounding]:
        """The notes of one written voice, `shift` semitones higher."""
        return [
            (b * self.length + o, d, p + shift)
            for b, bar in enumerate(self.content)
            for o, d, p, v in bar
            if v == voice
        ]


Played = tuple[list[Voice], int]
"""Voices, the melody first, and the semitones from the source to what the melody plays."""


def _melody(it: Setting, programs: tuple[Program, ...]) -> Played:
    program = programs[int(it.rng.integers(len(programs)))]
    base = (it.tonic - it.tune.tonic) % 12
    pitches = [p for _, _, p in it.written(0, base)]
    if not pitches:
        raise ValueError("the excerpt has no melody note")
    shift = base + octaves_into(pitches, program.low, program.high, it.rng)
    return [Voice("melody", program.number, it.written(0, shift))], shift


def _fitting_melody(it: Setting) -> Played:
    """The melody by a member of the family that can play all of it."""
    base = (it.tonic - it.tune.tonic) % 12
    pitches = [p for _, _, p in it.written(0, base)]
    if not pitches:
        raise ValueError("the excerpt has no melody note")
    span = max(pitches) - min(pitches)
    fitting = tuple(
        p
        for p in FAMILIES[it.family]
        if p.high - p.low >= span and any(p.low <= min(pitches) + s <= p.high - span for s in range(-60, 61, 12))
    )
    if not fitting:
        raise ValueError(f"the melody does not fit the range of {it.family}")
    return _melody(it, fitting)


def _chords(it: Setting, shift: int) -> list[tuple[int, tuple[int, int, int]]]:
    bars = [[(o, d, p + shift, v) for o, d, p, v in bar] for bar in it.content]
    return harmony(bars, it.tonic, it.tune.mode)


def _middle(voice: Voice) -> int:
    return int(np.median([p for _, _, p in voice.notes]))


def _plain(it: Setting) -> Played:
    """The melody's family (or a second one) plays written voices, an accompaniment, a second voice or nothing."""
    voices, shift = _melody(it, FAMILIES[it.family])
    other = it.second_family or it.family
    if it.lower:
        same = next(p for p in FAMILIES[it.family] if p.number == voices[0].program) if other == it.family else None
        voices += _lower(it, shift, other, same)
    elif it.accompanied or it.second_family:
        chords = _chords(it, shift)
        figure = int(it.rng.integers(len(FIGURES[it.tune.metre])))
        player = bass_program(other)
        bass, keys = figured(chords, it.tune.metre, it.length, player, player, _middle(voices[0]), figure)
        voices += [Voice("bass", player.number, bass), Voice("chords", player.number, keys)]
    elif it.rng.random() < 0.35:
        voices.append(_second(it, voices[0]))
    if it.drums:
        voices.append(Voice("drums", 0, beaten(it.tune.metre, len(it.content), it.length)))
    return voices, shift


def _lower(it: Setting, shift: int, family: str, same: Program | None) -> list[Voice]:
    """The written lower voices, each by the family member that reaches it; the bass by the lowest."""
    out = []
    for v in it.lower:
        notes = it.written(v, shift)
        bass = v == it.lower[-1]
        player = bass_program(family) if bass or not same else same
        notes = [(o, d, fold(p, player.low, max(player.high, player.low + 12))) for o, d, p in notes]
        out.append(Voice(_role(notes, bass), player.number, notes))
    return out


def _role(notes: list[Sounding], bass: bool) -> str:
    return "chords" if chordal(notes) else "bass" if bass else "inner"


def _second(it: Setting, melody: Voice) -> Voice:
    """A second voice a third or a sixth below, from the scale, moving on the beats."""
    scale = [(it.tonic + s) % 12 for s in SCALES[it.tune.mode]]
    beat = it.tune.beat_quarters
    player = bass_program(it.family)
    notes = []
    for onset, duration, pitch in melody.notes:
        if abs(onset / beat % 1) > 1e-6 and duration < 1:
            continue
        below = [p for p in range(pitch - 9, pitch - 2) if p % 12 in scale]
        below = [p for p in below if pitch - p in (3, 4, 8, 9)] or below
        if below:
            notes.append((onset, max(duration, min(beat, 1.0)), fold(below[-1], player.low, 127)))
    return Voice("inner", player.number, notes)


_BASSES = (67, 42, 70, 0, 26, 16)
"""Who may play a band's bass: baritone saxophone, cello, bassoon, piano, jazz guitar, organ."""


def _band(it: Setting) -> Played:
    """A lead sheet by a band: melody, bass, an instrument for the chords, drums; the metre's figures give the style."""
    if it.lower:
        raise ValueError("a band plays lead sheets, and this tune has written voices")
    voices, shift = _fitting_melody(it)
    others = [f for f in ACCOMPANISTS if f != it.family]
    keys = bass_program(it.second_family or others[int(it.rng.integers(len(others)))])
    number = _BASSES[int(it.rng.integers(len(_BASSES)))]
    bass = next(p for programs in FAMILIES.values() for p in programs if p.number == number)
    metre = it.tune.metre
    figure, beat = (int(it.rng.integers(len(table[metre]))) for table in (FIGURES, DRUM_BARS))
    deep, high = figured(_chords(it, shift), metre, it.length, bass, keys, _middle(voices[0]), figure)
    drums = Voice("drums", 0, beaten(metre, len(it.content), it.length, beat))
    return [*voices, Voice("bass", bass.number, deep), Voice("chords", keys.number, high), drums], shift


def _consort(choose: Callable[[Setting, int], tuple[str, ...]]) -> Callable[[Setting], Played]:
    """Written voices, each by the instrument of the families `choose(setting, voice)` that it suits best."""

    def play(it: Setting) -> Played:
        if not it.lower:
            raise ValueError("a consort plays several written voices, and this tune has one")
        voices, shift = _fitting_melody(it)
        for v in it.lower:
            notes = it.written(v, shift)
            program, octaves = best_member(choose(it, v), notes)
            notes = into_range(notes, program, octaves)
            voices.append(Voice(_role(notes, v == it.lower[-1]), program.number, notes))
        if it.drums:
            voices.append(Voice("drums", 0, beaten(it.tune.metre, len(it.content), it.length)))
        return voices, shift

    return play


def _any_family(it: Setting, voice: int) -> tuple[str, ...]:
    names = tuple(FAMILIES)
    return (names[int(it.rng.integers(len(names)))],)


@dataclass(frozen=True)
class Ensemble:
    """How an ensemble plays, and for which melody families it may be chosen (empty: all)."""

    play: Callable[[Setting], Played]
    written: bool
    """Whether it needs tunes with several written voices."""
    families: tuple[str, ...] = ()


ENSEMBLES: dict[str, Ensemble] = {
    "plain": Ensemble(_plain, False),
    "band": Ensemble(_band, False),
    "choir": Ensemble(_consort(lambda it, v: ("choir",)), True, ("choir",)),
    "strings": Ensemble(_consort(lambda it, v: ("solo strings",)), True, ("solo strings",)),
    "brass": Ensemble(_consort(lambda it, v: ("brass",)), True, ("brass",)),
    "organ": Ensemble(_consort(lambda it, v: ("organ",)), True, ("organ",)),
    "winds": Ensemble(_consort(lambda it, v: ("flute", "orchestral reeds")), True, ("flute", "orchestral reeds")),
    "mixed": Ensemble(_consort(_any_family), True),
}
"""Name -> ensemble; `plain` plays tunes of one voice and of several."""


def choose_ensemble(tune: Tune, family: str, rng: np.random.Generator) -> str:
    """The name of an ensemble that can play `tune` with `family` on the melody, all of them equally likely.

    The family stays the one that was planned, so that the balance of the families does not move.
    """
    several = any(n[3] for run in tune.runs for bar in run for n in bar)
    names = [
        name
        for name, e in ENSEMBLES.items()
        if (name == "plain" or e.written == several) and (not e.families or family in e.families)
    ]
    return names[int(rng.integers(len(names)))]
