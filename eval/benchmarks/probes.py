"""Sets on which MARBLE (Yuan et al., NeurIPS 2023, arXiv 2306.10548) probes frozen features, as questions.

Each has a TRAIN part as published: `python -m mllm.eval.baselines --tasks gtzan,mtt` fits a linear probe on a tower's
features of it, which stands in the table beside the model that is asked. Where TRAIN is not here, the questions are.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from mllm.eval.benchmarks.annotations import AROUSAL, FAMILIES, FAMILY, GENRE, GENRES, KEY, RATED, VALENCE, labelled
from mllm.eval.benchmarks.benchmark import Benchmark, Load, read_json, read_table, sound
from mllm.eval.item import Item

PITCH = "Which MIDI note number is played? Answer with the number."
TAGS = "Which tags fit this music? List them, separated by commas."
MTT_PARTS = {"train": "0123456789ab", "test": "def"}
"""Folders, as Lee et al., 2017, split them; c is for validation."""
EMO_PARTS = {"train": "development", "test": "evaluation"}


def gtzan(folder: Path, audio: Path, part: str) -> Iterator[Item]:
    """PART_filtered.txt: a file of each line, its genre the folder (split without faults: Kereliuk et al., 2015)."""
    for line in (folder / f"{part}_filtered.txt").read_text("utf-8").split():
        yield Item(
            line, GENRE, line.split("/")[0], audio=(sound(audio, f"genres_original/{line}"),), meta=labelled(GENRES)
        )


def giantsteps(folder: Path, audio: Path) -> Iterator[Item]:
    """annotations/key/*.key, one key each. Those without one key are left out."""
    for file in sorted((folder / "annotations" / "key").glob("*.key")):
        if _one_key(key := file.read_text("utf-8").strip()):
            yield Item(
                file.stem, KEY, key, audio=(sound(audio, f"audio/{file.stem}.mp3"),), group=file.stem.split(".")[0]
            )


def giantsteps_mtg(folder: Path, audio: Path) -> Iterator[Item]:
    """mtg/annotations/annotations.txt: number, key and confidence; those with one key that is certain (2)."""
    for row in read_table(folder / "mtg" / "annotations" / "annotations.txt", "\t"):
        number, key = row["ID"].strip(), row["MANUAL KEY"].strip()
        if row["C"].strip() == "2" and _one_key(key):
            yield Item(f"mtg-{number}", KEY, key, audio=(sound(audio, f"mtg/audio/{number}.LOFI.mp3"),), group=number)


def _one_key(key: str) -> bool:
    return key.count(" ") == 1 and key.split()[1] in ("major", "minor")


def nsynth(folder: Path, audio: Path, part: str, field: str) -> Iterator[Item]:
    """nsynth-PART/examples.json: a note each, with its family and its pitch."""
    notes = read_json(folder / f"nsynth-{part}" / "examples.json")
    for name, note in notes.items():
        clip = (sound(audio, f"nsynth-{part}/audio/{name}.wav"),)
        if field == "pitch":
            yield Item(name, PITCH, int(note["pitch"]), audio=clip, group=note["instrument_str"])
        elif (family := note["instrument_family_str"]) in FAMILIES:
            yield Item(name, FAMILY, family, audio=clip, group=note["instrument_str"], meta=labelled(FAMILIES))


def mtt(folder: Path, audio: Path, part: str) -> Iterator[Item]:
    """annotations_final.csv, tab-separated: a clip a line, a column a tag; the 50 commonest tags."""
    rows = list(read_table(folder / "annotations_final.csv", "\t"))
    names = [name for name in rows[0] if name not in ("clip_id", "mp3_path")]
    commonest = sorted(names, key=lambda name: -sum(row[name] == "1" for row in rows))[:50]
    for row in rows:
        tags = [name for name in commonest if row[name] == "1"]
        if tags and row["mp3_path"][:1] in MTT_PARTS[part]:
            clip = (sound(audio, row["mp3_path"]),)
            yield Item(row["clip_id"], TAGS, tags, audio=clip, group=row["mp3_path"].rsplit("-", 2)[0],
                       meta={"tags": commonest})  # fmt: skip


def emomusic(folder: Path, audio: Path, part: str, which: str) -> Iterator[Item]:
    """static_annotations.csv and songs_info.csv: the songs of the part for development, or for evaluation."""
    info = read_table(folder / "songs_info.csv")
    wanted = {
        int(row["song_id"]) for row in info if EMO_PARTS[part] in "".join(str(value) for value in row.values()).lower()
    }
    for row in read_table(folder / "static_annotations.csv"):
        if int(row["song_id"]) in wanted:
            question = AROUSAL if which == "arousal" else VALENCE
            clip = (sound(audio, f"clips_45seconds/{row['song_id']}.mp3"),)
            yield Item(row["song_id"], question, float(row[f"mean_{which}"]), audio=clip, meta=dict(RATED))


def _probe(
    name: str, title: str, load: Any, scorer: str, folder: str, files: tuple[str, ...], trained: str, *terms: str,
    train: Load | None = None,
) -> Benchmark:  # fmt: skip
    """`load`: takes the part; `trained`: the file of TRAIN; `train`: its loader, where it is another set."""
    where, size, licence, citation, official = terms
    return Benchmark(
        name, title, load if train else partial(load, part="test"), scorer, folder, files, where, size, licence,
        citation, official, also=(trained,), train=train or partial(load, part="train"), train_file=trained,
    )  # fmt: skip


_NSYNTH = ("nsynth", ("nsynth-test/examples.json",), "nsynth-train/examples.json",
           "nsynth-test.jsonwav.tar.gz (to probe, nsynth-train too) of https://magenta.tensorflow.org/datasets/nsynth",
           "4,096 notes, 350 MB", "CC BY 4.0", "Engel et al., ICML 2017, arXiv 1704.01279", "accuracy")  # fmt: skip
_EMO = ("emomusic", ("static_annotations.csv",), "songs_info.csv",
        "emoMusic45s of https://cvml.unige.ch/databases/emoMusic/",
        "744 songs of 45 s", "research only", "Soleymani et al., CrowdMM 2013", "R² of a probe")  # fmt: skip
PROBES = (
    _probe("gtzan", "GTZAN genre", gtzan, "label", "gtzan", ("test_filtered.txt",), "train_filtered.txt",
           "genres_original/ of GTZAN and test_filtered.txt (to probe, train_filtered.txt too) of "
           "https://github.com/jongpillee/music_dataset_split", "290 clips of 930, 1.2 GB",
           "no licence stated", "Tzanetakis and Cook, 2002", "accuracy of a probe"),
    _probe("giantsteps_key", "GiantSteps key", giantsteps, "key", "giantsteps", ("annotations/key/*.key",),
           "mtg/annotations/annotations.txt",
           "annotations/ of https://github.com/GiantSteps/giantsteps-key-dataset and its audio (to probe, into mtg/ "
           "those of giantsteps-mtg-key-dataset)", "604 clips of two minutes", "no licence stated",
           "Knees et al., ISMIR 2015",
           "MIREX-weighted score of a probe", train=giantsteps_mtg),
    _probe("nsynth_instrument", "NSynth instrument family", partial(nsynth, field="family"), "label", *_NSYNTH),
    _probe("nsynth_pitch", "NSynth pitch", partial(nsynth, field="pitch"), "number", *_NSYNTH),
    _probe("mtt", "MagnaTagATune, 50 tags", mtt, "tags", "mtt", ("annotations_final.csv",), "annotations_final.csv",
           "annotations_final.csv and mp3 of https://mirg.city.ac.uk/codeapps/the-magnatagatune-dataset",
           "25,863 clips, 2.7 GB", "CC BY-NC-SA (the recordings)", "Law et al., ISMIR 2009",
           "ROC-AUC and mAP of a probe"),
    _probe("emomusic_arousal", "EmoMusic arousal", partial(emomusic, which="arousal"), "rating", *_EMO),
    _probe("emomusic_valence", "EmoMusic valence", partial(emomusic, which="valence"), "rating", *_EMO),
)  # fmt: skip
