"""Verdicts -> accuracies with bootstrap intervals -> summary.json and table.md."""

from __future__ import annotations

from typing import Any

import numpy as np

RESAMPLES = 2000
SEED = 0
COLUMNS = {"silence": "silence", "text": "text only", "swapped": "another clip", "majority": "majority",
           "chance": "chance"}  # fmt: skip


def interval(scores: np.ndarray) -> tuple[float, float]:
    """95 % percentile interval of the mean of `scores` [clips], by bootstrap over clips (seed fixed)."""
    if not len(scores):
        return (float("nan"), float("nan"))
    picks = np.random.default_rng(SEED).integers(len(scores), size=(RESAMPLES, len(scores)))
    low, high = np.percentile(scores[picks].mean(1), [2.5, 97.5])
    return float(low), float(high)


def summarise(records: list[dict[str, Any]]) -> dict[str, Any]:
    """{condition: {accuracy, low, high, n, unparsed, extras}} of one task's records, and the margin over silence."""
    conditions: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        conditions.setdefault(record["condition"], []).append(record)
    out: dict[str, Any] = {}
    for name, rows in conditions.items():
        scores = np.array([row["score"] for row in rows], float)
        low, high = interval(scores)
        out[name] = {"accuracy": float(scores.mean()), "low": low, "high": high, "n": len(rows)}
        if name != "chance":
            out[name]["unparsed"] = sum(row["parsed"] is None for row in rows)
            out[name]["extras"] = {
                extra: float(np.mean([row["extras"][extra] for row in rows])) for extra in rows[0]["extras"]
            }
        if name in ("majority", "text"):
            out[name]["answer"] = rows[0]["answer"]
    if "model" in conditions and "silence" in conditions:
        silent = {row["clip"]: row["score"] for row in conditions["silence"]}
        gain = np.array([row["score"] - silent[row["clip"]] for row in conditions["model"] if row["clip"] in silent])
        low, high = interval(gain)
        out["model"]["over_silence"] = {"points": float(gain.mean()) if len(gain) else None, "low": low, "high": high}
    return out


def table(run: dict[str, Any], tasks: dict[str, dict[str, Any]], titles: dict[str, str]) -> str:
    """The Markdown table with its conditions of measurement; `tasks` as `summarise` makes them."""
    head = ["", "clips", "model", *COLUMNS.values(), "classical tool"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for name, conditions in tasks.items():
        cells = [titles[name], str(conditions["model"]["n"]), f"**{_cell(conditions['model'])}**"]
        for condition in COLUMNS:
            cell = _percent(conditions[condition]["accuracy"]) if condition in conditions else "–"
            if condition == "majority":
                cell += f" (“{conditions[condition]['answer']}”)"
            cells.append(cell)
        tools = [f"{_cell(v)} {k.removeprefix('tool: ')}" for k, v in conditions.items() if k.startswith("tool: ")]
        lines.append("| " + " | ".join([*cells, "; ".join(tools)]) + " |")
        for extra in conditions["model"]["extras"]:
            cells = [f"– {extra}", "", _percent(conditions["model"]["extras"][extra])]
            cells += [
                _percent(conditions[c]["extras"][extra]) if extra in conditions.get(c, {}).get("extras", {}) else "–"
                for c in COLUMNS
            ]
            tools = [_percent(v["extras"][extra]) for k, v in conditions.items() if k.startswith("tool: ")]
            lines.append("| " + " | ".join([*cells, "; ".join(tools)]) + " |")
    unparsed = ", ".join(f"{name} {c['model']['unparsed']}" for name, c in tasks.items())
    questions = "; ".join(f"{name}: “{q}”" for name, q in run["questions"].items() if name in tasks)
    lines += [
        "",
        f"Accuracy in %, with 95 % bootstrap intervals over clips ({RESAMPLES} resamples, seed {SEED}), on the "
        f"{run['split']} split. An answer that cannot be read is wrong; the model's unread answers: {unparsed}. "
        "Majority is the constant answer that is right on most TRAIN clips, chance a uniform guess among the answers "
        "that occur in TRAIN. "
        f"Fitted tools learned from up to {run['fit_clips']} TRAIN clips. Questions: {questions}.",
        "",
        f"Command: `{run['command']}`  ",
        f"Data manifest sha256: `{run['data_sha256']}`  ",
        f"Model sha256: `{run['model_sha256']}`",
    ]
    return "\n".join(lines) + "\n"


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _cell(condition: dict[str, Any]) -> str:
    return f"{_percent(condition['accuracy'])} [{_percent(condition['low'])}–{_percent(condition['high'])}]"
