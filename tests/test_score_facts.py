"""Facts of scores against what the sources say of themselves: headers, gamuts, measure numbers, analyses; and laws."""

import json
import re
from collections import Counter
from dataclasses import replace
from fractions import Fraction
from functools import cache
from pathlib import Path

import music21
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from music21 import converter, corpus, features, interval

from mllm.score import DRUMS, Key, Note, Score, facts, read_abc, read_score, transpose
from mllm.score_bars import bar_at, bar_contents, bars_of_score
from mllm.score_facts import AllFacts, all_facts
from mllm.score_form import form
from mllm.score_melody import intervals, motion
from mllm.score_repeats import unfold
from mllm.score_rhythm import note_values, polyphony

CORPUS = Path(music21.__file__).parent / "corpus"
# Tunes of printed collections from before 1920, and chorales by Bach: all in the public domain.
TUNES = {
    "Fare You Well": ("oneills1850/0001-0050.abc", 2),
    "The White Cockade": ("airdsAirs/book1.abc", 1),
    "Quick Step": ("airdsAirs/book1.abc", 2),
    "The Lads of the Village": ("airdsAirs/book1.abc", 3),
    "I'll Touzle your Kurchy": ("airdsAirs/book1.abc", 4),
    "Acacia": ("ryansMammoth/AcaciaReel.abc", 1),
    "Cuckoo's Nest": ("nottingham-dataset/reelsa-c.abc", 80),
}
CHORALES = {"bwv269": "001", "bwv347": "002", "bwv281": "006"}  # and their numbers in Riemenschneider's edition
HEADER = "X:1\nM:4/4\nL:1/4\nK:C\n"
law = settings(max_examples=50, deadline=None)

moments = st.integers(0, 24 * 12).map(lambda n: n / 12)
notes = st.builds(Note, moments, st.integers(1, 48).map(lambda n: n / 12), st.integers(40, 90), st.integers(0, 1))
keys = st.builds(Key.of, st.integers(0, 11), st.sampled_from(["major", "minor", "dorian", "mixolydian"]))
scores = st.builds(
    Score,
    notes=st.lists(notes, min_size=1, max_size=40).map(sorted),
    key=keys,
    metre=st.sampled_from([(4, 4), (3, 4), (6, 8), (7, 8)]),
    pickup=st.sampled_from([0.0, 0.5, 1.0]),
    instruments=st.just(["Flute", "Cello"]),
    keys=st.just(()) | keys.map(lambda k: ((8.0, k),)),
    metres=st.just(()) | st.sampled_from([(2, 4), (5, 8)]).map(lambda m: ((10.5, m),)),
)
melodies = st.lists(st.tuples(st.integers(1, 12), st.integers(40, 90), st.booleans()), min_size=1, max_size=40)


@cache
def tune(name: str) -> Score:
    file, number = TUNES[name]
    return read_abc((CORPUS / file).read_text("latin-1"), number=number)


@cache
def chorale(name: str) -> Score:
    return read_score(CORPUS / "bach" / f"{name}.mxl")


@cache
def everything(name: str) -> AllFacts:
    return all_facts(tune(name) if name in TUNES else chorale(name))


def melody(steps: list[tuple[int, int, bool]]) -> Score:
    """One voice without chords, of (length in sixths of a quarter, pitch, whether a rest comes after)."""
    found, now = [], 0.0
    for length, pitch, rest in steps:
        found.append(Note(now, length / 6, pitch))
        now += length / 6 + rest
    return Score(notes=found, key=Key("C"), metre=(4, 4), instruments=[""])


# ---- what is written ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "key_name", "metre", "tempo", "bars", "pickup"),
    [  # K:, M:, Q: of the header; bars counted on the page
        ("Fare You Well", "D major", "2/4", None, 24, True),
        ("The White Cockade", "G major", "2/2", 224.0, 16, True),
        ("Quick Step", "G major", "2/4", 89.0, 16, False),
        ("The Lads of the Village", "G major", "2/4", 104.0, 16, False),
        ("I'll Touzle your Kurchy", "E minor", "6/8", 180.0, 16, True),
        ("Cuckoo's Nest", "D major", "4/4", None, 16, True),
    ],
)
def test_key_metre_tempo_and_bars_of_tunes(
    name: str, key_name: str, metre: str, tempo: float | None, bars: int, pickup: bool
) -> None:
    told = facts(tune(name))
    assert (told["key"], told["metre"], told["tempo"], told["bars"]) == (key_name, metre, tempo, bars)
    assert told["pickup"] == pickup and told["voices"] == 1 and told["changes"] == []


