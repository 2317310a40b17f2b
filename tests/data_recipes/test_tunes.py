"""Tunes, splits, plans and performances: the facts agree with the notes that sound."""

from collections import Counter

import numpy as np
import pytest

from mllm.data_recipes.arrange import arrange, excerpt, harmony, starts
from mllm.data_recipes.clip import contour, make_clip
from mllm.data_recipes.config import HERE, find_soundfont, load_mixture
from mllm.data_recipes.instruments import FAMILIES, NAMES
from mllm.data_recipes.perform import perform
from mllm.data_recipes.plan import plan_clips, split_tunes
from mllm.data_recipes.sources_music21 import first_voice, parse, stated_key
from mllm.data_recipes.tonal import tonal_tune
from mllm.data_recipes.tune import METRES, Tune, analysed_key, key_name, note_name, split_of, works
from mllm.score import Key

ABC = """X: 1
T: A test tune
M: 3/4
L: 1/8
K: G
D2 | G4 B2 | d4 B2 | c2 B2 A2 | B4 G2 | A4 F2 | D4 F2 | A2 B2 A2 | G6 :|
|: d4 B2 | G4 B2 | c2 B2 A2 | B4 G2 | A4 F2 | D4 F2 | A2 B2 A2 | G6 :|
"""


def test_abc_becomes_whole_bars_with_key_and_metre() -> None:
    tune, why = parse("mine", ("mine/1", {"abc": ABC, "key": "stated"}))
    assert why == "" and tune is not None
    assert (tune.tonic, tune.mode, tune.metre) == (7, "major", (3, 4))
    assert tune.runs[0][0] == [(0.0, 2.0, 67, 0), (2.0, 1.0, 71, 0)]
    assert sum(len(run) for run in tune.runs) == 16
    assert Tune.from_json(tune.to_json()) == tune


@pytest.mark.parametrize(
    "change, why",
    [
        (("K: G", "K: Hp"), "key or mode"),
        (("K: G", "K: Em"), "disagree"),
        (("M: 3/4", "M: 5/4"), "metre"),
        (("M: 3/4\n", ""), "no metre"),
        ((" | c2", " | [K:D] c2"), "several keys"),
    ],
)
def test_unusable_tunes_are_skipped_with_a_reason(change: tuple[str, str], why: str) -> None:
    tune, reason = parse("mine", ("mine/1", {"abc": ABC.replace(*change), "key": "stated"}))
    assert tune is None and why in reason


@pytest.mark.parametrize(
    "text, key",
    [
        ("K:F#m", (6, "minor")),
        ("K: A Mixolydian", (9, "mixolydian")),
        ("K:Bb\nabc", (10, "major")),
        ("K:Ador", (9, "dorian")),
        ("K:G Lydian", None),
        ("K:none", None),
    ],
)
def test_stated_keys(text: str, key: tuple[int, str] | None) -> None:
    assert stated_key("X:1\n" + text) == key


def test_first_voice_leaves_the_piano_and_the_words_out() -> None:
    text = 'X:1\nK:C\nV:1 treble\nV:2 bass\nV:1\n"G7"c4 |\nw: la\nV:2\nC,4 |\nV:1\nd4 |\n'
    assert first_voice(text) == "X:1\nK:C\nc4 |\nd4 |"


def test_generated_tunes_state_their_key_and_fill_their_bars() -> None:
    agree = 0
    tunes = [tonal_tune(n) for n in range(120)]
    assert tonal_tune(17) == tunes[17]
    assert Counter(t.metre for t in tunes) == dict.fromkeys(METRES, 30)
    for tune in tunes:
        for bar in tune.runs[0]:
            assert bar[-1][0] + bar[-1][1] == pytest.approx(tune.bar_quarters)
        if tune.mode in ("major", "minor"):
            agree += analysed_key(tune.melody()) == (tune.tonic, tune.mode)
    assert agree > 0.85 * 120


def test_no_work_is_in_two_splits() -> None:
    tunes = [tonal_tune(n) for n in range(400)]
    again = Tune(
        "oneill/1",
        "Other name",
        "oneill",
        2,
        tunes[3].mode,
        tunes[3].metre,
        [[[(o, d, p + 2, v) for o, d, p, v in bar] for bar in run] for run in tunes[3].runs],
    )
    same_title = [
        Tune(f"{s}/9", title, s, 0, "major", (4, 4), tonal_tune(900 + i).runs)
        for i, (s, title) in enumerate([("ryan", "The White Cockade"), ("aird", "White Cockade, The")])
    ]
    work = works([*tunes, again, *same_title])
    assert work[again.id] == work[tunes[3].id] and work["ryan/9"] == work["aird/9"]
    split = split_tunes([*tunes, again, *same_title], load_mixture(HERE / "mixtures" / "mini.yaml"))
    ids = {name: {work[t.id] for t in part} for name, part in split.items()}
    assert (
        not ids["train"] & ids["test"] and not ids["train"] & ids["validation"] and not ids["validation"] & ids["test"]
    )
    assert 0.8 < len(split["train"]) / 403 < 0.97 and ids["test"]
    assert split_of("x", 0.9, 0.04) == split_of("x", 0.9, 0.04)


