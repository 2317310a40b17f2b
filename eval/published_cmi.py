"""The answers of 11 systems to nine tasks of CMI-Bench, scored by our metrics beside constants."""

from __future__ import annotations

import csv
import gzip
import json
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mllm.eval import published_rules as paper
from mllm.eval.metrics.beats import beat_scores, read_times
from mllm.eval.metrics.captions import coco_scores
from mllm.eval.metrics.key import read_key, weighted_score
from mllm.eval.metrics.multiple_choice import read_label
from mllm.eval.metrics.regression import read_rating, regression_scores
from mllm.eval.metrics.retrieval import retrieval_scores
from mllm.eval.metrics.text_similarity import EMBEDDERS, remembered
from mllm.eval.statistics import interval
from mllm.eval.task import EvalError

FIXED_SENTENCE = (
    "This is an instrumental song with a slow tempo, featuring guitar, piano and drums, and it has a relaxing mood."
)
"""Ours; what a sentence gets depends on its length and on how many words of it are common."""
GRID_SECONDS = 31
WAYS: Mapping[str, tuple[str, ...]] = {"hiphop": ("hip-hop", "hip hop"), "vocal": ("vocals", "voice")}


Figures = dict[str, float]
Keep = Callable[[str, Callable[[], Figures]], Figures]
"""(who answered, how to score that) -> its figures, made or remembered."""


def _anew(who: str, make: Callable[[], Figures]) -> Figures:
    return make()


@dataclass(frozen=True)
class Answers:
    """One file of system_outputs: truths by item, and what each system said of the items, in the same order."""

    task: str
    ids: list[str]
    truths: list[str]
    said: dict[str, list[str]]


@dataclass
class Scored:
    """One task: figures in percent by who answered, by column; intervals of the first column where it is a mean."""

    title: str
    columns: list[str]
    rows: dict[str, dict[str, float]] = field(default_factory=dict)
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    constants: set[str] = field(default_factory=set)

    def add(self, who: str, figures: Mapping[str, float], scores: Sequence[float] = (), groups: Any = None) -> None:
        """Add a row; `scores`: of the items, 0 to 1, for the interval."""
        self.rows[who] = {name: float(figures[name]) for name in self.columns if name in figures}
        if len(scores):
            low, high = interval(np.asarray(scores, float), groups)
            self.intervals[who] = (100 * low, 100 * high)


def read_answers(folder: Path, task: str) -> Answers:
    """Raises EvalError where the file is missing or is no such file."""
    file = folder / "system_outputs" / f"{task}.json.gz"
    try:
        with gzip.open(file, "rt", encoding="utf-8") as stream:
            content = json.load(stream)
        ids = [str(item["id"]) for item in content["items"]]
        truths = [str(item["answer"]) for item in content["items"]]
        said = {name: [_clean(text) for text in texts] for name, texts in content["responses"].items()}
    except FileNotFoundError as error:
        raise EvalError(f"{file} does not exist: give the folder that holds system_outputs/ of CMI-Bench") from error
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise EvalError(f"{file} is no list of answers ({type(error).__name__}: {error})") from error
    if wrong := [name for name, texts in said.items() if len(texts) != len(ids)]:
        raise EvalError(f"{file}: {wrong[0]} has {len(said[wrong[0]])} answers to {len(ids)} items")
    return Answers(task, ids, truths, said)


def _clean(text: Any) -> str:
    """What was said without the marks that SALMONN's tokenizer left."""
    return str(text or "").replace("<s>", "").replace("</s>", "").strip()


def _commonest(truths: Sequence[str]) -> str:
    return Counter(truths).most_common(1)[0][0]


