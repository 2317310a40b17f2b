"""Small pieces whose every fact is known: public-domain tunes of music21's corpus, set anew for the bench.

Key, metre and notes are the tune's; tempo and instruments are drawn, and half of the pieces get a triad a bar.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

from mllm.errors import ScoreError
from mllm.score import Key, Note, Score, read_score, tune_numbers
from mllm.score_types import ChordSymbol

BENCH_TUNES = ("ryansMammoth", "airdsAirs")
DEVELOPMENT_TUNES = ("oneills1850",)  # what the thresholds in `mllm.audio_checks` were chosen on
INSTRUMENTS = (
    "Flute", "Violin", "Acoustic Grand Piano", "Clarinet", "Trumpet", "Oboe", "Accordion", "Acoustic Guitar (nylon)",
    "Harpsichord", "Church Organ", "Alto Sax", "Orchestral Harp",
)  # fmt: skip
ACCOMPANIMENT = ("Acoustic Grand Piano", "Acoustic Guitar (nylon)", "Church Organ", "Accordion")
LONGEST = 45.0  # seconds
BARS = (8, 40)
MODES = ("major", "minor", "dorian", "mixolydian")
_TRIADS = {"": (0, 4, 7), "m": (0, 3, 7)}
_BASS = 48  # MIDI pitch from which on triads are stacked


@dataclass(frozen=True)
class Piece:
    """A score and what was put into it."""

    name: str
    score: Score
    beat: float  # quarters in a beat of its metre
    bars: tuple[tuple[float, float], ...]  # start and end of each full bar, quarters
    melody: tuple[Note, ...]  # of the first voice

    @property
    def bpm(self) -> float:
        """Beats a minute."""
        return (self.score.tempo or 0) / self.beat


def make_pieces(
    collections: tuple[str, ...], count: int, seed: int, without: frozenset[str] = frozenset()
) -> list[Piece]:
    """`count` pieces of folders of music21's corpus, the same ones for the same seed.

    Args:
        without: titles, as `same_title` writes them, of tunes to leave out.

    Raises:
        ScoreError: this music21 has no corpus, or the folders hold too few fitting tunes.
    """
    draw = random.Random(seed)
    tunes = list(_tunes(collections))
    draw.shuffle(tunes)
    pieces: list[Piece] = []
    titles = set(without)
    for name, number, text in tunes:
        if len(pieces) == count:
            return pieces
        try:
            score = read_score(text, number=number)
        except ScoreError:
            continue
        if same_title(score.title) in titles:
            continue
        if piece := _set(f"{name}#{number}", score, draw, accompanied=len(pieces) % 2 == 0):
            pieces.append(piece)
            titles.add(same_title(score.title))
    if len(pieces) < count:
        raise ScoreError(f"{', '.join(collections)}: only {len(pieces)} tunes fit, {count} are wanted")
    return pieces


def same_title(title: str) -> str:
    """A title without kind, articles and spelling: "The Rakes of Mallow -- Reel" is "rakesofmallow"."""
    return re.sub(r"\W|^(?:the|a) ", "", title.lower().partition(" -- ")[0])


def _tunes(collections: tuple[str, ...]) -> Iterator[tuple[str, int, str]]:
    """File name, number and text of each tune."""
    spec = find_spec("music21")
    corpus = Path(spec.origin or "").parent / "corpus" if spec else Path()
    for collection in collections:
        files = sorted((corpus / collection).glob("*.abc"))
        if not files:
            raise ScoreError(f"{corpus / collection}: not there: this music21 has no corpus, install it from PyPI")
        for file in files:
            text = file.read_bytes().decode("utf-8", errors="replace") + "\n"
            for number in tune_numbers(text):
                yield f"{collection}/{file.stem}", number, text


def _set(name: str, score: Score, draw: random.Random, accompanied: bool) -> Piece | None:
    """The tune with a tempo and instruments of its own, or None where a fact of it would be in doubt."""
    key, metre, length = score.key, score.metre, score.bar_length
    if key is None or key.mode not in MODES or metre is None or length is None or score.changes or score.graces:
        return None
    beat = 1.5 if metre[1] == 8 and metre[0] % 3 == 0 else 4 / metre[1]
    bpm = draw.choice(range(66, 150, 2))
    count = round((score.length - score.pickup) / length)
    starts = [score.pickup + i * length for i in range(count + 1)]
    off_grid = [b for b in score.bars if min(abs(b - s) for s in [0.0, *starts]) > 1e-6]
    whole = length - score.pickup if score.pickup else 0.0  # a last bar that the pickup completes
    left = score.length - score.pickup - count * length
    if off_grid or not (abs(left) < 1e-6 or abs(left + length - whole) < 1e-6) or not BARS[0] <= count <= BARS[1]:
        return None
    melody = tuple(n for n in score.notes if n.voice == 0)
    onsets = [n.onset for n in melody]
    seconds = score.length * 60 / (bpm * beat)
    if len(melody) != len(score.notes) or len(set(onsets)) < len(onsets) or seconds > LONGEST or len(melody) < 16:
        return None
    bars = tuple((s, min(s + length, score.length)) for s in starts[:count])
    made = Score(
        title=score.title, notes=list(melody), key=key, metre=metre, tempo=bpm * beat, pickup=score.pickup,
        instruments=[draw.choice(INSTRUMENTS)],
    )  # fmt: skip
    if accompanied:
        made = _accompany(made, bars, draw.choice(ACCOMPANIMENT))
    return Piece(name, made, beat, bars, melody)


def _accompany(score: Score, bars: tuple[tuple[float, float], ...], instrument: str) -> Score:
    """A triad of the key in each bar: the one that holds most of the melody there."""
    assert score.key is not None
    choices = _triads_of(score.key)
    notes, symbols = list(score.notes), []
    for start, end in bars:
        inside = [n for n in score.notes if start - 1e-6 <= n.onset < end - 1e-6]

        def held(triad: tuple[int, str], inside: list[Note] = inside) -> float:
            return sum(n.duration for n in inside if (n.pitch - triad[0]) % 12 in _TRIADS[triad[1]])

        root, kind = max(choices, key=held)
        symbols.append(ChordSymbol(start, _pitch_name(root, score.key) + kind))
        for step in _TRIADS[kind]:
            notes.append(Note(start, end - start, _BASS + (root + step - _BASS) % 12, 1))
    return replace(score, notes=sorted(notes), chords=tuple(symbols), instruments=[*score.instruments, f"{instrument}"])


def _triads_of(key: Key) -> list[tuple[int, str]]:
    """Major and minor triads that the key's signature gives, the tonic's first: root and kind."""
    major = (Key.from_signature(key.signature).pitch_class) % 12
    triads = [((major + s) % 12, kind) for s, kind in ((0, ""), (5, ""), (7, ""), (9, "m"), (2, "m"), (4, "m"))]
    return sorted(triads, key=lambda t: t[0] != key.pitch_class)


def _pitch_name(pitch_class: int, key: Key) -> str:
    return key.spell(60 + pitch_class).rstrip("-0123456789")