def test_every_prefix_of_the_plan_is_balanced() -> None:
    mixture = load_mixture(HERE / "mixtures" / "mini.yaml")
    tunes = [tonal_tune(n) for n in range(600)]
    units = plan_clips(
        mixture,
        tunes,
        {"train": {"a": 1.0}, "validation": {"a": 1.0}, "test": {"b": 1.0}},
    )
    assert [u.split for u in units] == sorted((u.split for u in units), key=["test", "validation", "train"].index)
    train = [c for u in units if u.split == "train" for c in u.clips][:480]
    assert set(Counter(c.family for c in train).values()) == {30}
    assert set(Counter(c.tonic for c in train).values()) == {40}
    test = [c for u in units if u.split == "test" for c in u.clips]
    assert len(test) >= 600 and all(not c.short and not c.second_family and not c.drums for c in test)
    held_out = {t.id for t in split_tunes(tunes, mixture)["train"]}
    assert not held_out & {i for c in test for i in c.candidates}


@pytest.mark.parametrize("number", range(8))
def test_facts_agree_with_the_notes_that_sound(number: int) -> None:
    mixture = load_mixture(HERE / "mixtures" / "tiny.yaml")
    tunes = [tonal_tune(n) for n in range(40)]
    units = plan_clips(mixture, tunes, {s: {"TimGM6mb": 1.0} for s in ("train", "validation", "test")})
    plan = [c for u in units if u.split == "train" for c in u.clips][number]
    tune = next(t for t in tunes if t.id == plan.candidates[0])
    font = find_soundfont(mixture.soundfonts[0])
    assert font is not None
    clip = make_clip(plan, tune, mixture, font)
    facts = clip.facts
    assert facts["key"] == key_name(plan.tonic, tune.mode) and facts["metre"] == f"{tune.metre[0]}/{tune.metre[1]}"
    assert (tune.tonic + facts["transposition"]) % 12 == plan.tonic
    assert 50 <= facts["tempo"] <= 200 and set(facts["instruments"]) <= {*NAMES, "drums"}
    sounding = [(e.onset, clip.voices[e.voice].role == "drums", e.pitch) for e in clip.events]
    bar = 60 / facts["tempo"] * tune.bar_quarters / tune.beat_quarters
    bars = int(np.ceil((facts["seconds"] - facts["lead_in"]) / bar)) + 1
    written = [
        p + facts["transposition"] for b in excerpt(tune, facts["start_bar"], bars) for o, d, p, v in b if v == 0
    ]
    pitches = [p for _, drum, p in sounding if not drum]
    assert facts["first_notes"] == [note_name(p, plan.tonic, tune.mode) for p in written[:3]]
    names = {note_name(p, plan.tonic, tune.mode) for p in pitches}
    assert {facts["lowest"], facts["highest"]} <= names
    assert sounding[-1][0] < facts["seconds"] and abs(sounding[0][0] - facts["lead_in"]) < 0.03 + tune.runs[0][0][0][0]
    again = make_clip(plan, tune, mixture, font)
    assert again.facts == facts and np.array_equal(again.samples, clip.samples)


@pytest.mark.parametrize("metre", METRES)
def test_accompaniment_has_one_low_onset_pattern_a_metre(metre: tuple[int, int]) -> None:
    tune = next(t for t in map(tonal_tune, range(8)) if t.metre == metre)
    rng = np.random.default_rng(3)
    piece = arrange(tune, 0, 4, 2, "piano", rng, True, None, False)
    bass = next(v for v in piece.voices if v.role == "bass")
    per_bar = 2 if metre == (6, 8) else 1
    assert len(bass.notes) == 4 * per_bar and bass.notes[0][0] == 0
    assert max(p for _, _, p in bass.notes) < np.median([p for _, _, p in piece.voices[0].notes])
    loud = perform(piece, 120, 0.0, rng)
    onset = 60 / 120 / tune.beat_quarters * tune.bar_quarters
    down = [e.velocity for e in loud if e.voice == 0 and abs(e.onset / onset - round(e.onset / onset)) < 0.03]
    rest = [e.velocity for e in loud if e.voice == 0 and abs(e.onset / onset - round(e.onset / onset)) > 0.1]
    assert np.mean(down) > np.mean(rest) + 15


@pytest.mark.parametrize("family", NAMES)
def test_melodies_stay_where_the_instrument_plays(family: str) -> None:
    rng = np.random.default_rng(1)
    for number in range(12):
        piece = arrange(tonal_tune(number), 0, 4, number, family, rng, number % 2 == 0, None, False)
        program = next(p for p in FAMILIES[family] if p.number == piece.voices[0].program)
        pitches = [p for _, _, p in piece.voices[0].notes]
        assert sum(program.low <= p <= program.high for p in pitches) >= 0.8 * len(pitches)


def test_harmony_starts_and_ends_at_home() -> None:
    tune = tonal_tune(2)
    chords = harmony(tune.runs[0], tune.tonic, tune.mode)
    assert chords[0][0] == tune.tonic and chords[-1][0] == tune.tonic
    assert len(chords) == len(tune.runs[0]) and starts(tune, 4)[0] == 0


def test_contour_words() -> None:
    assert contour([60, 62, 64, 65, 67, 69]) == "rising" and contour([69, 67, 65, 64, 62, 60]) == "falling"
    assert contour([60, 60, 67, 67, 60, 60]) == "arch" and contour([67, 67, 60, 60, 67, 67]) == "valley"
    assert contour([60, 61, 60, 60, 60, 60]) == "level"


def test_notes_are_spelled_by_their_key() -> None:
    assert [note_name(65, *key) for key in ((6, "major"), (0, "major"), (10, "minor"))] == ["E#4", "F4", "F4"]
    assert [note_name(p, 9, "minor") for p in (68, 70, 60, 59)] == ["G#4", "Bb4", "C4", "B3"]
    for tonic in range(12):
        for mode in ("major", "minor", "dorian", "mixolydian"):
            key = Key(*key_name(tonic, mode).split())
            assert all(note_name(p, tonic, mode) == key.spell(p) for p in range(128))
