"""Annotations of music information retrieval as questions: nine tasks of CMI-Bench, and sets that MARBLE probes."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from mllm.eval.benchmarks.benchmark import Benchmark, read_json, read_jsonl, read_table, sound
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
PITCH = "Which MIDI note number is played? Answer with the number."
TAGS = "Which tags fit this music? List them, separated by commas."


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


def gtzan(folder: Path, audio: Path) -> Iterator[Item]:
    """test_filtered.txt: a file of each line, its genre the folder (split without faults: Kereliuk et al., 2015)."""
    for line in (folder / "test_filtered.txt").read_text("utf-8").split():
        yield Item(
            line, GENRE, line.split("/")[0], audio=(sound(audio, f"genres_original/{line}"),), meta=labelled(GENRES)
        )


def giantsteps(folder: Path, audio: Path) -> Iterator[Item]:
    """annotations/key/*.key, one key each. Those without one key are left out."""
    for file in sorted((folder / "annotations" / "key").glob("*.key")):
        key = file.read_text("utf-8").strip()
        if key.count(" ") == 1 and key.split()[1] in ("major", "minor"):
            yield Item(
                file.stem, KEY, key, audio=(sound(audio, f"audio/{file.stem}.mp3"),), group=file.stem.split(".")[0]
            )


def nsynth(folder: Path, audio: Path, field: str) -> Iterator[Item]:
    """nsynth-test/examples.json: a note each, with its family and its pitch."""
    notes = read_json(folder / "nsynth-test" / "examples.json")
    for name, note in notes.items():
        clip = (sound(audio, f"nsynth-test/audio/{name}.wav"),)
        if field == "pitch":
            yield Item(name, PITCH, int(note["pitch"]), audio=clip, group=note["instrument_str"])
        elif (family := note["instrument_family_str"]) in FAMILIES:
            yield Item(name, FAMILY, family, audio=clip, group=note["instrument_str"], meta=labelled(FAMILIES))


def mtt(folder: Path, audio: Path) -> Iterator[Item]:
    """annotations_final.csv, tab-separated: a clip a line, a column a tag; the 50 commonest tags, folders d to f."""
    rows = list(read_table(folder / "annotations_final.csv", "\t"))
    names = [name for name in rows[0] if name not in ("clip_id", "mp3_path")]
    commonest = sorted(names, key=lambda name: -sum(row[name] == "1" for row in rows))[:50]
    for row in rows:
        tags = [name for name in commonest if row[name] == "1"]
        if tags and row["mp3_path"][:1] in "def":  # Lee et al., 2017: 0-b train, c validation, d-f test
            clip = (sound(audio, row["mp3_path"]),)
            yield Item(row["clip_id"], TAGS, tags, audio=clip, group=row["mp3_path"].rsplit("-", 2)[0],
                       meta={"tags": commonest})  # fmt: skip


def emomusic(folder: Path, audio: Path, which: str) -> Iterator[Item]:
    """static_annotations.csv and songs_info.csv: the songs of the evaluation part."""
    info = read_table(folder / "songs_info.csv")
    held = {
        int(row["song_id"]) for row in info if "evaluation" in "".join(str(value) for value in row.values()).lower()
    }
    for row in read_table(folder / "static_annotations.csv"):
        if int(row["song_id"]) in held:
            question = AROUSAL if which == "arousal" else VALENCE
            clip = (sound(audio, f"clips_45seconds/{row['song_id']}.mp3"),)
            yield Item(row["song_id"], question, float(row[f"mean_{which}"]), audio=clip, meta=dict(RATED))


_CMI = "data/ or system_outputs/ of https://github.com/nicolaus625/CMI-bench (sound: test_Data.zip of its hub page)"
_OFFICIAL = {
    "key": "MIREX-weighted score", "label": "accuracy, by substring", "rating": "R² of standardized answers",
    "beats": "F-measure", "caption": "BLEU over characters, NLTK's METEOR, ROUGE-L and BERTScore recall",
}  # fmt: skip


def _probe(
    name: str, title: str, load: Any, scorer: str, folder: str, files: tuple[str, ...], *terms: str,
    also: tuple[str, ...] = (),
) -> Benchmark:  # fmt: skip
    where, size, licence, citation, official = terms
    return Benchmark(name, title, load, scorer, folder, files, where, size, licence, citation, official, also=also)


_NSYNTH = ("nsynth", ("nsynth-test/examples.json",), "nsynth-test.jsonwav.tar.gz of https://magenta.tensorflow.org/datasets/nsynth",
           "4,096 notes, 350 MB", "CC BY 4.0", "Engel et al., ICML 2017, arXiv 1704.01279", "accuracy")  # fmt: skip
_EMO = ("emomusic", ("static_annotations.csv",), "emoMusic45s of https://cvml.unige.ch/databases/emoMusic/",
        "744 songs of 45 s", "research only", "Soleymani et al., CrowdMM 2013", "R² of a probe")  # fmt: skip
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
    _probe("gtzan", "GTZAN genre", gtzan, "label", "gtzan", ("test_filtered.txt",), "genres_original/ of GTZAN and "
           "test_filtered.txt of https://github.com/jongpillee/music_dataset_split", "290 clips of 930, 1.2 GB",
           "no licence stated", "Tzanetakis and Cook, 2002", "accuracy of a probe"),
    _probe("giantsteps_key", "GiantSteps key", giantsteps, "key", "giantsteps", ("annotations/key/*.key",),
           "annotations/ of https://github.com/GiantSteps/giantsteps-key-dataset and its audio",
           "604 clips of two minutes", "no licence stated", "Knees et al., ISMIR 2015",
           "MIREX-weighted score of a probe"),
    _probe("nsynth_instrument", "NSynth instrument family", partial(nsynth, field="family"), "label", *_NSYNTH),
    _probe("nsynth_pitch", "NSynth pitch", partial(nsynth, field="pitch"), "number", *_NSYNTH),
    _probe("mtt", "MagnaTagATune, 50 tags", mtt, "tags", "mtt", ("annotations_final.csv",),
           "annotations_final.csv and mp3 of https://mirg.city.ac.uk/codeapps/the-magnatagatune-dataset",
           "25,863 clips, 2.7 GB", "CC BY-NC-SA (the recordings)", "Law et al., ISMIR 2009",
           "ROC-AUC and mAP of a probe"),
    _probe("emomusic_arousal", "EmoMusic arousal", partial(emomusic, which="arousal"), "rating", *_EMO,
           also=("songs_info.csv",)),
    _probe("emomusic_valence", "EmoMusic valence", partial(emomusic, which="valence"), "rating", *_EMO,
           also=("songs_info.csv",)),
)  # fmt: skip
