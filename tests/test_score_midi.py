"""What MIDI can and cannot say: drums, channels, metres, tempi."""

import numpy as np
import pytest

from mllm.score import DRUMS, Key, Note, Score, ScoreError, facts, read_midi, to_midi, transpose
from mllm.synthesis import render

NAMES = ["Piano", "Flute", "Violin", "Trumpet", "Oboe", "Clarinet", "Bassoon", "Cello", "Harp", "Tuba"]
NAMES += ["Trombone", "Viola", "Celesta", "Marimba", "Piccolo", "Xylophone"]


def scored(names: list[str]) -> Score:
    """A quarter for each voice in turn, four quarters apart."""
    return Score("", [Note(4 * i, 1, 60, i) for i in range(len(names))], Key("C"), (4, 4), 120.0, instruments=names)


def test_drums_have_no_pitch_and_are_not_transposed() -> None:
    score = Score("", [Note(0, 1, 36, 1), Note(0, 1, 60, 0)], Key("C"), (4, 4), instruments=["Flute", DRUMS])
    assert facts(score)["lowest"] == "C4" and facts(score)["notes"] == 1
    assert sorted(n.pitch for n in transpose(score, 2).notes) == [36, 62]
    assert read_midi(to_midi(score)).instruments == ["Flute", DRUMS]


@pytest.mark.parametrize("voices", [1, 15, 16, 40])
def test_every_voice_sounds_as_its_instrument_however_many_there_are(voices: int) -> None:
    alone = render(to_midi(scored(["Piano"])))[:24_000].mean(1)  # half a second: the first note
    names = ["Piano", *(NAMES[i % 15] for i in range(1, voices))]
    among = render(to_midi(scored(names)))[:24_000].mean(1)
    assert np.corrcoef(alone, among)[0, 1] > 0.99


def test_more_instruments_than_channels_are_refused() -> None:
    with pytest.raises(ScoreError, match="16 different instruments"):
        to_midi(scored(NAMES), programs=range(16))


@pytest.mark.parametrize("metre", [(4, 256), (300, 8), (4, 3), (4, 999)])
def test_a_metre_that_midi_cannot_say_is_left_out(metre: tuple[int, int]) -> None:
    assert read_midi(to_midi(Score("", [Note(0, 1, 60)], metre=metre))).metre != metre


def test_a_tempo_that_midi_cannot_say_is_refused() -> None:
    with pytest.raises(ScoreError, match="a tempo of 1 quarters a minute"):
        to_midi(Score("", [Note(0, 1, 60)], tempo=1.0))
    assert read_midi(to_midi(Score("", [Note(0, 1, 60)], tempo=4.0))).tempo == pytest.approx(4.0, rel=1e-3)
