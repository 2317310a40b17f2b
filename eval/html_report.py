"""report.html: one file that fetches nothing, with plots, and the clips to be heard where they lie."""

from __future__ import annotations

import html
import io
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from mllm.eval.controls import CONDITIONS
from mllm.eval.report import COLUMNS, FORGETS, cell, extra_cell, gain_cell, percent, table, warnings
from mllm.whole_files import write_whole

MOST_SHOWN = 200
"""Items a task that the page lists; results.jsonl has all."""
INK = "#010203"  # stands for the colour of the text around a plot, which is not known when it is drawn
_MODEL, _CONTROL, _TOOL = "#4c8bf5", "#8f8f8f", "#e8710a"
_LONGEST = 60  # characters of a label


def write_report(
    file: Path, summary: dict[str, Any], records: Sequence[dict[str, Any]], data: Path, extra: str = ""
) -> None:
    """Write the page of a run.

    Args:
        file: where; links to clips are relative to its folder.
        summary: what summary.json holds.
        records: what results.jsonl holds.
        data: folder that the records' audio paths are relative to.
        extra: HTML that is put behind the tasks, such as further plots.
    """
    from jinja2 import Environment, PackageLoader

    page = Environment(loader=PackageLoader("mllm.eval", "."), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    page.filters |= {"percent": percent}
    tasks = [_task(name, of_task, summary, records, data, file.parent) for name, of_task in summary["tasks"].items()]
    text = page.get_template("report.html.j2").render(
        run=summary["run"], tasks=tasks, warnings=warnings(summary["tasks"]), table=table(summary), extra=extra,
        overview=_bars("gain over the best control", _gains(summary["tasks"])),
    )  # fmt: skip
    write_whole(file, text)


def _task(
    name: str, of_task: dict[str, Any], summary: dict[str, Any], records: Sequence[dict[str, Any]], data: Path,
    folder: Path,
) -> dict[str, Any]:  # fmt: skip
    """What the template needs of one task."""
    model = of_task.get("model", {})
    rows = [(_title(n), cell(value), value["n"], value.get("unparsed", "–"), value.get("failed", 0))
            for n, value in of_task.items()]  # fmt: skip
    items = _items([record for record in records if record["task"] == name], data, folder)
    nudged = model.get("nudged")
    return {
        "name": name, **summary["about"][name], "rows": rows, "gain": gain_cell(model), "model": model,
        "extras": [(n, extra_cell(model, n), model["intervals"][n]["n"]) for n in model.get("extras", ())],
        "strata": model.get("strata", {}), "plot": _bars("score", _scores(of_task)), "nudged": nudged,
        "remembered": bool(nudged and nudged["low"] > FORGETS), "count": len(items),
        "items": json.dumps(items[:MOST_SHOWN], ensure_ascii=False).replace("<", "\\u003c"),
    }  # fmt: skip


def _items(records: Sequence[dict[str, Any]], data: Path, folder: Path) -> list[dict[str, Any]]:
    """One entry an item: what was asked, what is true, and what was answered under each condition."""
    out: dict[str, dict[str, Any]] = {}
    for record in records:
        entry = out.setdefault(record["item"], {
            "id": record["item"], "question": record["question"], "options": record["options"],
            "truth": str(record["truth"]), "group": record["group"],
            "audio": [_link(data / path, folder) for path in record["audio"]], "answers": {},
        })  # fmt: skip
        if record["condition"] != "chance":
            unread = record["parsed"] is None
            entry["answers"][record["condition"]] = [record["answer"] or "", round(record["score"], 3), unread]
    return list(out.values())


def _link(path: Path, folder: Path) -> str:
    return quote(os.path.relpath(path.absolute(), folder.absolute()))


def _title(condition: str) -> str:
    return CONDITIONS[condition].title if condition in CONDITIONS else COLUMNS.get(condition, condition)


Bars = list[tuple[str, float, float, float, str]]
"""Label, value, low, high, colour of each."""


def _scores(of_task: dict[str, Any]) -> Bars:
    colour = {"model": _MODEL}
    return [
        (_title(n), v["accuracy"], v["low"], v["high"], colour.get(n, _TOOL if ":" in n else _CONTROL))
        for n, v in of_task.items()
    ]


def _gains(tasks: dict[str, Any]) -> Bars:
    return [
        (name, g["points"], g["low"], g["high"], _MODEL)
        for name, task in tasks.items()
        if (g := task.get("model", {}).get("gain"))
    ]


def _bars(what: str, bars: Bars) -> str:
    """Horizontal bars with intervals as inline SVG; "" where there are none."""
    if not bars:
        return ""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"svg.fonttype": "none", "svg.hashsalt": what, "text.color": INK, "axes.edgecolor": INK,
                     "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK}):  # fmt: skip
        figure = Figure(figsize=(8, 0.7 + 0.28 * len(bars)), layout="constrained")
        axes = figure.add_subplot()
        places = range(len(bars))
        values = [100 * value for _, value, _, _, _ in bars]
        spread = [[max(0.0, 100 * (v - low)) for _, v, low, _, _ in bars],
                  [max(0.0, 100 * (high - v)) for _, v, _, high, _ in bars]]  # fmt: skip
        axes.barh(places, values, xerr=spread, color=[bar[4] for bar in bars], ecolor=INK, height=0.7)
        axes.set_yticks(places, [bar[0].replace("$", r"\$")[:_LONGEST] for bar in bars])
        axes.axvline(0, color=INK, linewidth=0.8)
        axes.invert_yaxis()
        axes.set_xlabel(f"{what}, %")
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        out = io.StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None, "Format": None,
                                                                      "Type": None})  # fmt: skip
    return inline(out.getvalue().replace(INK, "currentColor"), what)


def inline(svg: str, what: str) -> str:
    """The text of an SVG file as an element of a page; `what`: what it shows, for who cannot see it."""
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{html.escape(what)}" ', 1)
