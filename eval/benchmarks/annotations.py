"""Annotations of music information retrieval as questions: nine tasks of CMI-Bench."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from mllm.eval.benchmarks.benchmark import Benchmark, read_jsonl, read_table, sound
from mllm.eval.item import Item
from mllm.eval.metrics.beats import read_times

FAMILIES = ("bass", "brass", "flute", "guitar", "keyboard", "mallet", "organ", "reed", "string", "vocal")
WAYS: Mapping[str, tuple[str, ...]] = {
    "hiphop": ("hip-hop",), "string": ("strings",), "vocal": ("vocals", "voice"), "keyboard": ("piano",),
    "mallet": ("mallets",), "reed": ("reeds",),
}  # fmt: skip
"""Other ways to name a label."""
GENRES = ("blues", "classical", "country", "disco", "hiphop", "jazz", "metal", "pop", "reggae", "rock")
KEY = "What key is this in? Name tonic and mode."
GENRE = f"Which of these genres is this: {', '.join(GENRES)}?"
FAMILY = f"Which of these instrument families is playing: {', '.join(FAMILIES)}?"
BEATS = "At which times, in seconds, are the beats? List all of them, separated by commas."
AROUSAL = "How energetic is this music, from 1 (calm) to 9 (energetic)? Answer with a number."
VALENCE = "How positive is the feeling of this music, from 1 (negative) to 9 (positive)? Answer with a number."


def labelled(labels: tuple[str, ...]) -> dict[str, Any]:
    """The meta of an item whose answer is one of these labels."""
    return {"labels": {label: WAYS.get(label, ()) for label in labels}}


RATED: dict[str, Any] = {"range": (1.0, 9.0)}
Truth = Callable[[str], Any]


@dataclass(frozen=True)
class CmiTask:
    """One task of CMI-Bench: its file, our question (its own prompt for the key shows examples, which models copy), how
    its output is read, and what the scorer needs. `audio`: where its recordings lie in test_Data.zip."""

    file: str
    outputs: str
    question: str
    scorer: str
    audio: str
    read: Truth = str
    meta: Mapping[str, Any] | None = None
    size: str = ""


CMI_TASKS = {
    "cmi_key": CmiTask("GS-key/CMI_GS_key.jsonl", "GS_key", KEY, "key", "data/GS-key/giantsteps_clips",
                       size="2,406 clips"),
    "cmi_genre": CmiTask("GTZAN/CMI_GTZAN.jsonl", "GTZAN", GENRE, "label", "data/GTZAN/Data/genres_original",
                         meta=labelled(GENRES), size="290 clips"),
    "cmi_instrument": CmiTask("NSynth/CMI_Nsynth_instrument.jsonl", "Nsynth_instrument", FAMILY, "label",
                              "data/NSynth/nsynth-test", meta=labelled(FAMILIES), size="4,096 notes"),
    "cmi_arousal": CmiTask("EMO/CMI_EMO_arousal.jsonl", "EMO_arousal", AROUSAL, "rating", "data/EMO/emomusic", float,
                           RATED, "125 songs"),
    "cmi_valence": CmiTask("EMO/CMI_EMO_valence.jsonl", "EMO_valence", VALENCE, "rating", "data/EMO/emomusic", float,
                           RATED, "125 songs"),
    "cmi_gtzan_beats": CmiTask("Beat-Transformer/CMI_gtzan_beat.jsonl", "gtzan_beat", BEATS, "beats",
                               "data/GTZAN/Data/genres_original", read_times, size="290 clips"),
    "cmi_ballroom_beats": CmiTask("Beat-Transformer/CMI_ballroom_beat.jsonl", "ballroom_beat", BEATS, "beats",
                                  "data/ballroom/BallroomData", read_times, size="685 clips"),
    "cmi_song_describer": CmiTask("SDD/CMI_SDD.jsonl", "SDD", "Describe this music.", "caption", "data/SDD/audio/audio",
                                  size="1,106 captions"),
    "cmi_musiccaps": CmiTask("MusicCaps/CMI_MusicCaps.jsonl", "MusicCaps", "Describe this music.", "caption",
                             "data/MusicCaps", size="2,813 clips"),
}  # fmt: skip
"""Name -> task; its records stand in the JSONL of CMI-Bench, or as items in system_outputs."""


def cmi(folder: Path, audio: Path, name: str) -> Iterator[Item]:
    """CMI_*.jsonl (instruction, output, audio_path, split), or the items of system_outputs/*.json.gz (id, answer)."""
    task = CMI_TASKS[name]
    rated = _ratings(folder, name) if task.scorer == "rating" else None
    truths: dict[str, list[Any]] = {}
    for place, output in _cmi_records(folder, task):
        truths.setdefault(place, []).append(output)
    for place, outputs in truths.items():
        stem = Path(place).name.removesuffix(Path(place).suffix)
        truth: Any = outputs if task.scorer == "caption" else task.read(outputs[0])
        truth = truth if rated is None else rated[int(stem)]
        if truth is None:
            continue
        group = stem.rsplit("-", 1)[0] if name == "cmi_key" else stem
        yield Item(place, task.question, truth, audio=(sound(audio, place),), group=group, meta=dict(task.meta or {}))


def _cmi_records(folder: Path, task: CmiTask) -> Iterator[tuple[str, str]]:
    listed = folder / "data" / task.file
    if listed.is_file():
        for row in read_jsonl(listed):
            if "test" in row["split"]:
                yield row["audio_path"][0], row["output"]
        return
    with gzip.open(folder / "system_outputs" / f"{task.outputs}.json.gz", "rt", encoding="utf-8") as stream:
        for row in json.load(stream)["items"]:
            yield f"{task.audio}/{row['id']}", row["answer"]


def _ratings(folder: Path, name: str) -> dict[int, float]:
    """Mean ratings, 1 to 9, of EmoMusic: CMI-Bench's own truths are standardized, and its valence repeats arousal."""
    which = name.removeprefix("cmi_")
    rows = read_table(folder / "data" / "EMO" / "static_annotations.csv")
    return {int(row["song_id"]): float(row[f"mean_{which}"]) for row in rows}


_CMI = "data/ or system_outputs/ of https://github.com/nicolaus625/CMI-bench (sound: test_Data.zip of its hub page)"
_OFFICIAL = {
    "key": "MIREX-weighted score", "label": "accuracy, by substring", "rating": "R² of standardized answers",
    "beats": "F-measure", "caption": "BLEU over characters, NLTK's METEOR, ROUGE-L and BERTScore recall",
}  # fmt: skip


ANNOTATIONS = (
    *(
        Benchmark(
            name, f"CMI-Bench, {name.removeprefix('cmi_').replace('_', ' ')}", partial(cmi, name=name), task.scorer,
            "cmi",
            (f"data/{task.file}", f"system_outputs/{task.outputs}.json.gz"), _CMI, task.size,
            "CC BY 4.0; captions CC BY-SA 4.0", "Ma et al., ISMIR 2025, arXiv 2506.12285", _OFFICIAL[task.scorer],
            also=("data/EMO/static_annotations.csv",) if task.scorer == "rating" else (),
        )
        for name, task in CMI_TASKS.items()
    ),
)  # fmt: skip
