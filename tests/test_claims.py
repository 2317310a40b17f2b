"""What counts as a claim about music, and what does not."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mllm.claims import MAX_TEXT, find_claims
from mllm.score import Key
from mllm.score_types import MODES


def brief(claim):
    """A claim in a few words: "key F# minor", "not instrument drums"."""
    v = claim.value
    words = {
        "key": lambda: f"{v['tonic']} {v['mode']}" + (" later" if v["where"] == "later" else ""),
        "tempo": lambda: f"{v['low']}..{v['high']}" + (f" of {v['beat']}" if v["beat"] else ""),
        "metre": lambda: f"{v['numerator']}/{v['denominator']}",
        "instrument": lambda: v["name"] + (" alone" if v["alone"] else ""),
        "note": lambda: f"{v['what']} " + (" ".join(v["notes"]) or f"{v['low']}..{v['high']}"),
        "bar": lambda: f"{v['what']} " + (f"{v['low']}..{v['high']}" if v["what"] == "count" else
                                          " ".join([str(v["bar"]), *v.get("notes", [])])),
        "chord": lambda: f"{v['what']} " + " ".join(v["chords"]) + (f" in {v['bar']}" if v["bar"] else ""),
    }  # fmt: skip
    if "any_of" in v:
        return f"{claim.kind}: one of {len(v['any_of'])}"
    return "not " * claim.negated + f"{claim.kind}: {words[claim.kind]()}"


CASES = {
    # keys
    "It is in G major.": ["key: G major"],
    "The piece, in F-sharp minor, is sad": ["key: F# minor"],
    "B♭ major": ["key: Bb major"],
    "**Key:** F# dorian": ["key: F# dorian"],
    "in the key of G": ["key: G None"],
    "The mode is minor.": ["key: None minor"],
    "It modulates to D major.": ["key: D major later"],
    "It is in A minor and has a minor third.": ["key: A minor"],
    "A minor detail. A major work in a minor key.": ["key: None minor"],
    "The relative minor is E minor.": [],
    # tempos
    "around 120 BPM": ["tempo: 120.0..120.0"],
    "It goes at 96 beats per minute": ["tempo: 96.0..96.0"],
    "between 100 and 110 bpm": ["tempo: 100.0..110.0"],
    "the tempo is over 120": ["tempo: 120.0..None"],
    "dotted quarter = 80": ["tempo: 80.0..80.0 of 1.5"],
    "| Tempo | 92 |": ["tempo: 92.0..92.0"],
    "It is fast, in the style of 1820.": [],
    # metres
    "in 3/4": ["metre: 3/4"],
    "common time, then cut time": ["metre: 4/4", "metre: 2/2"],
    "waltz time": ["metre: 3/4"],
    "six-eight, played on 3/4/2020; 3/4 of the notes are 1/8 notes": ["metre: 6/8"],
    # notes
    "It starts on D5.": ["note: first D5"],
    "The first three notes are D, E and F#.": ["note: first D E F#"],
    "The highest note is A5, the lowest D4.": ["note: highest A5", "note: lowest D4"],
    "The lowest is D4 and the highest is F#5.": ["note: lowest D4", "note: highest F#5"],
    "Bb3 is the lowest, A5 the highest.": ["note: lowest Bb3"],
    "D4 is the lowest point of bar 2; the lowest bar is D4 long": ["bar: number 2"],
    "It ranges from D4 to A5": ["note: range D4 A5"],
    "a range of 14 semitones": ["note: range 14..14"],
    "There is no C#.": ["not note: contains C#"],
    "It has 45 notes.": ["note: count 45..45"],
    # bars
    "It has 16 bars.": ["bar: count 16..16"],
    "* **Bars:** 16\n* **Highest:** A5": ["bar: count 16..16", "note: highest A5"],
    "a tune of thirty-two measures": ["bar: count 32..32"],
    "The first 8 bars repeat, in 4-bar phrases": [],
    "Bar 3 starts with G4.": ["bar: first 3 G4"],
    "There is an F# in bar 12": ["bar: contains 12 F#"],
    "The highest note comes in bar 7.": ["bar: highest 7"],
    "Something happens in bar 40.": ["bar: number 40"],
    # chords
    "The chords are G, C and D7.": ["chord: contains G C D7"],
    "It opens with a G major chord.": ["chord: first G"],
    "progression: Am - F - C - G": ["chord: sequence Am F C G"],
    "The chord in bar 3 is Em": ["chord: contains Em in 3"],
    "Am7 is the last chord": ["chord: last Am7"],
    # instruments
    "Played by a flute.": ["instrument: flute"],
    "There is a piano and a violin.": ["instrument: piano", "instrument: violin"],
    "There are no drums or bass, only a flute": [
        "not instrument: drums", "not instrument: bass", "instrument: flute alone",
    ],
    "played by flute, not violin, and piano": ["instrument: flute", "not instrument: violin", "instrument: piano"],
    "The bass line sounds like a flute.": [],
    # what is denied, left open, or not said at all
    "It is not in G major but in D major": ["not key: G major", "key: D major"],
    "The flute is not heard": ["not instrument: flute"],
    "It is without doubt, not only a flute plays": ["instrument: flute"],
    "No, it is in D major.": ["key: D major"],
    "G major or E minor": ["key: one of 2"],
    "Is it in G major? If it were in C major, it would sound brighter.": [],
    "You said it is in G major, but it is in A major.": ["key: A major"],
    "I cannot say whether it is in G major.": [],
    "": [],
    # other forms
    '{"key": "G major", "tempo": 120, "time_signature": "6/8", "instruments": ["flute"], "bars": 16}': [
        "key: G major", "tempo: 120.0..120.0", "metre: 6/8", "instrument: flute", "bar: count 16..16",
    ],
    "K:Am\nM:6/8\nL:1/8\nQ:1/4=120\n|: abc": ["key: A minor", "metre: 6/8", "tempo: 120.0..120.0 of 1.0"],
}  # fmt: skip


@pytest.mark.parametrize("answer", CASES)
def test_claims_of(answer):
    claims = find_claims(answer)
    assert [brief(claim) for claim in claims] == CASES[answer]
    for claim in claims:
        assert answer[slice(*claim.span)].strip() == claim.text


@pytest.mark.parametrize(
    ("question", "answer", "claims"),
    [
        ("What is the tempo?", "120", ["tempo: 120.0..120.0"]),
        ("What is the tonic?", "G", ["key: G None"]),
        ("What is the range of the melody?", "D4 to A5", ["note: range D4 A5"]),
        ("What are the first three notes?", "D E F#", ["note: first D E F#"]),
        ("How many bars are there?", "16.", ["bar: count 16..16"]),
        ("Is it in G major?", "Yes.", ["key: G major"]),
        ("Is it in 3/4?", "no", ["not metre: 3/4"]),
        ("What is the first chord?", "A minor", ["chord: first Am"]),
        ("Do you like it?", "Yes.", []),
    ],
)
def test_a_bare_answer_means_what_was_asked(question, answer, claims):
    assert [brief(claim) for claim in find_claims(answer, question)] == claims


def test_which_clip_is_meant():
    def clips(answer):
        return [claim.clip for claim in find_claims(answer)]

    assert clips("The first clip is in G major, the second is in D minor. It has 16 bars.") == [1, 2, 2]
    assert clips("G major in the first clip and D major in the second.") == [1, 2]
    assert clips("Clip 2: 120 BPM. Both are in C major.") == [2, None]
    assert clips("It starts on the first note, D5, in G major.") == [None, None]


def test_hedges_are_kept():
    assert [c.hedged for c in find_claims("Perhaps it is in G major. It is in 3/4.")] == [True, False]


@given(st.sampled_from("ABCDEFG"), st.sampled_from(["", "#", "b"]), st.sampled_from(sorted(MODES)))
def test_every_key_is_found_by_its_name(letter, sign, mode):
    key = Key(letter + sign, mode)
    for spelling in (key.name, key.name.replace("#", "-sharp").replace("b ", "-flat ")):
        (claim,) = find_claims(f"This piece is in {spelling}.")
        assert Key(claim.value["tonic"], claim.value["mode"]) == key


@given(st.text(max_size=300) | st.text(alphabet='ABCDEFG#b0123456789/ ,.?"[]{}:|notbarchordis\n', max_size=300))
@settings(max_examples=150, deadline=None)
def test_any_text_is_read(text):
    for claim in find_claims(text, "What key is it in?"):
        assert 0 <= claim.span[0] < claim.span[1] <= len(text)


@pytest.mark.parametrize(
    "piece",
    ["A major ", "not ", '"key": "', "[", '"key":["key":[', "chord G ", "first notes are A ", "range ", "120 bpm ",
     "bar 5 in ", "G major or ", "1/", " ", "a", "tempo is about ", '"key": [[', "highest note "],
)  # fmt: skip
def test_time_grows_with_the_length_and_no_faster(piece):
    def seconds(length):
        text = (piece * length)[:length]
        begun = time.process_time()
        find_claims(text)
        return time.process_time() - begun

    short, long = seconds(MAX_TEXT // 8), seconds(MAX_TEXT)
    assert long < 5 and long < 40 * max(short, 0.02)


def test_a_tonic_alone_is_major_in_abc_and_in_abc_only():
    assert [brief(c) for c in find_claims("X:1\nM:C|\nK:F#\nabc")] == ["metre: 2/2", "key: F# major"]
    assert [brief(c) for c in find_claims("Key: F#")] == ["key: F# None"]