def key(folder: Path) -> Scored:
    """GiantSteps: weighted score of the key."""
    answers = read_answers(folder, "GS_key")
    tracks = [name.rsplit("-", 1)[0] for name in answers.ids]
    table = Scored("Key, GiantSteps: MIREX-weighted", ["weighted", "exact", "unread", "paper's rule"])

    def add(who: str, found: Sequence[str | None], texts: Sequence[str] | None) -> None:
        scores = [weighted_score(truth, one) for truth, one in zip(answers.truths, found, strict=True)]
        theirs = [
            weighted_score(t, paper.key_by_substring(x)) for t, x in zip(answers.truths, texts or [], strict=False)
        ]
        figures = {"weighted": 100 * np.mean(scores), "exact": 100 * np.mean(np.array(scores) == 1)}
        figures["unread"] = 100 * float(np.mean([one is None for one in found]))
        if theirs:
            figures["paper's rule"] = 100 * float(np.mean(theirs))
        table.add(who, figures, scores, tracks)

    for name, texts in answers.said.items():
        add(name, [read_key(text) for text in texts], texts)
    best = max(sorted(set(answers.truths)), key=lambda one: sum(weighted_score(t, one) for t in answers.truths))
    for label, one in (("always the commonest key", _commonest(answers.truths)), ("best constant", best)):
        table.constants.add(f"{label} (“{one}”)")
        add(f"{label} (“{one}”)", [one] * len(tracks), None)
    return table


def _labels(folder: Path, task: str, title: str) -> Scored:
    answers = read_answers(folder, task)
    labels = {label: WAYS.get(label, ()) for label in sorted(set(answers.truths))}
    table = Scored(title, ["accuracy", "unread", "paper's rule"])
    for name, texts in answers.said.items():
        found = [read_label(text, labels) for text in texts]
        right = [float(one == truth) for one, truth in zip(found, answers.truths, strict=True)]
        theirs = paper.right_by_substring(texts, answers.truths)
        unread = float(np.mean([one is None for one in found]))
        figures = {"accuracy": _percent(right), "unread": 100 * unread, "paper's rule": _percent(theirs)}
        table.add(name, figures, right)
    common = _commonest(answers.truths)
    right = [float(truth == common) for truth in answers.truths]
    table.constants.add(f"always the commonest (“{common}”)")
    table.add(f"always the commonest (“{common}”)", {"accuracy": _percent(right), "unread": 0.0}, right)
    return table


def _percent(scores: Sequence[float]) -> float:
    return 100 * float(np.mean(scores))


def genre(folder: Path) -> Scored:
    """GTZAN, fault-filtered test split."""
    return _labels(folder, "GTZAN", "Genre, GTZAN: accuracy")


def instrument(folder: Path) -> Scored:
    """NSynth, ten families of its test split."""
    return _labels(folder, "Nsynth_instrument", "Instrument family, NSynth: accuracy")


def _emotion(folder: Path, which: str) -> Scored:
    answers = read_answers(folder, f"EMO_{which}")
    file = folder / "data" / "EMO" / "static_annotations.csv"
    try:
        with file.open(encoding="utf-8", newline="") as stream:
            rated = {int(row["song_id"]): float(row[f"mean_{which}"]) for row in csv.DictReader(stream)}
        truths = [rated[int(Path(name).stem)] for name in answers.ids]
    except (OSError, KeyError, ValueError) as error:
        raise EvalError(f"{file} has no ratings of {which} for these songs ({error})") from error
    columns = ["pearson", "r2", "unread", "paper's rule (R²)"]
    table = Scored(f"{which.capitalize()}, EmoMusic: correlation and R² with the mean rating (1 to 9)", columns)
    for name, texts in answers.said.items():
        scores = regression_scores(truths, [read_rating(text, 1, 9) for text in texts])
        theirs = paper.rating_r2(texts, [float(truth) for truth in answers.truths])
        table.add(name, {"pearson": 100 * scores["pearson"], "r2": 100 * scores["r2"],
                         "unread": 100 * (1 - scores["read"]), "paper's rule (R²)": 100 * theirs})  # fmt: skip
    table.constants.add("always the mean rating")
    table.add("always the mean rating", {"pearson": 0.0, "r2": 0.0, "unread": 0.0})
    return table


def arousal(folder: Path) -> Scored:
    """EmoMusic, 125 songs."""
    return _emotion(folder, "arousal")


def valence(folder: Path) -> Scored:
    """EmoMusic, with the true valence, which the file of answers does not hold (it repeats arousal)."""
    return _emotion(folder, "valence")


