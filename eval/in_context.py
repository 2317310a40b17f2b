"""Does a model learn from examples in the prompt? Curves over 0 to 8 labelled clips, with what could fake them.

`python -m mllm.eval.in_context --model mini --data runs/data/mini --shots 0,1,2,4,8 --limit 40 --output runs/icl`

Three sets of labels (ordinary words, invented words that always mean the same, invented words that mean anew each
time), the same queries for all. Beside each point: the same prompt with every clip silent, with labels that tell
nothing (shuffled), and with the examples in the other order. Answers go through `mllm.eval.run.evaluate`, so a killed
run goes on where it stopped and every prompt stands in results.jsonl; the folder also gets in_context.json, table.md
and in_context.svg.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from mllm.errors import MllmError
from mllm.eval.answers import read_records
from mllm.eval.commands import command, named, unless
from mllm.eval.controls import without_names
from mllm.eval.in_context_episodes import (
    LABELS,
    VARIANTS,
    Episode,
    draw_episodes,
    fixed_words,
    item_of,
    labels_of,
    score,
)
from mllm.eval.in_context_report import figure, markdown
from mllm.eval.item import Item
from mllm.eval.respondents import Failure, Respondent, respondent
from mllm.eval.run import evaluate
from mllm.eval.sounds import Sound
from mllm.eval.statistics import interval, paired
from mllm.eval.task import EvalError, Messages, Task, ask
from mllm.whole_files import write_whole

MOST_NEW_TOKENS = 12
TIMED = 4
"""Queries that the cost of a prompt is measured on."""
SMALLEST = {"plain": 0, "shuffled": 1, "reversed": 2}
"""Variant -> examples from which on it differs from the plain prompt."""


def measure(
    model: str | Respondent,
    data: str | Path = "runs/data/mini",
    output: str | Path = "runs/icl",
    shots: Sequence[int] = (0, 1, 2, 4, 8),
    limit: int = 40,
    *,
    model_name: str = "",
    split: str = "test",
    classes: int = 2,
    seed: int = 0,
) -> dict[str, Any]:
    """Ask `limit` queries with each number of examples and write answers, figures, table and plot into `output`.

    Args:
        model, model_name: as in `mllm.eval.run.evaluate`.
        data: a folder that `mllm data build` made.
        shots: numbers of examples, each 0 or more.
        limit: queries; the same ones for all numbers of examples and kinds of labels.
        split: whose clips are the queries and the examples.
        classes: labels a prompt, 2 or more: chance is one in so many.
        seed: of the draws.

    Returns:
        What in_context.json holds: {"run", "curves": {labels: [figures of one number of examples]}, "gains", "cost"}.

    Raises:
        EvalError: too few clips, or `output` holds another run.
    """
    data, output, shots = Path(data), Path(output), sorted(set(shots))
    if not shots or shots[0] < 0 or limit < 1 or classes < 2:
        raise EvalError("--shots are numbers from 0 on such as 0,1,2,4,8, --limit is at least 1, --classes at least 2")
    asked = respondent(model, model_name) if isinstance(model, str) else model
    episodes = draw_episodes(data, split, limit, shots[-1], classes, seed)
    tasks = _tasks(episodes, fixed_words(data, split), shots, split, seed)
    plain = {name: task for name, task in tasks.items() if name.endswith("plain")}
    altered = {name: task for name, task in tasks.items() if name not in plain and task.items(data, split, None, seed)}
    words = command("python -m mllm.eval.in_context", {
        **named(model, model_name), "--data": data, "--shots": ",".join(map(str, shots)), "--limit": limit,
        "--output": output, "--split": unless(split, "test"), "--classes": unless(classes, 2),
        "--seed": unless(seed, 0),
    })  # fmt: skip
    same: Any = {"split": split, "seed": seed, "tools": False, "command": words}
    evaluate(asked, list(plain), data, output / "plain", conditions=("model", "silence"), registry=plain, **same)
    records = read_records(output / "plain")
    if altered:
        evaluate(asked, list(altered), data, output / "altered", conditions=("model",), registry=altered, **same)
        records += read_records(output / "altered")
    settings = {
        "model": asked.name, "model_sha256": asked.sha256, "data": str(data), "split": split, "shots": list(shots),
        "queries": limit, "classes": classes, "seed": seed, "command": words,
    }  # fmt: skip
    timed = tasks["in context, changing labels, plain"].items(data, split, None, seed)
    summary = {"run": settings, **figures(records, shots), "cost": _cost(asked, timed, shots, output)}
    write_whole(output / "in_context.json", json.dumps(summary, indent=1, ensure_ascii=False) + "\n")
    write_whole(output / "table.md", markdown(summary))
    write_whole(output / "in_context.svg", figure(summary))
    return summary


def _tasks(
    episodes: Sequence[Episode], words: dict[tuple[str, str], str], shots: Sequence[int], split: str, seed: int
) -> dict[str, Task]:
    """A task for each kind of labels and variant; its items are all queries with each number of examples."""
    out = {}
    for kind in LABELS:
        for variant in VARIANTS:
            found = [
                item_of(episode, kind, k, variant, labels_of(episode, kind, words, seed), seed)
                for k in shots
                if k >= SMALLEST[variant]
                for episode in episodes
            ]
            name = f"in context, {kind} labels, {variant}"
            out[name] = Task(
                name, name, lambda data, of, limit, seed, found=found: found if of == split else [], score,  # type: ignore[misc]
                prompt=ask, max_new_tokens=MOST_NEW_TOKENS, guess=lambda item: None,
            )  # fmt: skip
    return out


Cells = dict[tuple[str, str, str, int], dict[int, dict[str, Any]]]
"""(labels, variant, condition, examples) -> number of the query -> record."""


def figures(records: Sequence[dict[str, Any]], shots: Sequence[int]) -> dict[str, Any]:
    """Curves and gains out of the records of results.jsonl.

    Returns {"curves": {labels: [{"shots", "n", "accuracy", "silence", "shuffled", each (mean, low, high), "copied",
    "last", "commonest" (shares of all answers), "commonest_constant", "unread", "failed", "reordered"}]},
    "gains": {labels: most examples less fewest, and less shuffled, paired}}.
    """
    cells: Cells = {}
    for record in records:
        kind, variant, number, examples = record["item"].split("/")
        cells.setdefault((kind, variant, record["condition"], int(examples)), {})[int(number)] = record
    curves = {kind: [_point(cells, kind, k) for k in shots] for kind in LABELS}
    gains: dict[str, Any] = {}
    for kind in LABELS:
        most = cells[kind, "plain", "model", shots[-1]]
        against = {"fewest examples": cells[kind, "plain", "model", shots[0]]} if len(shots) > 1 else {}
        for name, key in (("shuffled labels", ("shuffled", "model")), ("silence", ("plain", "silence"))):
            if (other := cells.get((kind, *key, shots[-1]))) is not None:
                against[name] = other
        gains[kind] = {name: _gain(other, most) for name, other in against.items()}
    return {"curves": curves, "gains": gains}


def _gain(first: dict[int, dict[str, Any]], second: dict[int, dict[str, Any]]) -> dict[str, Any]:
    numbers = sorted(first.keys() & second.keys())
    groups = [second[n]["group"] for n in numbers]
    return asdict(paired([first[n]["score"] for n in numbers], [second[n]["score"] for n in numbers], groups))


def _share(values: Sequence[float], rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    low, high = interval(values, [row["group"] for row in rows])
    return {"mean": float(np.mean(values)), "low": low, "high": high}


def _point(cells: Cells, kind: str, k: int) -> dict[str, Any]:
    rows = list(cells[kind, "plain", "model", k].values())
    out: dict[str, Any] = {
        "shots": k, "n": len(rows), "accuracy": _share([row["score"] for row in rows], rows),
        "unread": sum(row["parsed"] is None for row in rows), "failed": sum("failed" in row for row in rows),
    }  # fmt: skip
    for name, variant, condition in (("silence", "plain", "silence"), ("shuffled", "shuffled", "model")):
        if others := list(cells.get((kind, variant, condition, k), {}).values()):
            out[name] = _share([row["score"] for row in others], others)
    constant = list(cells.get((kind, "plain", "prompt", k), {}).values())
    if k and constant:
        out["commonest_constant"] = float(np.mean([row["score"] for row in constant]))
    names = {
        "copied": "a shown label, wrongly",
        "last": "the last label shown",
        "commonest": "the commonest label shown",
    }
    for name, extra in names.items():
        # an answer that never came copies nothing
        if told := [row for row in rows if extra in row["extras"]]:
            out[name] = _share([row["extras"][extra] for row in told], told)
    turned = cells.get((kind, "reversed", "model", k), {})
    both = [(row, turned[n]) for n, row in cells[kind, "plain", "model", k].items() if n in turned]
    if both:
        out["reordered"] = _share([float(a["parsed"] != b["parsed"]) for a, b in both], [a for a, _ in both])
    return out


def _cost(asked: Respondent, timed: Sequence[Item], shots: Sequence[int], output: Path) -> list[dict[str, Any]]:
    """Tokens and seconds of a prompt with each number of examples; measured once a folder.

    Every clip is given a key of its own, so nothing that was heard before is remembered; one question at a time for
    models in this process, and after one that does not count.
    """
    file = output / "cost.json"
    known = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    if known.get("model_sha256") == asked.sha256 and known.get("shots") == list(shots):
        return known["cost"]
    of_shots: dict[int, list[Item]] = {k: [] for k in shots}
    for item in timed:
        if len(of_shots[int(item.strata["shots"])]) < TIMED:
            of_shots[int(item.strata["shots"])].append(item)
    out = []
    for k, items in of_shots.items():
        seconds, tokens, answered = [], [], 0
        for i, item in enumerate([items[0], *items]):
            prompt = _fresh(without_names(ask(item)), f"{k} {i}")
            start = time.perf_counter()
            (said,) = asked.answer([prompt], MOST_NEW_TOKENS)
            if i:
                seconds.append(time.perf_counter() - start)
                answered += not isinstance(said, Failure)
                if embed := getattr(asked, "embed", None):
                    tokens.append(len(embed(prompt)))
        out.append({
            "shots": k, "seconds": float(np.median(seconds)), "answered": answered, "of": len(seconds),
            "tokens": float(np.mean(tokens)) if tokens else None,
        })  # fmt: skip
    write_whole(file, json.dumps({"model_sha256": asked.sha256, "shots": list(shots), "cost": out}, indent=1) + "\n")
    return out


def _fresh(messages: Messages, salt: str) -> Messages:
    """The same sounds under keys that nobody has met."""

    def part(one: dict[str, Any]) -> dict[str, Any]:
        if one["type"] != "audio":
            return one
        sound = one["audio"]
        return {"type": "audio", "audio": Sound(f"{salt} {sound.key}", sound.load, lambda: sound.seconds)}

    return [m if isinstance(m["content"], str) else m | {"content": [part(p) for p in m["content"]]} for m in messages]


def main(
    model: Annotated[str, typer.Option(help="As in `mllm eval`: mini, a folder, text:smollm2, http://…/v1.")] = "mini",
    data: Annotated[Path, typer.Option(help="Folder that `mllm data build` made.")] = Path("runs/data/mini"),
    output: Annotated[Path, typer.Option(help="Folder of the results; goes on where it was stopped.")] = Path(
        "runs/icl"
    ),
    shots: Annotated[str, typer.Option(help="Numbers of examples, with commas.")] = "0,1,2,4,8",
    limit: Annotated[int, typer.Option(min=1, help="Queries.")] = 40,
    classes: Annotated[int, typer.Option(min=2, help="Labels a prompt.")] = 2,
    split: Annotated[str, typer.Option(help="Whose clips are asked about.")] = "test",
    model_name: Annotated[str, typer.Option(help="What an API calls the model.")] = "",
    seed: Annotated[int, typer.Option(help="Of the draws.")] = 0,
) -> None:
    """Measure learning from examples in the prompt: curves, controls, one figure."""
    try:
        if not all(number.strip().isdigit() for number in shots.split(",")):
            raise EvalError(f"--shots {shots}: give numbers with commas, such as 0,1,2,4,8")
        numbers = [int(number) for number in shots.split(",")]
        summary = measure(
            model, data, output, numbers, limit, model_name=model_name, split=split, classes=classes, seed=seed
        )
    except MllmError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error
    typer.echo(markdown(summary), nl=False)


if __name__ == "__main__":
    typer.run(main)