@pytest.mark.parametrize("name", CHORALES)
def test_key_metre_bars_and_instruments_of_chorales_are_those_of_their_analyses(name: str) -> None:
    """RomanText numbers its bars as the editions do."""
    text = (CORPUS / f"bach/choraleAnalyses/riemenschneider{CHORALES[name]}.rntxt").read_text()
    assert f"BWV: {name[3:]}" in text
    told = everything(name)
    assert told["bars"] == max(int(bar) for bar in re.findall(r"^m(\d+)", text, re.MULTILINE))
    assert told["metre"] == re.findall(r"Time Signature: *(\S+)", text)[0]
    assert told["key"] == told["key_analysed"] == f"{re.findall(r'([A-G]): I$', text, re.MULTILINE)[0]} major"
    assert told["instruments"] == ["Soprano", "Alto", "Tenor", "Bass"] and told["voices"] == told["polyphony"] == 4
    assert told["mean_polyphony"] == 4.0 and told["pickup"]


@pytest.mark.parametrize(
    "name", ["The White Cockade", "Quick Step", "The Lads of the Village", "I'll Touzle your Kurchy"]
)
def test_range_and_notes_are_the_gamut_that_the_encoder_wrote_beside_the_tune(name: str) -> None:
    """Jack Campin's files of Aird's collection list the notes that each tune uses: `%% D ^F G A B c d e ^f g a`."""
    score = tune(name)
    gamut = re.search(r"^%% (.*)$", score.abc or "", re.MULTILINE)
    assert gamut
    listed = HEADER.replace("K:", "I:propagate-accidentals not\nK:") + gamut[1]
    used = sorted({n.pitch for n in read_abc(listed).notes})
    told = facts(score)
    spell = (score.key or Key("C")).spell
    assert (told["lowest"], told["highest"], told["range"]) == (spell(used[0]), spell(used[-1]), used[-1] - used[0])
    assert {name for bar in bar_contents(score) for name in bar["names"]} == {spell(pitch) for pitch in used}


# ---- counted --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["The White Cockade", "I'll Touzle your Kurchy", "Acacia"])
def test_notes_intervals_and_note_values_are_what_music21_reads(name: str) -> None:
    """An independent reader, which has the notes' own spelling."""
    stream = converter.parse(tune(name).abc, format="abc").stripTies()
    sounding = [n for n in stream.flatten().notes if not n.duration.isGrace]
    told = everything(name)
    assert told["notes"] == len(sounding)
    assert told["rhythm"] == Counter(str(Fraction(n.quarterLength)) for n in sounding)
    assert told["commonest_value"] == Counter(told["rhythm"]).most_common(1)[0][0]
    steps = [interval.Interval(a, b) for a, b in zip(sounding, sounding[1:], strict=False)]
    assert told["intervals"] == Counter(step.name for step in steps)
    assert told["largest_leap"] == max(steps, key=lambda step: abs(step.semitones)).name
    widths = [interval.Interval(name).semitones for name in told["intervals"]]
    assert widths == sorted(widths)


@pytest.mark.parametrize("name", ["The White Cockade", "I'll Touzle your Kurchy", "Quick Step"])
def test_repeats_and_steps_are_those_of_jsymbolic(name: str) -> None:
    stream = converter.parse(tune(name).abc, format="abc").stripTies()
    repeated, stepwise = (
        round(feature(stream).extract().vector[0], 3)
        for feature in (features.jSymbolic.RepeatedNotesFeature, features.jSymbolic.StepwiseMotionFeature)
    )
    told = everything(name)["motion"]
    assert told and (told["repeats"], told["steps"]) == (repeated, stepwise)
    assert told["leaps"] == pytest.approx(1 - repeated - stepwise, abs=2e-3)


@pytest.mark.parametrize(
    ("name", "shape"),
    [("bwv269", "ascending"), ("bwv281", "arch"), ("The White Cockade", "ascending"), ("Fare You Well", "arch")],
)
def test_contour_by_thirds_of_what_music21_reads(name: str, shape: str) -> None:
    source = tune(name).abc if name in TUNES else None
    part = converter.parse(source, format="abc") if source else corpus.parse(f"bach/{name}").parts[0]
    sounding = [(float(n.offset), float(n.quarterLength), n.pitch.midi) for n in part.stripTies().flatten().notes]
    end = max(onset + length for onset, length, _ in sounding)
    means = []
    for third in range(3):
        inside = [(length, pitch) for onset, length, pitch in sounding if int(onset / end * 3 + 1e-9) == third]
        means.append(sum(length * pitch for length, pitch in inside) / sum(length for length, _ in inside))
    rises = [(b - a >= 1) - (a - b >= 1) for a, b in zip(means, means[1:], strict=False)]
    assert rises in {"ascending": ([1, 1], [1, 0], [0, 1]), "arch": ([1, -1],)}[shape]
    assert everything(name)["contour"] == shape