def _beats(folder: Path, task: str, title: str) -> Scored:
    answers = read_answers(folder, task)
    truths = [read_times(text) or [] for text in answers.truths]
    table = Scored(title, ["f_measure", "cmlt", "amlt", "unread"])

    def add(who: str, found: Sequence[Sequence[float] | None]) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # mir_eval: no beats after the fifth second
            scores = [beat_scores(truth, one) for truth, one in zip(truths, found, strict=True)]
        figures = {name: _percent([score[name] for score in scores]) for name in table.columns[:3]}
        figures["unread"] = _percent([one is None for one in found])
        table.add(who, figures, [score["f_measure"] for score in scores])

    for name, texts in answers.said.items():
        add(name, [read_times(text) for text in texts])
    for bpm in (120, 150):
        table.constants.add(f"a grid of {bpm} BPM from 0 s")
        add(f"a grid of {bpm} BPM from 0 s", [list(np.arange(0, GRID_SECONDS, 60 / bpm))] * len(truths))
    return table


def gtzan_beats(folder: Path) -> Scored:
    """GTZAN-Rhythm, test split."""
    return _beats(folder, "gtzan_beat", "Beats, GTZAN-Rhythm: F-measure (70 ms, from 5 s on)")


def ballroom_beats(folder: Path) -> Scored:
    """Ballroom."""
    return _beats(folder, "ballroom_beat", "Beats, Ballroom: F-measure (70 ms, from 5 s on)")


CAPTION_COLUMNS = ["r10", "r1", "own−other", "bleu1", "bleu4", "meteor", "rouge_l", "cider",
                   "paper's BLEU (characters)", "paper's ROUGE-L (recall)"]  # fmt: skip


def _captions(folder: Path, task: str, title: str, keep: Keep, *, people: bool, embed: str) -> Scored:
    answers = read_answers(folder, task)
    rows: dict[str, list[int]] = {}
    for index, name in enumerate(answers.ids):
        rows.setdefault(name, []).append(index)
    places = list(rows.values())
    references = [[answers.truths[i] for i in group] for group in places]
    table = Scored(title, CAPTION_COLUMNS)
    vectors = remembered(EMBEDDERS[embed](answers.truths))

    def add(who: str, said: list[str], true: list[list[str]], each: list[str] | None = None) -> None:
        found = retrieval_scores(said, true, embed=vectors)
        grams = keep(who, lambda: coco_scores(said, true))  # METEOR takes up to a second for a long answer
        figures = {"r10": found["r10"], "r1": found["r1"], "own−other": found["own_minus_other"], **grams}
        if each:
            theirs = paper.caption_rules(each, answers.truths)
            figures |= {CAPTION_COLUMNS[-2]: theirs["bleu_chars"], CAPTION_COLUMNS[-1]: theirs["rouge_recall"]}
        table.add(who, {name: 100 * value for name, value in figures.items()})

    for name, texts in answers.said.items():
        add(name, [texts[group[0]] for group in places], references, texts)
    table.constants |= {"one fixed sentence", "the same, against the first caption of each track"}
    add("one fixed sentence", [FIXED_SENTENCE] * len(places), references, [FIXED_SENTENCE] * len(answers.ids))
    if people:
        firsts = [texts[:1] for texts in references]
        add("the same, against the first caption of each track", [FIXED_SENTENCE] * len(places), firsts)
        several = [texts for texts in references if len(texts) > 1]
        who = f"a person's caption against the others of the track ({len(several)} tracks that have several)"
        table.constants.add(who)
        add(who, [texts[0] for texts in several], [texts[1:] for texts in several])
    return table


def song_describer(folder: Path, keep: Keep = _anew) -> Scored:
    """Song Describer: 706 tracks, 1,106 captions; the first answer to each track."""
    return _captions(folder, "SDD", "Captions, Song Describer", keep, people=True, embed="minilm")


def music_caps(folder: Path, keep: Keep = _anew) -> Scored:
    """MusicCaps, 2,813 clips of AudioSet's evaluation part."""
    return _captions(folder, "MusicCaps", "Captions, MusicCaps", keep, people=False, embed="tf-idf")


TASKS: dict[str, Callable[[Path], Scored]] = {
    "GS_key": key, "GTZAN": genre, "Nsynth_instrument": instrument, "EMO_arousal": arousal, "EMO_valence": valence,
    "gtzan_beat": gtzan_beats, "ballroom_beat": ballroom_beats, "SDD": song_describer, "MusicCaps": music_caps,
}  # fmt: skip
KEEPING: dict[str, Callable[[Path, Keep], Scored]] = {"SDD": song_describer, "MusicCaps": music_caps}
"""Those whose METEOR takes minutes, system by system."""
