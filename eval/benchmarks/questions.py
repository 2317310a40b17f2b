"""Multiple choice about music: MuChoMusic, RUL-MuChoMusic, MMAU, MMAU-Pro, MMAR, AIR-Bench."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from mllm.eval.benchmarks.benchmark import (
    Benchmark,
    choice,
    first_of,
    read_json,
    read_jsonl,
    read_parquet,
    read_table,
    sound,
)
from mllm.eval.item import Item


def muchomusic(folder: Path, audio: Path) -> Iterator[Item]:
    """muchomusic.csv: a question, its answer, three distractors, and where the track is from (MusicCaps or SDD)."""
    for row in read_table(folder / "muchomusic.csv"):
        options = [row["correct_answer"], *(row[f"distractor_{i}_answer"] for i in (1, 2, 3))]
        track = row["dataset_identifier"]
        place = f"sdd/{int(track) % 100:02d}/{track}.2min.mp3" if row["dataset"] == "sdd" else f"musiccaps/{track}.wav"
        knowledge = ast.literal_eval(row["music_knowledge"] or "[]")
        yield choice(
            row["question_id"], row["question"], options, row["correct_answer"], audio=(sound(audio, place),),
            group=f"{row['dataset']}:{track}",
            strata={"genre": row["genre"], "kind": "knowledge" if knowledge else "reasoning"},
        )  # fmt: skip


def rul_muchomusic(folder: Path, audio: Path) -> Iterator[Item]:
    """RUL-MuchoMusic.json: four hard distractors a question, of which three are shown: each left out once."""
    for name, row in read_json(folder / "RUL-MuchoMusic.json").items():
        for out in range(len(row["distractors"])):
            shown = [text for i, text in enumerate(row["distractors"]) if i != out]
            yield choice(
                f"{name}-{out}", row["question"], [row["correct_answer"], *shown], row["correct_answer"],
                audio=(sound(audio, f"audio/{name}.wav"),), group=name, meta={"perceptual_index": row["PI"]},
            )  # fmt: skip


def mmau_mini(folder: Path, audio: Path) -> Iterator[Item]:
    """mmau-test-mini.json: what has the task "music"."""
    for row in read_json(first_of(folder, "mmau-test-mini.json", "mmau-mini.json")):
        if row["task"] == "music":
            yield choice(
                row["id"], row["question"], row["choices"], row["answer"],
                audio=(sound(audio, row.get("audio_id") or row["audio"]),), group=row["id"],
                strata={"difficulty": row["difficulty"], "skill": row["sub-category"], "from": row["dataset"]},
            )  # fmt: skip


def mmau_pro(folder: Path, audio: Path) -> Iterator[Item]:
    """test.parquet: what has the category "music" and options; several recordings a question are kept in order."""
    for row in read_parquet(folder, "**/test*.parquet"):
        options = list(row["choices"] or ())
        if row["category"] == "music" and 2 <= len(options) <= 10 and row["answer"] in options:
            paths = row["audio_path"] if isinstance(row["audio_path"], list) else [row["audio_path"]]
            yield choice(
                str(row["id"]), row["question"], options, row["answer"],
                audio=tuple(sound(audio, path) for path in paths), group=str(paths[0]),
                strata={"skill": str(row.get("sub-cat") or row.get("task_identifier") or "")},
            )  # fmt: skip


def mmar(folder: Path, audio: Path) -> Iterator[Item]:
    """MMAR-meta.jsonl: what has the modality "music"."""
    for row in read_jsonl(first_of(folder, "MMAR-meta.jsonl", "MMAR-meta.json")):
        if row["modality"] == "music":
            yield choice(
                row["id"], row["question"], row["choices"], row["answer"], audio=(sound(audio, row["audio_path"]),),
                group=row["id"].rsplit("_", 2)[0],
                strata={"layer": row["category"], "skill": row.get("sub-category") or ""},
            )  # fmt: skip


def air_bench(folder: Path, audio: Path) -> Iterator[Item]:
    """Foundation_meta.json: tasks whose names begin with "Music"; two to four options."""
    for row in read_json(first_of(folder, "Foundation_meta.json", "Foundation/Foundation_meta.json")):
        if row["task_name"].startswith("Music"):
            options = [row.get(f"choice_{letter}") for letter in "abcd"]
            place = f"Foundation/{row['task_name']}_{row['dataset_name']}/{row['path']}"
            texts = list(dict.fromkeys(str(option) for option in options if option not in (None, "", "None")))
            yield choice(
                str(row["uniq_id"]), row["question"], texts, row["answer_gt"], audio=(sound(audio, place),),
                group=row["path"], strata={"task": row["task_name"]},
            )  # fmt: skip


_STRICT = "accuracy; an answer that cannot be read is wrong"
QUESTIONS = (
    Benchmark(
        "muchomusic", "MuChoMusic", muchomusic, "choice", "muchomusic", ("muchomusic.csv",),
        "muchomusic.csv of https://doi.org/10.5281/zenodo.12709974", "1,187 questions, 644 tracks, 1 MB; audio: "
        "MusicCaps and Song Describer", "CC BY-SA 4.0", "Weck et al., ISMIR 2024, arXiv 2408.01337",
        f"{_STRICT} (its own parser takes a letter anywhere in the answer, the D of Drums too)", shuffle=True,
    ),
    Benchmark(
        "rul_muchomusic", "RUL-MuChoMusic", rul_muchomusic, "choice", "rul_muchomusic", ("RUL-MuchoMusic.json",),
        "RUL-MuchoMusic.json of https://github.com/yongyizang/AreYouReallyListening",
        "1,187 questions, each asked four times with one of four distractors left out, 1 MB",
        "MIT; captions CC BY-SA 4.0",
        "Zang et al., 2025, arXiv 2504.00369", f"{_STRICT}; leave one out, beside noise", shuffle=True,
    ),
    Benchmark(
        "mmau_mini_music", "MMAU test-mini, music", mmau_mini, "choice", "mmau_mini", ("mmau-test-mini.json",
        "mmau-mini.json"),
        "mmau-test-mini.json and test-mini-audios of https://github.com/Sakshi113/MMAU", "334 questions, 0.5 MB; "
        "audio 1.4 GB", "Apache-2.0", "Sakshi et al., ICLR 2025, arXiv 2410.19168",
        f"{_STRICT} (its own matching counts words of the right option that no other has)", shuffle=True,
    ),
    Benchmark(
        "mmau_pro_music", "MMAU-Pro, music", mmau_pro, "choice", "mmau_pro", ("**/test*.parquet",),
        "test.parquet and data.zip of https://huggingface.co/datasets/gamma-lab-umd/MMAU-Pro", "5,305 questions, "
        "those about music with options", "CC BY-NC 4.0 (see its card)", "Kumar et al., 2025, arXiv 2508.13992",
        f"{_STRICT} (its own takes the option whose NV-Embed-v2 vector is nearest to the answer)", shuffle=True,
    ),
    Benchmark(
        "mmar_music", "MMAR, music", mmar, "choice", "mmar", ("MMAR-meta.jsonl", "MMAR-meta.json"),
        "MMAR-meta.jsonl of https://github.com/ddlBoJack/MMAR and the audio of https://huggingface.co/datasets/BoJack/MMAR",
        "206 questions, 3 MB; audio 3.6 GB", "CC BY-NC 4.0 (see its card)", "Ma et al., NeurIPS 2025, arXiv 2505.13032",
        f"{_STRICT} (its own counts words, as MMAU)", shuffle=True,
    ),
    Benchmark(
        "air_bench_music", "AIR-Bench foundation, music", air_bench, "choice", "air_bench",
        ("Foundation_meta.json", "Foundation/Foundation_meta.json"),
        "Foundation/ of https://huggingface.co/datasets/qyang1021/AIR-Bench-Dataset", "some 6,000 questions of its "
        "19,000", "Apache-2.0 (the sets it draws from keep their own)", "Yang et al., ACL 2024, arXiv 2402.07729",
        f"{_STRICT} (its own takes the first letter, or the last but one; its chat part is judged by GPT-4, "
        "and not here)",
        shuffle=True,
    ),
)  # fmt: skip
