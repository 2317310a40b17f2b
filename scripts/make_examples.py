"""Make the chat page's example clips: four short pieces written for this project, played by our own renderer.

    python scripts/make_examples.py          writes serve/examples/*.flac, the same bytes on every machine

The music is ours (Apache-2.0, as the code). It is played with TimGM6mb, the soundfont inside the wheel of pretty_midi.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from mllm.score import Note, Score, read_score, to_midi
from mllm.synthesis import default_soundfont, render

RATE = 22_050
FOLDER = Path(__file__).resolve().parents[1] / "serve" / "examples"


@dataclass(frozen=True)
class Piece:
    """A melody in ABC, one chord a bar, and who plays."""

    abc: str
    chords: str  # one a bar: MIDI pitches of the chord from its bass, joined by dots
    pattern: str  # one letter an equal part of the bar: b(ass), c(hord), 1-3 (chord notes singly), . (rest)
    programs: tuple[int, ...]  # General MIDI: melody, accompaniment
    quarters_a_minute: float


PIECES = {
    "waltz": Piece(
        "X:1\nM:3/4\nL:1/8\nK:G\nd2 B2 G2|A2 B2 c2|B4 G2|A6|d2 e2 f2|g2 d2 B2|c2 A2 F2|G6|]",
        "43.59.62.67 38.57.60.66 43.59.62.67 38.57.60.66 48.60.64.67 43.59.62.67 38.57.60.66 43.59.62.67",
        "bcc",
        (73, 24),
        150,
    ),
    "jig": Piece(
        "X:1\nM:6/8\nL:1/8\nK:D\nAFA d2f|edc d2A|BGB e2g|fed c2A|AFA d2f|edc B2A|gec ABc|d3 d3|]",
        "",
        "",
        (21,),
        170,
    ),
    "air": Piece(
        "X:1\nM:4/4\nL:1/8\nK:Am\nA3 B c2 e2|d3 c B2 ^G2|A2 e2 c2 A2|]",
        "45.57.60.64 40.56.59.62 45.57.60.64",
        "b123b123",
        (40, 46),
        76,
    ),
    "march": Piece(
        "X:1\nM:4/4\nL:1/8\nK:Bb\nB3 B d2 f2|e3 c A2 F2|G3 A B2 d2|c2 A2 B4|]",
        "46.58.62.65 41.57.60.63 43.58.62.67 41.58.62.65",
        "bcbc",
        (56, 58),
        112,
    ),
}


def arrange(piece: Piece) -> Score:
    """The melody with its accompaniment as a second voice."""
    score = read_score(piece.abc)
    bar = score.bar_length
    assert bar is not None
    notes = list(score.notes)
    for i, chord in enumerate(piece.chords.split()):
        pitches = [int(pitch) for pitch in chord.split(".")]
        step = bar / len(piece.pattern)
        for k, letter in enumerate(piece.pattern):
            played = {"b": pitches[:1], "c": pitches[1:], ".": []}.get(letter)
            for pitch in played if played is not None else [pitches[int(letter)]]:
                notes.append(Note(i * bar + k * step, step, pitch, 1))
    return Score("", sorted(notes), score.key, score.metre, piece.quarters_a_minute)


def play(piece: Piece) -> np.ndarray:
    """Float32 mono [samples] at `RATE`, peak 0.35, faded out over the last fifth of a second."""
    sound = render(to_midi(arrange(piece), programs=piece.programs), default_soundfont(), RATE).mean(axis=1)
    fade = RATE // 5
    sound[-fade:] *= np.linspace(1, 0, fade, dtype=np.float32)
    return sound * (0.35 / np.abs(sound).max())


def main() -> None:
    """Write all clips and print their length and size."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, piece in PIECES.items():
        path = FOLDER / f"{name}.flac"
        sound = play(piece)
        soundfile.write(path, sound, RATE, subtype="PCM_16")
        print(f"{path.name}: {len(sound) / RATE:.1f} s, {path.stat().st_size // 1024} KB")


if __name__ == "__main__":
    main()
