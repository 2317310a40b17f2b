"""Recordings beside scores: the score is what sounds, nothing in the text tells the answer, a build holds such rows."""

from __future__ import annotations

import json
import re
from collections import Counter
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
import yaml
from scipy.stats import mannwhitneyu

from mllm.data_recipes.build import build_mixture
from mllm.data_recipes.choices import Pool
from mllm.data_recipes.clip import UnusableTune
from mllm.data_recipes.config import HERE, load_mixture
from mllm.data_recipes.plan import plan_clips, seed_of
from mllm.data_recipes.score_and_sound import AGREE, DECK, Heard, compose, facts_of, question, sound
from mllm.data_recipes.score_changes import first_difference
from mllm.data_recipes.score_questions import Question
from mllm.data_recipes.tonal import tonal_tune
from mllm.score import read_abc

TINY = load_mixture(HERE / "mixtures" / "tiny.yaml")
TUNES = {t.id: t for t in map(tonal_tune, range(400))}


@lru_cache
def asked(task: str, count: int) -> tuple[tuple[Heard, Question], ...]:
    """Questions of one task about recordings that were not rendered."""
    clips = TINY.clips.model_copy(update={"train": count, "validation": 0, "test": 0})
    mixture = TINY.model_copy(update={"clips": clips})
    fonts = {split: {"TimGM6mb": 1.0} for split in ("train", "validation", "test")}
    batches = plan_clips(mixture, list(TUNES.values()), fonts)
    tunes = {i for batch in batches for clip in batch.clips for i in clip.candidates}
    pool, out = Pool(5), []
    for clip in (clip for batch in batches for clip in batch.clips):
        tune = TUNES[clip.candidates[0]]
        alike = [TUNES[i] for i in sorted(tunes) if i != tune.id and TUNES[i].metre == tune.metre]
        rng = seed_of(3, f"{task} {clip.id}")
        try:
            heard = compose(task, clip, tune, alike, mixture, rng, pool)
            out.append((heard, question(heard, rng, pool)))
        except UnusableTune:
            continue
    return tuple(out)


def features(text: str) -> dict[str, float]:
    """What a guesser sees who reads the score and does not listen."""
    score = read_abc(text)
    pitch = np.array([n.pitch for n in score.notes], float)
    steps = np.abs(np.diff(pitch))
    body = text.split("\nK:")[1].split("\n", 1)[1]
    return {
        "length": len(text), "notes": len(pitch), "mean": pitch.mean(), "lowest": pitch.min(), "highest": pitch.max(),
        "range": np.ptp(pitch), "accidentals": len(re.findall(r"[_^=]", body)), "step": steps.mean(),
        "widest": steps.max(), "repeats": (steps == 0).mean(), "leaps": (steps > 4).mean(),
        "durations": len({n.duration for n in score.notes}), "octave marks": body.count(",") + body.count("'"),
        "ends at home": float(pitch[-1] % 12 == score.key.pitch_class),
        "begins at home": float(pitch[0] % 12 == score.key.pitch_class),
    }  # fmt: skip


def test_the_score_is_what_sounds() -> None:
    for task in ("transcribe", "bar_at", "match"):
        for heard, _ in asked(task, 60):
            facts = facts_of(heard, [])
            score = read_abc(facts["abc"])
            notes = sorted(facts["notes"])
            assert [n.pitch for n in score.notes] == [n[2] for n in notes]
            quarter = heard.bar_seconds / score.bar_length
            for note, (onset, _, _) in zip(score.notes, notes, strict=True):
                assert abs(heard.lead_in + note.onset * quarter - onset) < 0.011
            assert score.key.name == facts["key"] and facts["bars"] == heard.piece.bars
            assert heard.seconds <= TINY.clips.seconds


def test_recordings_last_as_they_say_and_are_the_same_again() -> None:
    from mllm.data_recipes.config import find_soundfont

    font = find_soundfont(TINY.soundfonts[0])
    assert font is not None
    for heard, _ in asked("transcribe", 60)[:3]:
        samples, done = sound(heard, TINY, font, seed_of(1, "a"))
        again, _ = sound(heard, TINY, font, seed_of(1, "a"))
        assert np.array_equal(samples, again) and samples.dtype == np.float32
        assert abs(len(samples) / 22050 - heard.seconds) < 1e-3 and 0.2 < np.abs(samples).max() < 0.95
        assert facts_of(heard, done)["texture"] == "solo"


def test_wrong_scores_stand_under_the_same_header_and_are_wrong() -> None:
    for task in ("match", "which_of_three"):
        for heard, _ in asked(task, 460):
            for wrong in heard.wrong:
                assert first_difference(heard.score, wrong) is not None
                assert (wrong.key, wrong.metre) == (heard.score.key, heard.score.metre)
                assert abs(len(wrong.notes) - len(heard.score.notes)) < 3
                assert (
                    abs(
                        np.median([n.pitch - 0.0 for n in wrong.notes])
                        - np.median([n.pitch for n in heard.score.notes])
                    )
                    < 12
                )
        kinds = Counter(heard.kind for heard, _ in asked(task, 460))
        assert min(kinds.values()) > 0.35 * sum(kinds.values()), kinds


def test_yes_and_places_are_balanced() -> None:
    yes = Counter((heard.kind, q.value) for heard, q in asked("match", 800))
    assert sum(yes.values()) >= 400
    for kind in ("versions", "other tunes"):
        assert abs(yes[kind, True] - yes[kind, False]) <= 2
    places = Counter((heard.kind, q.value) for heard, q in asked("which_of_three", 460))
    assert sum(places.values()) >= 400 and max(places.values()) <= 1.25 * min(places.values()), places
    agree = [q.answer == AGREE for _, q in asked("first_difference", 300)]
    assert abs(np.mean(agree) - 0.2) < 0.02


