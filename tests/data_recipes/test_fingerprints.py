"""Fingerprints: the same for copies, other for other music; the same on every machine."""

import io
import time

import numpy as np
import pytest
import scipy.signal
import soundfile as sf
import soxr
from planted import RATE, score_of, sentence, sound

from mllm.data_recipes.duplicates import ALIKE, Prints, exact_duplicates, find_duplicates, likeness
from mllm.data_recipes.fingerprints import audio_fingerprint, audio_shape, note_fingerprints, text_fingerprint
from mllm.data_recipes.plan import seed_of
from mllm.data_recipes.tonal import tonal_tune
from mllm.score import to_abc, transpose

NOTE_HASHES = ["0x346a78e87539652e", "0x3ca2fd4210515b4d"]
TEXT_HASH = "0xf040542e03ce1047"
CLIPS = [sound(tonal_tune(i), (0, 24, 40, 73, 19)[i % 5], 1) for i in range(30)]


def encoded(x: np.ndarray, rate: int, kind: str, subtype: str) -> tuple[np.ndarray, int]:
    buffer = io.BytesIO()
    sf.write(buffer, x, rate, format=kind, subtype=subtype)
    buffer.seek(0)
    return sf.read(buffer, dtype="float32")


def noisy(x: np.ndarray, decibels: float) -> np.ndarray:
    noise = seed_of(1, "noise").standard_normal(len(x)).astype(np.float32)
    return x + noise * np.float32(np.sqrt(np.mean(x**2)) * 10 ** (-decibels / 20))


def equalised(x: np.ndarray) -> np.ndarray:
    sos = scipy.signal.butter(1, [150, 4000], btype="band", fs=RATE, output="sos")
    return scipy.signal.sosfilt(sos, x).astype(np.float32)


COPIES = {
    "mp3 at other gain": lambda x: encoded(0.4 * x, RATE, "MP3", "MPEG_LAYER_III"),
    "ogg": lambda x: encoded(x, RATE, "OGG", "VORBIS"),
    "cut by 13 ms": lambda x: (x[int(0.013 * RATE) :], RATE),
    "cut at both ends": lambda x: (x[int(0.311 * RATE) : -int(0.4 * RATE)], RATE),
    "16 kHz": lambda x: (soxr.resample(x, RATE, 16000), 16000),
    "44.1 kHz mp3": lambda x: encoded(soxr.resample(x, RATE, 44100), 44100, "MP3", "MPEG_LAYER_III"),
    "noise": lambda x: (noisy(x, 25), RATE),
    "equaliser": lambda x: (equalised(x), RATE),
}


def alike(x: np.ndarray, y: np.ndarray, rate: int = RATE) -> float:
    return likeness(audio_fingerprint(x, RATE), audio_fingerprint(y, rate), audio_shape(x, RATE), audio_shape(y, rate))


@pytest.mark.parametrize("name", COPIES)
def test_a_copy_is_known_again(name: str) -> None:
    found = [alike(x, *COPIES[name](x)) for x in CLIPS]
    assert min(found) >= ALIKE, sorted(found)[:5]


def test_other_music_and_other_performances_are_no_copies() -> None:
    tune = tonal_tune(3)
    assert alike(sound(tune, 0, 1), sound(tune, 73, 2)) < ALIKE
    assert alike(sound(tune, 0, 1), sound(tune, 0, 2)) < ALIKE  # other key and tempo
    marks = Prints.gather(audio_fingerprint(x, RATE) for x in CLIPS)
    shapes = Prints.gather(audio_shape(x, RATE) for x in CLIPS)
    assert find_duplicates(marks, shapes) == []


def test_silence_and_scraps_have_no_fingerprint() -> None:
    for x in (np.zeros(RATE, np.float32), np.zeros(0, np.float32), np.ones(50, np.float32)):
        assert audio_fingerprint(x, RATE).shape == (0, 2) and audio_fingerprint(x, RATE).dtype == np.uint32
    assert len(audio_fingerprint(np.full(RATE, np.nan, np.float32), RATE)) == 0
    assert audio_shape(np.zeros(RATE, np.float32), RATE).shape == (0, 32)


