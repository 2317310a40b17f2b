"""Questions in words and notation: ZIQI-Eval, MusicTheoryBench, ABC-Eval."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path

from mllm.eval.benchmarks.benchmark import Benchmark, choice, read_parquet, read_table
from mllm.eval.item import Item

LETTERS = "ABCD"
ORDER_QUESTION = (
    "These bars follow, shuffled:\n{bars}\nGive their numbers in the right order, as digits without spaces."
)
LEFT_OUT = ("Bar_Count_Estimation.csv", "Error_Detection.csv")
"""Made from IrishMAN, which is made from thesession.org: its terms allow no use with language models."""


def ziqi(folder: Path, audio: Path) -> Iterator[Item]:
    """test/*.csv: id, question, four options, the letter of the answer, a sub-theme; in Chinese. A question without
    four options and a letter is left out."""
    for file in sorted((folder / "test").glob("*.csv")):
        for number, row in enumerate(read_table(file)):
            options = [(row[letter] or "").strip() for letter in LETTERS]
            letter = (row["answer"] or "").strip().upper()
            if letter in LETTERS and len(letter) == 1 and all(options):
                yield choice(
                    f"{file.stem}-{number}", row["question"], options, options[LETTERS.index(letter)],
                    strata={"subject": file.stem, "theme": (row["subtheme"] or "").strip()},
                )  # fmt: skip


def music_theory_bench(folder: Path, audio: Path) -> Iterator[Item]:
    """data/train-*.parquet: a stem, options A to D, a letter, a score in ABC for some; less its five examples."""
    for row in read_parquet(folder, "**/*.parquet"):
        options = [str(row["options"][letter]).strip() for letter in LETTERS if row["options"].get(letter)]
        letter = row["answer"].strip().upper()
        if row["split"] == "dev" or len(set(options)) != len(options) or letter not in LETTERS[: len(options)]:
            continue
        yield choice(
            str(row["id"]), row["stem"], options, options[LETTERS.index(letter)], score=row["abc_score"] or "",
            strata={"subject": row["subject"], "kind": row["split"]},
        )  # fmt: skip


def _abc_rows(folder: Path) -> Iterator[tuple[str, int, dict[str, str]]]:
    for file in sorted(folder.glob("csv/*.csv")):
        if file.name not in LEFT_OUT:
            for number, row in enumerate(read_table(file)):
                yield file.stem, number, dict(row)


def _score_of(row: dict[str, str]) -> str:
    """What precedes the question: ABC, or a caption where the options are scores. Scores stand under a head."""
    score = (row.get("score") or row.get("input") or "").strip()
    return score if score.startswith("X:") or not score[:2].endswith(":") else f"X:1\n{score}"


def abc_eval(folder: Path, audio: Path) -> Iterator[Item]:
    """csv/*.csv of ABC-Eval: score, four options, the index of the right one. Keys are shown as fields, "K:D"."""
    for name, number, row in _abc_rows(folder):
        index = (row.get("target_index") or "").strip()
        if name == "Bar_Sequencing" or not index or index == "null":
            continue
        options = [str(option).strip() for option in ast.literal_eval(row["choices"])]
        if "key" in row["task_description"].lower():
            options = [f"K:{option}" for option in options]  # a bare "D" would be a letter too
        if len(set(options)) == len(options):
            yield choice(
                f"{name}-{number}", row["task_description"], options, options[int(float(index))], score=_score_of(row),
                group=row["title"], strata={"task": name},
            )  # fmt: skip


def abc_order(folder: Path, audio: Path) -> Iterator[Item]:
    """csv/Bar_Sequencing.csv: the first bars of a tune, and the next ones shuffled."""
    for name, number, row in _abc_rows(folder):
        if name == "Bar_Sequencing":
            bars = [str(bar).strip() for bar in ast.literal_eval(row["choices"])]
            truth = row["target"].strip().strip("'\"‘’")
            if sorted(truth) != [str(i) for i in range(len(bars))]:
                continue
            listed = "\n".join(f"{i}: {bar}" for i, bar in enumerate(bars))
            yield Item(
                f"{name}-{number}", ORDER_QUESTION.format(bars=listed), truth, score=_score_of(row), group=row["title"]
            )


def _abc(
    name: str, title: str, load: Callable[[Path, Path], Iterator[Item]], scorer: str, files: tuple[str, ...]
) -> Benchmark:
    return Benchmark(
        name, title, load, scorer, "abc_eval", files, "csv/ of https://github.com/ZhaoJH97/ABC-Eval",
        "1,086 questions, of which those made from IrishMAN are left out, 1 MB",
        "research only; a licence a file: CC BY-NC-SA 4.0, CC BY 4.0, GPLv3",
        "Zhao et al., 2025, arXiv 2509.23350", "accuracy; Kendall's tau for the order of bars",
        shuffle=scorer == "choice",
        sound=False,
    )  # fmt: skip


TEXTS = (
    Benchmark(
        "ziqi_eval", "ZIQI-Eval (Chinese)", ziqi, "choice", "ziqi_eval", ("test/*.csv",),
        "test/ of https://github.com/zcli-charlie/ZIQI-Eval", "14,244 questions, 3 MB", "CC BY-NC-SA 4.0",
        "Li et al., Findings of ACL 2024, arXiv 2406.15885", "accuracy, F1 over letters", shuffle=True, sound=False,
    ),
    Benchmark(
        "music_theory_bench", "MusicTheoryBench", music_theory_bench, "choice", "music_theory_bench", ("**/*.parquet",),
        "data/ of https://huggingface.co/datasets/m-a-p/MusicTheoryBench", "372 questions, 0.1 MB", "CC (see its card)",
        "Yuan et al., Findings of ACL 2024, arXiv 2402.16153", "accuracy, knowledge and reasoning apart", shuffle=True,
        sound=False,
    ),
    _abc("abc_eval", "ABC-Eval, multiple choice", abc_eval, "choice", ("csv/*.csv",)),
    _abc("abc_eval_order", "ABC-Eval, order of bars", abc_order, "order", ("csv/Bar_Sequencing.csv",)),
)  # fmt: skip