def test_chords_and_voices_sound_at_once() -> None:
    assert polyphony(read_abc(HEADER + "[CEG]2 c2|")) == (3, 2.0)
    assert polyphony(read_abc(HEADER + "CD z2|")) == (1, 1.0)  # a rest is no part of the mean
    drums = Score(notes=[Note(0, 1, 36, 1), Note(0, 1, 60)], instruments=["Flute", DRUMS])
    assert polyphony(drums) == (1, 1.0) and note_values(drums) == {"1": 1}
    assert polyphony(Score(notes=[], instruments=[])) == (0, None)


# ---- bars -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*CHORALES, "bwv41.6"])
def test_bars_hold_what_the_measures_of_the_file_hold(name: str) -> None:
    """Numbers are those printed in the file, where 10a or a second 14 is the rest of a bar; 41.6 changes its metre."""
    printed: Counter[int] = Counter()
    lengths: Counter[int] = Counter()
    piece = corpus.parse(f"bach/{name}.mxl")
    for part in piece.parts:
        for measure in part.getElementsByClass("Measure"):
            lengths[measure.number] += float(measure.quarterLength) if part is piece.parts[0] else 0
            for n in measure.flatten().notes:
                printed[measure.number] += n.tie is None or n.tie.type == "start"
    told = bar_contents(chorale(name))
    assert {bar["bar"]: bar["notes"] for bar in told} == dict(printed)
    assert {bar["bar"]: bar["quarters"] for bar in told} == dict(lengths)
    assert facts(chorale(name))["bars"] == max(printed)
    if name == "bwv41.6":
        assert {bar["metre"] for bar in told} == {"4/4", "3/4"} and told[20]["metre"] == "3/4"


def test_what_stands_in_a_bar() -> None:
    told = bar_contents(read_abc(HEADER.replace("K:C", "K:D") + "A|defg|a2-a=f:|e|d4-|d3|]\n"))
    assert [bar["bar"] for bar in told] == [0, 1, 2, 3, 4, 5]
    assert [bar["names"] for bar in told] == [["A4"], ["D5", "E5", "F#5", "G5"], ["A5", "F5"], ["E5"], ["D5"], []]
    assert [bar["full"] for bar in told] == [False, True, True, False, True, False]
    assert told[2] == {
        "bar": 2, "start": 5.0, "quarters": 4.0, "metre": "4/4", "full": True, "notes": 2, "names": ["A5", "F5"],
    }  # fmt: skip
    assert bar_contents(read_abc("X:1\nM:none\nL:1/4\nK:C\nCDE|F\n")) == []


@pytest.mark.parametrize(
    ("body", "bars"),
    [
        ("C|DEFG|ABc:|d|cBAG|FED|]", 4),  # the third bar is broken up around the repeat
        ("CDEF|GABc||d2|ef|gabc'|", 4),  # two short pieces of one bar
        ("CDEF|GA|Bcd|cBAG|", 4),  # these do not add up to one
        ("CDEF|Z4|GABc|", 6),
        ("CDEF|[M:3/4]GAB|cde|[M:2/4]fg|", 4),
        ("CDEFGA|cBAG|", 2),  # too long a bar, as written
        ("CDEFGABc", 2),  # without bar lines by the metre
        ("CDEF|G8", 3),
    ],
)
def test_counting_bars(body: str, bars: int) -> None:
    score = read_abc(HEADER + body)
    assert facts(score)["bars"] == bars
    numbers = [bar.number for bar in bars_of_score(score)]
    assert numbers == list(range(int(not score.pickup), bars + 1))


def test_bars_by_the_metre_where_nothing_is_drawn() -> None:
    score = Score(
        notes=[Note(t, 1, 60) for t in range(16)], metre=(4, 4), pickup=1.0, metres=((9.0, (3, 4)),), instruments=[""]
    )
    assert [(bar.number, bar.start, bar.end) for bar in bars_of_score(score)] == [
        (0, 0, 1), (1, 1, 5), (2, 5, 9), (3, 9, 12), (4, 12, 15), (5, 15, 16),
    ]  # fmt: skip
    assert facts(score)["bars"] == 5
    cut_short = replace(score, metres=((7.0, (3, 4)),))
    assert [bar.end for bar in bars_of_score(cut_short)] == [1, 5, 7, 10, 13, 16]
    bars = bars_of_score(score)
    first, second = bar_at(bars, 0.0), bar_at(bars, 6.0)
    assert first and second and (first.beat(0.0), second.number, second.beat(6.0)) == (4.0, 2, 2.0)


# ---- form -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "fours", "eights"),
    [  # read by eye; all but the first have their repeats written as signs
        ("Fare You Well", "ABCDAB", "ABA"),
        ("The White Cockade", "ABABCBCB", "AABB"),
        ("I'll Touzle your Kurchy", "ABABCDCD", "AABB"),
        ("Acacia", "ABABCDCD", "AABB"),
        ("Cuckoo's Nest", "ABABCDCD", "AABB"),
    ],
)
def test_the_form_of_tunes(name: str, fours: str, eights: str) -> None:
    told = everything(name)["form"]
    assert told and [(f["unit_bars"], f["letters"]) for f in told] == [(4, fours), (8, eights)]
    if name == "The White Cockade":
        assert told[1]["first_bars"] == [1, 1, 9, 9] and told[1]["transposed"] == []


