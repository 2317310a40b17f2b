"""Captions and open questions: MusicCaps, Song Describer, LP-MusicCaps, MusicQA, MusicInstruct."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from mllm.eval.benchmarks.benchmark import Benchmark, first_of, read_json, read_parquet, read_table, sound
from mllm.eval.item import Item

DESCRIBE = "Describe this music."
OFFICIAL = "BLEU, METEOR, ROUGE-L, BERTScore, for comparison only; judged by retrieval of the own reference"
CAPTIONS = ("musiccaps", "song_describer", "lp_musiccaps")
"""Sets whose questions are all the same: a good answer is one that fits its own recording and no other."""


def music_caps(folder: Path, audio: Path) -> Iterator[Item]:
    """musiccaps-public.csv: the clips of AudioSet's evaluation part."""
    file = first_of(folder, "musiccaps-public.csv", "data/MusicCaps/musiccaps-public.csv")
    for row in read_table(file):
        if row["is_audioset_eval"] == "True":
            yield Item(
                row["ytid"], DESCRIBE, [row["caption"].strip()], audio=(sound(audio, f"audio/{row['ytid']}.wav"),)
            )


def song_describer(folder: Path, audio: Path) -> Iterator[Item]:
    """song_describer.csv: one item a track, with all its captions."""
    file = first_of(folder, "song_describer.csv", "data/SDD/song_describer.csv")
    tracks: dict[str, tuple[str, list[str]]] = {}
    for row in read_table(file):
        tracks.setdefault(row["track_id"], (row["path"], []))[1].append(row["caption"].strip())
    for track, (path, captions) in tracks.items():
        place = f"audio/{path.removesuffix('.mp3')}.2min.mp3"
        yield Item(track, DESCRIBE, captions, audio=(sound(audio, place),))


def lp_music_caps(folder: Path, audio: Path) -> Iterator[Item]:
    """data/test-*.parquet of LP-MusicCaps-MC: captions that a language model wrote from the tags of MusicCaps."""
    styles = ("writing", "summary", "paraphrase")
    for row in read_parquet(folder, "**/test*.parquet"):
        truths = [row[f"caption_{style}"] for style in styles if row.get(f"caption_{style}")]
        name = str(row.get("ytid") or row["fname"]).strip("[]")
        yield Item(name, DESCRIBE, truths, audio=(sound(audio, f"audio/{name}.wav"),))


def music_qa(folder: Path, audio: Path) -> Iterator[Item]:
    """EvalMusicQA.json: questions about tracks of MTG-Jamendo, with one answer each."""
    for number, row in enumerate(read_json(folder / "EvalMusicQA.json")):
        asked, *_, answered = row["conversation"]
        yield Item(
            f"{row['audio_name']}-{number}", asked["value"].strip(), [answered["value"].strip()],
            audio=(sound(audio, f"audios/{row['audio_name']}"),), group=row["audio_name"],
        )  # fmt: skip


def music_instruct(folder: Path, audio: Path, length: str) -> Iterator[Item]:
    """music_instruct_short.json, music_instruct_long.json: questions about clips of AudioSet's evaluation part."""
    file = first_of(folder, f"music_instruct_{length}.json", f"MusicInstruct/music_instruct_{length}.json")
    for number, row in enumerate(read_json(file)["QA"]):
        if row["is_audioset_eval"]:
            yield Item(
                f"{row['ytid']}-{number}", row["question"].strip(), [row["answer"].strip()],
                audio=(sound(audio, f"audio/{row['ytid']}.wav"),), group=row["ytid"],
            )  # fmt: skip


def _set(name: str, title: str, load: Callable[[Path, Path], Iterator[Item]], folder: str, *rest: object) -> Benchmark:
    files, where, size, licence, citation = rest
    scorer = "caption" if name in CAPTIONS else "text"
    return Benchmark(name, title, load, scorer, folder, files, where, size, licence, citation, OFFICIAL)  # type: ignore[arg-type]


_INSTRUCT = (
    "MusicInstruct/ of https://huggingface.co/datasets/m-a-p/Music-Instruct", "27,540 short and 32,953 long questions, "
    "those of the evaluation part; 60 MB; audio: MusicCaps", "CC BY-NC 4.0",
    "Deng et al., NAACL 2024, arXiv 2309.08730",
)  # fmt: skip
OPEN_ANSWERS = (
    _set("musiccaps", "MusicCaps", music_caps, "cmi", ("musiccaps-public.csv", "data/MusicCaps/musiccaps-public.csv"),
         "musiccaps-public.csv of https://huggingface.co/datasets/google/MusicCaps", "2,858 clips of ten seconds, "
         "3 MB; audio: YouTube, as audio/<ytid>.wav", "CC BY-SA 4.0", "Agostinelli et al., 2023, arXiv 2301.11325"),
    _set("song_describer", "Song Describer", song_describer, "cmi", ("song_describer.csv",
         "data/SDD/song_describer.csv"),
         "song_describer.csv and audio.zip of https://doi.org/10.5281/zenodo.10072001", "706 tracks, 1,106 captions, "
         "0.2 MB; audio 3.3 GB", "CC BY-SA 4.0", "Manco et al., 2023, arXiv 2311.10057"),
    _set("lp_musiccaps", "LP-MusicCaps-MC", lp_music_caps, "lp_musiccaps", ("**/test*.parquet",),
         "data/ of https://huggingface.co/datasets/seungheondoh/LP-MusicCaps-MC", "2,858 clips, 5 MB; audio: MusicCaps",
         "MIT", "Doh et al., ISMIR 2023, arXiv 2307.16372"),
    _set("musicqa", "MusicQA", music_qa, "musicqa", ("EvalMusicQA.json",),
         "EvalMusicQA.json and audios.zip of https://huggingface.co/datasets/mu-llama/MusicQA", "5,040 questions, 560 "
         "tracks, 2 MB; audio 37 GB", "MIT (the tracks keep their own)", "Liu et al., ICASSP 2024, arXiv 2308.11276"),
    *(
        _set(f"musicinstruct_{length}", f"MusicInstruct, {length}", partial(music_instruct, length=length),
             "musicinstruct", (f"music_instruct_{length}.json", f"MusicInstruct/music_instruct_{length}.json"),
             *_INSTRUCT)
        for length in ("short", "long")
    ),
)  # fmt: skip
