"""Records -> scores with intervals and the gain over what hears nothing -> summary.json and table.md."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from mllm.eval.controls import CONDITIONS, CONSTANTS, DEAF
from mllm.eval.statistics import RESAMPLES, SEED, gain, interval, intervals
from mllm.eval.task import Overall

COLUMNS = {
    name: title
    for name, title in ({n: c.title for n, c in CONDITIONS.items()} | CONSTANTS).items()
    if name not in ("model", "nudged")
}
"""Control -> title, in the order of the table; those of which no task has any are left out."""
FORGETS = 0.05
"""A score that falls by more than this (lower end of the interval) when the sound moves by 30 ms was no hearing."""


def summarise(records: Sequence[dict[str, Any]], overall: Overall | None = None) -> dict[str, Any]:
    """{condition: {accuracy, low, high, n, unparsed, failed, unweighed, extras, intervals, left_out}} of one task.

    `overall`: see `Task`. `extras`: mean of each further figure over the items that have it; `intervals`: of each
    {n} and, unless it is of all answers as a whole, {low, high}; `left_out`: why a figure could not be had.
    Under "model" also `gain` (over the best control that hears or reads nothing: points, low, high, against), `medium`
    (audio, score or ""), `strata` and, where it was asked, `nudged` (score less that with the sound moved by 30 ms).
    """
    conditions: dict[str, dict[str, dict[str, Any]]] = {}
    for record in records:
        conditions.setdefault(record["condition"], {})[record["item"]] = record
    out: dict[str, Any] = {}
    order = ["model", *COLUMNS]
    for name in sorted(conditions, key=lambda name: order.index(name) if name in order else len(order)):
        rows = conditions[name]
        scores = np.array([row["score"] for row in rows.values()])
        low, high = interval(scores, _groups(list(rows.values())))
        out[name] = {"accuracy": float(scores.mean()), "low": low, "high": high, "n": len(rows)}
        if name != "chance":
            out[name]["unparsed"] = sum(row["parsed"] is None for row in rows.values())
            out[name] |= _extras(list(rows.values()), overall)
        for lack in ("failed", "unweighed"):
            if count := sum(lack in row for row in rows.values()):
                out[name][lack] = count
        said = {row["answer"] for row in rows.values()}
        if len(said) == 1 and None not in said:
            out[name]["answer"] = said.pop()
    if "model" in conditions:
        out["model"] |= _of_model(conditions)
    return out


def _of_model(conditions: dict[str, dict[str, dict[str, Any]]]) -> dict[str, Any]:
    rows = conditions["model"]
    scores = [row["score"] for row in rows.values()]
    groups = _groups(list(rows.values()))
    out: dict[str, Any] = {"medium": next(iter(rows.values())).get("medium", "")}
    # a control that does not apply to an item gets nothing there
    deaf = {
        name: [conditions[name][item]["score"] if item in conditions[name] else 0.0 for item in rows]
        for name in DEAF
        if name in conditions
    }
    if deaf:
        out["gain"] = asdict(gain(scores, deaf, groups))
    if "nudged" in conditions:
        moved = conditions["nudged"]
        lost = np.array([rows[item]["score"] - row["score"] for item, row in moved.items() if item in rows])
        low, high = interval(lost, [row["group"] or item for item, row in moved.items() if item in rows])
        out["nudged"] = {"points": float(lost.mean()), "low": low, "high": high, "n": len(lost)}
    strata: dict[str, dict[str, list[float]]] = {}
    for row in rows.values():
        for name, value in row["strata"].items():
            strata.setdefault(name, {}).setdefault(value, []).append(row["score"])
    out["strata"] = {
        name: {value: {"accuracy": float(np.mean(s)), "n": len(s)} for value, s in sorted(values.items())}
        for name, values in strata.items()
    }
    return out


def _groups(rows: Sequence[dict[str, Any]]) -> list[str]:
    return [row["group"] or row["item"] for row in rows]


def _extras(rows: list[dict[str, Any]], overall: Overall | None) -> dict[str, Any]:
    """`extras`, `intervals` and `left_out` of `summarise`."""
    figures: dict[str, list[float | None]] = {}
    for name in dict.fromkeys(name for row in rows for name in row["extras"]):
        figures[name] = [row["extras"].get(name) for row in rows]
    whole: dict[str, float] = {}
    left_out: dict[str, str] = {}
    for name, figure in (overall(rows) if overall else {}).items():
        if isinstance(figure, str):
            left_out[name] = figure
        elif isinstance(figure, (int, float)):
            whole[name] = figure
        else:
            figures[name] = list(figure)
    told: dict[str, dict[str, Any]] = {}
    by_items: dict[tuple[int, ...], list[str]] = {}
    for name, values in figures.items():
        by_items.setdefault(tuple(i for i, value in enumerate(values) if value is not None), []).append(name)
    for places, names in by_items.items():
        columns = np.array([[figures[name][i] for name in names] for i in places], float)
        ends = intervals(columns, _groups([rows[i] for i in places]))
        for name, mean, (low, high) in zip(names, columns.mean(0), ends, strict=True):
            told[name] = {"mean": float(mean), "low": low, "high": high, "n": len(places)}
    told = {name: told[name] for name in figures}  # in the order of the scorer
    out = {
        "extras": {name: figure.pop("mean") for name, figure in told.items()} | whole,
        "intervals": told | {name: {"n": len(rows)} for name in whole},
    }
    return out | ({"left_out": left_out} if left_out else {})


def table(summary: dict[str, Any]) -> str:
    """The Markdown table with its conditions of measurement."""
    run, about, tasks = summary["run"], summary["about"], summary["tasks"]
    columns = {name: title for name, title in COLUMNS.items() if any(name in task for task in tasks.values())}
    beside = sorted({name for task in tasks.values() for name in task if name.startswith("beside ")})
    tools = any(name.startswith("tool: ") for task in tasks.values() for name in task)
    head = ["", "items", "model", "gain over the best control", *columns.values()]
    head += [name.removeprefix("beside ") for name in beside] + ["classical tool"] * tools
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for name, of_task in tasks.items():
        for row in _rows(about[name]["title"], of_task, [*columns, *beside], tools):
            lines.append("| " + " | ".join(row) + " |")
    return "\n".join([*lines, "", *_terms(run, about, tasks), ""])


def _rows(title: str, of_task: dict[str, Any], columns: Sequence[str], tools: bool) -> Iterator[list[str]]:
    model = of_task.get("model")
    items = max(condition["n"] for condition in of_task.values())
    cells = [title, str(items), f"**{cell(model)}**" if model else "–", gain_cell(model)]
    for name in columns:
        text = percent(of_task[name]["accuracy"]) if name in of_task else "–"
        if name == "majority" and "answer" in of_task.get(name, {}):
            text += f" (“{of_task[name]['answer']}”)"
        cells.append(text)
    named = {name.removeprefix("tool: "): value for name, value in of_task.items() if name.startswith("tool: ")}
    yield cells + ["; ".join(f"{cell(value)} {name}" for name, value in named.items())] * tools
    if model is None:
        return
    for extra in model["extras"]:
        cells = [f"– {extra}", str(model["intervals"][extra]["n"]), extra_cell(model, extra), ""]
        cells += [
            percent(of_task[name]["extras"][extra]) if extra in of_task.get(name, {}).get("extras", {}) else "–"
            for name in columns
        ]
        said = [percent(value["extras"][extra]) for value in named.values() if extra in value["extras"]]
        yield cells + ["; ".join(said)] * tools


def _terms(run: dict[str, Any], about: dict[str, Any], tasks: dict[str, Any]) -> list[str]:
    models = {name: task["model"] for name, task in tasks.items() if "model" in task}
    unparsed = ", ".join(f"{name} {model['unparsed']}" for name, model in models.items())
    failed, unweighed = (
        {name: model[lack] for name, model in models.items() if lack in model} for lack in ("failed", "unweighed")
    )
    left_out = {(extra, why) for model in models.values() for extra, why in model.get("left_out", {}).items()}
    guessed = [name for name, a in about.items() if a["guessed_on_items"]]
    questions = "; ".join(f"{name}: “{a['question']}”" for name, a in about.items() if a["question"])
    seen = {name: a["works_in_train"] for name, a in about.items() if a["works_in_train"]}
    lines = [
        f"Score in %, with 95 % bootstrap intervals over works ({RESAMPLES} resamples, seed {SEED}), on the "
        f"{run['split']} split. The gain is over the best control of each task, found anew in every resample. An "
        f"answer that cannot be read is wrong; the model's unread answers: {unparsed or 'none asked'}. Majority is the "
        "constant answer that is right on most of TRAIN, chance a uniform guess among the answers that occur there"
        + (f" (of {', '.join(guessed)}, which have no TRAIN, on most of these very items and there)" if guessed else "")
        + ", or among the options shown; the best position is that of these items. A figure without an interval is one "
        "of all answers as a whole. "
        f"Fitted tools learned from up to {run['fit_clips']} TRAIN clips."
        + (f" Questions: {questions}." if questions else ""),
    ]
    if failed:
        words = ", ".join(f"{name} {count}" for name, count in failed.items())
        lines += ["", f"**Requests that failed and count as wrong: {words}.**"]
    if unweighed:
        words = ", ".join(f"{name} {count}" for name, count in unweighed.items())
        lines += ["", f"**Options that could not be weighed, where the likeliest counts as wrong: {words}.**"]
    lines += [f"\nLeft out: {extra} ({why})." for extra, why in sorted(left_out)]
    lines += [f"\n**{warning}**" for warning in warnings(tasks)]
    if seen:
        words = ", ".join(f"{name} {count}" for name, count in seen.items())
        lines += ["", f"**Works of these items that stand in TRAIN too: {words}.**"]
    versions = sorted({a["version"] for a in about.values()})
    return [
        *lines, "", f"Command: `{run['command']}`  ", f"Data manifest sha256: `{run['data_sha256']}`  ",
        *(f"sha256 of the files of {name}: `{digest}`  " for name, digest in run["benchmarks_sha256"].items()),
        f"Model sha256: `{run['model_sha256']}`  ",
        *["With `--fast`: an answer may depend on what else was asked with it.  "] * (run.get("rounding") == "fast"),
        f"Versions of tasks: {', '.join(versions)}",
    ]  # fmt: skip


def warnings(tasks: dict[str, Any]) -> list[str]:
    """What a reader must know before the figures: scores that a deaf model reaches, and such as are remembered."""
    out = []
    deaf = [
        f"{name} ({model['gain']['against']})"
        for name, task in tasks.items()
        if (model := task.get("model")) and "gain" in model and model["gain"]["low"] <= 0
    ]
    if deaf:
        out.append(f"No better than what hears or reads nothing: {', '.join(deaf)}.")
    remembered = [
        name for name, task in tasks.items() if task.get("model", {}).get("nudged", {}).get("low", 0) > FORGETS
    ]
    if remembered:
        out.append(
            f"Falls when the sound moves by 30 ms, so it knows files rather than music: {', '.join(remembered)}."
        )
    return out


def percent(value: float) -> str:
    """One decimal."""
    return f"{100 * value:.1f}"


def cell(condition: dict[str, Any]) -> str:
    """Score and interval."""
    return f"{percent(condition['accuracy'])} [{percent(condition['low'])}–{percent(condition['high'])}]"


def extra_cell(condition: dict[str, Any], name: str) -> str:
    """A further figure and its interval, where it has one."""
    found = condition["intervals"][name]
    ends = f" [{percent(found['low'])}–{percent(found['high'])}]" if "low" in found else ""
    return percent(condition["extras"][name]) + ends


def gain_cell(model: dict[str, Any] | None) -> str:
    """Gain, interval and what it is over."""
    if not model or "gain" not in model:
        return "–"
    found = model["gain"]
    against = COLUMNS.get(found["against"], found["against"])
    return f"{100 * found['points']:+.1f} [{percent(found['low'])}–{percent(found['high'])}] {against}"