def aucs(count: int) -> tuple[dict[str, float], int]:
    """Feature -> area under its ROC curve as a guesser of `match`, and the number of rows."""
    rows = [(features(q.scores[0]), bool(q.value)) for _, q in asked("match", count)]
    yes = np.array([y for _, y in rows])
    columns = {name: np.array([f[name] for f, _ in rows]) for name in rows[0][0]}
    return {n: mannwhitneyu(x[yes], x[~yes]).statistic / (yes.sum() * (~yes).sum()) for n, x in columns.items()}, len(
        rows
    )


def test_no_feature_of_the_text_tells_a_match() -> None:
    found, count = aucs(800)
    # The largest of fifteen deviations: three and a half standard errors (J. Hanley and B. McNeil, 1982).
    assert count >= 750 and max(abs(auc - 0.5) for auc in found.values()) < 3.5 * (1 / (3 * count)) ** 0.5, found


@pytest.mark.slow
def test_no_feature_of_the_text_tells_a_match_among_thousands() -> None:
    found, count = aucs(3200)
    assert count >= 3000 and all(0.45 < auc < 0.55 for auc in found.values()), found


def test_no_extreme_of_a_feature_tells_which_of_three() -> None:
    rows = [([features(s) for s in q.scores], "ABC".index(str(q.value))) for _, q in asked("which_of_three", 460)]
    assert len(rows) >= 400
    for name in rows[0][0][0]:
        for rule in (np.max, np.min, np.median):
            won = []
            for three, right in rows:
                values = np.array([f[name] for f in three])
                like = np.flatnonzero(values == rule(values))
                won.append((right in like) / len(like))
            assert abs(np.mean(won) - 1 / 3) < 0.055, (name, rule.__name__, np.mean(won))


def test_the_first_difference_is_the_first_and_every_bar_is_it() -> None:
    found: Counter[tuple[int, int]] = Counter()
    for heard, q in asked("first_difference", 300):
        read = read_abc(q.scores[0])
        truth = first_difference(heard.score, read)
        assert q.answer == (AGREE if truth is None else f"bar {truth}")
        if truth is not None:
            found[heard.piece.bars, truth] += 1
    threes = [found[3, n] for n in (1, 2, 3)]
    assert min(threes) > 0.2 * sum(threes)


def test_moments_lie_away_from_bar_lines() -> None:
    for heard, q in asked("bar_at", 120):
        place = (q.facts["time"] - heard.lead_in) / heard.bar_seconds
        assert q.value == int(place) + 1 and 0 < place < heard.piece.bars
        assert min(place % 1, 1 - place % 1) * heard.bar_seconds > min(0.29, heard.bar_seconds / 4 - 0.01)


def test_transcriptions_are_short_and_of_one_voice() -> None:
    for heard, q in asked("transcribe", 60):
        assert 2 <= heard.piece.bars <= 4 and len(heard.piece.voices) == 1
        assert read_abc(f"{q.facts['head']}\n{q.answer}\n").notes == read_abc(heard.text.text).notes


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scores")
    content = yaml.safe_load((HERE / "mixtures" / "tiny.yaml").read_text())
    content["clips"] = {"train": 0, "validation": 0, "test": 0, "unit": 8}
    content |= {
        "notation": {"train": 34, "validation": 3},
        "score_and_sound": {"train": 24, "validation": 4, "transcribe": 3},
    }
    (folder / "scores.yaml").write_text(yaml.safe_dump(content))
    build_mixture(folder / "scores.yaml", folder / "one", workers=1)
    build_mixture(folder / "scores.yaml", folder / "two", workers=2)
    return folder


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [row for shard in sorted(folder.glob("rows/*.parquet")) for row in pq.read_table(shard).to_pylist()]


def test_a_build_has_the_rows_on_one_core_as_on_two(built: Path) -> None:
    manifests = [json.loads((built / name / "manifest.json").read_text()) for name in ("one", "two")]
    assert manifests[0]["hash"] == manifests[1]["hash"]
    rows = rows_of(built / "one")
    assert len({row["id"] for row in rows}) == len(rows) and len(rows) >= 60
    tasks = Counter(row["task"] for row in rows if row["split"] == "train")
    assert {
        "match",
        "which_of_three",
        "first_difference",
        "transcribe",
        *(t for t in tasks if t.startswith("score_")),
    } <= set(tasks)
    for row in rows:
        facts, talk = json.loads(row["facts"]), json.loads(row["messages"])
        assert facts["level"] in ("easy", "medium", "hard") and facts["answer"]
        parts = talk[0]["content"]
        if row["task"] in DECK:
            assert parts[0]["type"] == "audio" and soundfile.info(built / "one" / parts[0]["audio"]).samplerate == 22050
            assert facts["abc"].startswith("X:1")


def test_short_training_recordings_are_transcribed_besides(built: Path) -> None:
    heard: dict[str, set[str]] = {}
    for row in rows_of(built / "one"):
        if row["task"] in DECK:
            clip = json.loads(row["messages"])[0]["content"][0]["audio"]
            heard.setdefault(f"{row['split']} {json.loads(row['facts'])['bars']} {clip}", set()).add(row["task"])
    for name, tasks in heard.items():
        split, bars, _ = name.split(" ", 2)
        besides = split == "train" and int(bars) <= 3
        assert "transcribe" in tasks or not besides
        assert besides or len(tasks) == 1
    assert any(len(tasks) == 2 for tasks in heard.values())


def test_a_build_is_fine(built: Path) -> None:
    from mllm.data_recipes.check import check

    report = check(built / "one", workers=1)
    assert report.ok, report.faults