def test_first_and_second_endings_are_played_once_each() -> None:
    told = form(read_abc(HEADER + "|:CDEF|GABc|cBAG|[1FEDC:|[2F2C2|:EEEE|FFFF|GGGG|c4:|"), 4)
    assert told and told["letters"] == "ABCC" and told["first_bars"] == [1, 1, 6, 6]


@pytest.mark.parametrize(
    ("body", "letters"),
    [
        ("CDEF|GABc|cBAG|:EEEE|FFFF:|", "ABCC"),  # a repeat sign starts a section
        ("CDEF|GABc|cBAG||EEEE|FFFF|", "ABC"),  # a double bar line between full bars does not
        ("|:CDEF|[1GABc:|[2cBAG|FEDC|EEEE|FFFF:|", "ABCDEF"),  # where a repeat goes back to, one starts too
        ("CDEF|GAB||c|CDEF|GAB||", "AB"),  # each with its pickup, of which the first has none
        ("c|CDEF|GAB:|d|EEEE|FFF:|", "AABB"),
    ],
)
def test_where_sections_start(body: str, letters: str) -> None:
    told = form(read_abc(HEADER + body), 2)
    assert told and told["letters"] == letters


def test_the_same_notes_in_another_voice_are_another_phrase() -> None:
    notes = [Note(float(t), 1, 60, voice=t // 4) for t in range(8)]
    told = form(Score(notes=notes, metre=(4, 4), instruments=["", ""]), 1)
    assert told and told["letters"] == "AB"


def test_a_phrase_that_comes_again_higher() -> None:
    told = form(read_abc(HEADER + "CDEF|G2E2|DEFG|C4|DE^FG|A2^F2|E^FGA|D4|"), 4)
    assert told == {
        "unit_bars": 4, "letters": "AB", "first_bars": [1, 5],
        "transposed": [{"unit": "B", "of": "A", "semitones": 2}],
    }  # fmt: skip
    assert form(read_abc(HEADER + "CDEF|G2E2|DEFG|C4|"), 4) is None


@law
@given(scores, st.integers(-12, 12), st.sampled_from([1, 2, 4]))
def test_what_does_not_change_when_a_piece_is_transposed(score: Score, semitones: int, unit_bars: int) -> None:
    moved = transpose(score, semitones)
    for count in (intervals, note_values, motion, polyphony):
        assert count(moved) == count(score)
    assert form(moved, unit_bars) == form(score, unit_bars)
    assert [(b["bar"], b["notes"], b["full"]) for b in bar_contents(moved)] == [
        (b["bar"], b["notes"], b["full"]) for b in bar_contents(score)
    ]


@law
@given(scores)
def test_bars_follow_each_other_and_hold_every_note_once(score: Score) -> None:
    bars = bars_of_score(score)
    assert [a.end for a in bars[:-1]] == [b.start for b in bars[1:]]
    assert bars[0].start == 0 and bars[-1].end >= score.length - 1e-3
    assert sum(bar["notes"] for bar in bar_contents(score)) == facts(score)["notes"]
    assert sum(note_values(score).values()) == facts(score)["notes"]
    json.dumps([all_facts(score), bar_contents(score)])


@law
@given(melodies)
def test_one_voice_without_chords_has_no_polyphony(steps: list[tuple[int, int, bool]]) -> None:
    score = melody(steps)
    assert polyphony(score) == (1, 1.0)
    assert intervals(score).total() == len(steps) - 1


@law
@given(melodies, st.integers(2, 4))
def test_a_piece_played_several_times_is_the_same_letter_each_time(
    steps: list[tuple[int, int, bool]], times: int
) -> None:
    once = melody(steps)
    bars = -int(-once.length // 4)
    assume(bars < 8)
    notes = [Note(n.onset + i * 4 * bars, n.duration, n.pitch) for i in range(times) for n in once.notes]
    told = form(Score(notes=notes, metre=(4, 4), key=Key("C"), instruments=[""]), bars)
    assert told and told["letters"] == "A" * times


@pytest.mark.parametrize("name", ["The White Cockade", "I'll Touzle your Kurchy", "Acacia", "Cuckoo's Nest"])
def test_repeats_as_signs_or_written_out_are_the_same_form(name: str) -> None:
    for unit_bars in (4, 8):
        signs, written = form(tune(name), unit_bars), form(unfold(tune(name)), unit_bars)
        assert signs and written and signs["letters"] == written["letters"]