def test_notes_are_the_same_in_every_key_and_at_every_tempo() -> None:
    score = score_of(tonal_tune(1))
    shingles = note_fingerprints(to_abc(score))
    assert shingles.dtype == np.uint64 and len(shingles) > 6
    for semitones in (-5, 1, 6):
        assert np.array_equal(note_fingerprints(to_abc(transpose(score, semitones))), shingles)
    fast = [(n.onset * 0.31 + 2, (n.onset + n.duration) * 0.31 + 2, n.pitch) for n in score.notes]
    jitter = seed_of(1, "jitter").normal(0, 0.004, len(fast))
    assert np.array_equal(note_fingerprints(fast), shingles)
    played = note_fingerprints([(o + j, e, p) for (o, e, p), j in zip(fast, jitter, strict=True)])
    assert len(np.intersect1d(played, shingles)) >= 0.7 * len(shingles)
    under = [(o, e, p - 24) for o, e, p in fast]
    assert np.array_equal(note_fingerprints(fast + under), shingles)
    assert len(note_fingerprints(fast[:7])) == 0 and len(note_fingerprints([])) == 0


def test_a_changed_note_leaves_a_near_duplicate_and_other_tunes_none() -> None:
    tunes = [score_of(tonal_tune(i)) for i in range(400)]
    changed = [[n.onset, n.onset + n.duration, n.pitch + (3 if i == 9 else 0)] for i, n in enumerate(tunes[7].notes)]
    prints = Prints.gather([*(note_fingerprints(to_abc(t)) for t in tunes), note_fingerprints(changed)])
    assert [(a, b) for a, b, _ in find_duplicates(prints)] == [(7, 400)]


def test_hashes_are_the_same_on_every_machine() -> None:
    notes = [(i, i + 1, 60 + (i * 5) % 12) for i in range(12)]
    assert [hex(h) for h in note_fingerprints(notes)[:2]] == NOTE_HASHES
    assert hex(int(text_fingerprint("one two three four five six seven eight")[0])) == TEXT_HASH


def test_text_is_compared_in_runs_of_eight_words() -> None:
    text = sentence(seed_of(1, "text"), 20)
    shingles = text_fingerprint(text)
    assert len(shingles) == 21 - 7
    assert np.isin(shingles, text_fingerprint(f"He said: “{text.upper()}”, and more.")).all()
    assert len(text_fingerprint("too few words")) == 0
    assert not np.isin(shingles, text_fingerprint(sentence(seed_of(2, "text"), 20))).any()


def test_an_index_too_large_for_its_budget_still_finds_copies() -> None:
    rng = seed_of(1, "many")
    rows = [np.unique(rng.integers(0, 2**63, 60).astype(np.uint64)) for _ in range(3000)]
    rows += [np.unique(np.concatenate([rows[i][10:], rng.integers(0, 2**63, 8).astype(np.uint64)])) for i in range(50)]
    prints = Prints.gather(rows)
    expected = [(i, 3000 + i) for i in range(50)]
    assert [(a, b) for a, b, _ in find_duplicates(prints)] == expected
    assert [(a, b) for a, b, _ in find_duplicates(prints, budget=len(prints.data) // 3)] == expected


def test_copies_of_a_crowd_are_chained_and_cheap() -> None:
    one = np.arange(100, dtype=np.uint64) << np.uint64(40)
    began = time.process_time()
    found = find_duplicates(Prints.gather([one] * 500))
    assert {b for _, b, _ in found} == set(range(1, 500)) and len(found) < 500 * 65
    assert time.process_time() - began < 10


def test_a_held_out_formula_is_compared_with_all_of_a_crowd() -> None:
    rng = seed_of(1, "crowd")
    formula = np.arange(10, dtype=np.uint64) << np.uint64(40)
    training = [np.unique(np.append(formula, rng.integers(2**50, 2**63, 15).astype(np.uint64))) for _ in range(300)]
    prints = Prints.gather([formula, *training])
    assert len({b for a, b, _ in find_duplicates(prints) if a == 0}) < 300
    for place in (0, 150):
        rows = [*training[:place], formula, *training[place:]]
        found = find_duplicates(Prints.gather(rows), held=[row is formula for row in rows])
        assert {a + b - place for a, b, _ in found if place in (a, b)} == set(range(301)) - {place}


def test_exact_duplicates_name_the_first() -> None:
    assert exact_duplicates(["b", "a", "", "b", "", "a", "b"]) == [(0, 3, 1.0), (0, 6, 1.0), (1, 5, 1.0)]
    assert exact_duplicates([]) == []
