"""A page about a training run: what was trained on what, how it went, what it says now, what it cost.

    python -m mllm.train.report RUN

Writes `report.html` (one file, nothing is fetched), `report.md` and its plots `report_*.svg` into the folder RUN.
"""

from __future__ import annotations

import argparse
import html
import io
import json
import math
import re
import shlex
import sys
import warnings
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from mllm.errors import MllmError
from mllm.provenance import read_provenance
from mllm.whole_files import write_whole

METRICS, SAMPLES = "metrics.jsonl", "samples.jsonl"
Curve = tuple[list[float], list[float]]
INK = "#010203"  # stands for the colour of the text around a plot, which is not known when it is drawn
COLOURS = ("#4c8bf5", "#e8710a", "#1e9e54", "#d93a3a", "#9a6ee0", "#a8744f", "#e377c2", "#8f8f8f")
STYLE = """
:root{color-scheme:light dark}
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:0 auto;padding:1rem;overflow-wrap:break-word}
h1{font-size:1.6rem}h2{font-size:1.2rem;margin-top:2rem}
.wide{overflow-x:auto}table{border-collapse:collapse;font-size:.9rem}
th,td{text-align:left;vertical-align:top;padding:.25rem .6rem;border-bottom:1px solid #8885}td{white-space:pre-line}
figure{margin:1rem 0;overflow-x:auto}svg{width:100%;height:auto;min-width:32rem}
pre{overflow-x:auto;padding:.6rem;border:1px solid #8885}
"""


class ReportError(MllmError):
    """No report can be made: no such run, or nothing of one in it."""


def read_lines(file: Path) -> list[dict[str, Any]]:
    """JSON objects with a `step`, one a line, of a file that a callback appends to; [] if there is none.

    A last line that was cut off when the run was killed is left out.
    """
    lines = []
    for line in file.read_text(encoding="utf-8", errors="replace").split("\n") if file.is_file() else ():
        try:
            values = json.loads(line)
        except ValueError:
            continue
        if isinstance(values, dict) and isinstance(values.get("step"), int):
            lines.append(values)
    return lines


class Page:
    """The same content as Markdown and as HTML; all text is escaped here and nowhere else."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.markdown: list[str] = []
        self.html: list[str] = []

    def heading(self, text: str, level: int = 2) -> None:
        self.markdown.append(f"{'#' * level} {_plain(text)}")
        self.html.append(f"<h{level}>{html.escape(text)}</h{level}>")

    def text(self, text: str) -> None:
        self.markdown.append(_plain(text))
        self.html.append(f"<p>{html.escape(text)}</p>")

    def code(self, text: str) -> None:
        self.markdown.append("\n".join(f"    {line}" for line in text.splitlines()))
        self.html.append(f"<pre>{html.escape(text)}</pre>")

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        cells = [[show(cell) for cell in row] for row in rows]
        lines = [columns, ["---"] * len(columns), *([_plain(cell) for cell in row] for row in cells)]
        self.markdown.append("\n".join(f"| {' | '.join(line)} |" for line in lines))
        head = "".join(f"<th>{html.escape(name)}</th>" for name in columns)
        body = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in cells)
        self.html.append(f'<div class="wide"><table><tr>{head}</tr>{body}</table></div>')

    def plot(self, name: str, what: str, curves: dict[str, Curve]) -> None:
        if not any(math.isfinite(value) for _, values in curves.values() for value in values):
            self.text(f"No values of {what} were logged.")
            return
        svg = draw(name, what, curves)
        write_whole(self.folder / f"report_{name}.svg", svg.replace(INK, "#808080"))
        self.markdown.append(f"![{_plain(what)}](report_{name}.svg)")
        inline = svg[svg.index("<svg") :].replace(INK, "currentColor")
        self.html.append(f'<figure role="img" aria-label="{html.escape(what)}">{inline}</figure>')

    def write(self, title: str) -> Path:
        write_whole(self.folder / "report.md", "\n\n".join(self.markdown) + "\n")
        head = (
            '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
            f"<title>{html.escape(title)}</title><style>{STYLE}</style></head><body>"
        )
        write_whole(self.folder / "report.html", "\n".join([head, *self.html, "</body></html>\n"]))
        return self.folder / "report.html"


def _plain(text: str) -> str:
    """Text that Markdown shows as it is, in a table too."""
    text = re.sub(r"([\\`*_\[\]#|~$])", r"\\\1", text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"\s*\n\s*", "<br>", text.strip())


def show(value: Any, kind: str = "") -> str:
    """A value as a reader wants it; `kind` is "time" (s), "share", "count" (thousands set apart) or nothing special."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if value is None or (number and not math.isfinite(value)):
        return "–"
    if not number:
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if kind == "time":
        return str(timedelta(seconds=round(value))) if value >= 60 else f"{value:.3g} s"
    if kind == "share":
        return f"{value:.1%}"
    if kind == "count" and (isinstance(value, int) or 1e3 <= abs(value) < 1e6):
        return f"{value:,.0f}"
    return str(value) if isinstance(value, int) else f"{value:.4g}"


def draw(name: str, what: str, curves: dict[str, Curve]) -> str:
    """An SVG of curves over steps: the same bytes for the same values, ids that begin with `name`."""
    import matplotlib
    from matplotlib.figure import Figure

    settings: Any = {"svg.hashsalt": "mllm", "svg.fonttype": "none", "text.parse_math": False, "text.color": INK}
    settings |= {f"{part}.color": INK for part in ("xtick", "ytick")} | {"axes.labelcolor": INK, "axes.edgecolor": INK}
    rows = -(-len(curves) // 3) if len(curves) > 1 else 0
    out = io.StringIO()
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a task's name may have letters that matplotlib's font has not
        figure = Figure(figsize=(7.5, 3.2 + 0.25 * rows), layout="constrained")
        axes = figure.add_subplot()
        for index, (steps, values) in enumerate(curves.values()):
            style: Any = {
                "color": COLOURS[index % len(COLOURS)],
                "linestyle": ("-", "--", ":", "-.")[index // len(COLOURS) % 4],
            }
            axes.plot(steps, values, marker="o" if len(values) < 30 else "", markersize=3, **style)
        axes.set(xlabel="step", ylabel=what)
        axes.grid(alpha=0.25)
        if rows:
            labels = [label.lstrip("_") or label for label in curves]  # matplotlib hides labels that begin so
            figure.legend(axes.lines, labels, loc="outside lower center", ncols=3, frameon=False)
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None, "Format": None})
    svg = re.sub(r"<!DOCTYPE.*?>|<metadata>.*?</metadata>\s*", "", out.getvalue(), flags=re.DOTALL)
    return re.sub(r'(\bid="|href="#|url\(#)', rf"\1{name}-", svg)


def curve(lines: Sequence[dict[str, Any]], key: str) -> Curve:
    """Steps and values of `key` where it was logged; what is no number is NaN."""
    points = [(line["step"], line[key]) for line in lines if key in line]
    return [step for step, _ in points], [float(v) if isinstance(v, int | float) else math.nan for _, v in points]


def ends(values: Sequence[float]) -> tuple[float | None, float | None]:
    """First and last finite value."""
    finite = [value for value in values if math.isfinite(value)]
    return (finite[0], finite[-1]) if finite else (None, None)


def flatten(values: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """Leaves of nested settings, with dotted names."""
    if not isinstance(values, dict) or not values:
        return [(prefix, values)]
    return [leaf for key, value in values.items() for leaf in flatten(value, f"{prefix}.{key}" if prefix else str(key))]


def write_report(run: Path) -> Path:
    """Write `report.html`, `report.md` and the plots beside it from what lies in a run's folder; returns the HTML.

    The newest provenance counts: of a run that has not ended, its last checkpoint's.

    Raises:
        ReportError: no such folder, or nothing of a run in it.
        WeightsError: `provenance.json` is damaged.
    """
    if not run.is_dir():
        raise ReportError(f"no folder {run}: give the output folder of `mllm train`")
    records = [*run.glob("provenance.json"), *run.glob("checkpoint-*/provenance.json")]
    folder = max(records, key=lambda file: file.stat().st_mtime, default=run / "provenance.json").parent
    provenance, metrics, samples = read_provenance(folder), read_lines(run / METRICS), read_lines(run / SAMPLES)
    if not provenance and not metrics:
        raise ReportError(f"{run} holds no training run: neither provenance.json nor {METRICS}")
    page = Page(run)
    page.heading(title := f"Training run {run.resolve().name}", 1)
    losses = {"training": curve(metrics, "loss"), "validation": curve(metrics, "eval_loss")}
    steps = provenance.get("cost", {}).get("steps") or max([line["step"] for line in metrics], default=0)
    moved = [(what, *ends(values)) for what, (_, values) in losses.items()]
    moves = [f" Loss in {what} from {show(first)} to {show(last)}." for what, first, last in moved if last is not None]
    page.text(f"{steps:,} steps.{''.join(moves)}")
    _ingredients(page, provenance)
    _course(page, metrics, losses)
    _answers(page, samples)
    page.heading("What it cost")
    cost = provenance.get("cost", {}).items()
    page.table(["", ""], [(key.replace("seconds", "time").replace("_", " "), _cost(key, value)) for key, value in cost])
    page.heading("How to use it")
    name = shlex.quote(str(folder))
    page.code(f'mllm ask --model {name} song.mp3 "What key is this in?"\nmllm chat --model {name}')
    if provenance.get("config"):
        page.heading("Settings")
        page.table(["setting", "value"], flatten(provenance["config"]))
    return page.write(title)


def _cost(key: str, value: Any) -> str:
    return show(value, "share" if "share" in key else "time" if "seconds" in key else "count")


def _ingredients(page: Page, provenance: dict[str, Any]) -> None:
    page.heading("What was trained on what")
    bases = provenance.get("bases", {})
    if bases:
        page.table(["part", "what"], flatten({key: value for key, value in bases.items() if key != "weights"}))
        columns = ["name", "uri", "licence", "sha256"]
        page.table(columns, [[weight.get(column) for column in columns] for weight in bases.get("weights", [])])
    data = provenance.get("data", [])
    for part in data if isinstance(data, list) else [data]:
        licences = part.get("licences") or {}
        page.table(["data", ""], flatten({key: value for key, value in part.items() if key != "licences"}))
        named = [(key, value if isinstance(value, dict) else {"licence": value}) for key, value in licences.items()]
        if named:
            sources = [[name, *(value.get(key) for key in ("title", "licence", "terms"))] for name, value in named]
            page.table(["source", "title", "licence", "terms"], sources)
    for key, what in (("rows", "rows"), ("goes_on_from", "goes on from")):
        if provenance.get(key):
            page.table([what, ""], flatten(provenance[key]))
    if not bases and not data:
        page.text("No provenance.json was written yet.")


def _course(page: Page, metrics: Sequence[dict[str, Any]], losses: dict[str, Curve]) -> None:
    page.heading("How it went")
    page.plot("loss", "loss (nats a token)", {name: values for name, values in losses.items() if values[0]})
    page.plot("learning_rate", "learning rate", {"learning rate": curve(metrics, "learning_rate")})
    page.plot("speed", "tokens a second", {"tokens a second": curve(metrics, "tokens_a_second")})
    for prefix, where in (("loss_task/", ""), ("eval_loss_task/", " on validation")):
        keys = sorted({key for line in metrics for key in line if key.startswith(prefix)})
        if tasks := {key.removeprefix(prefix): curve(metrics, key) for key in keys}:
            page.heading(f"Loss by task{where}", 3)
            page.plot(prefix.strip("/"), f"loss by task{where}", tasks)
            page.table(["task", "first", "last"], [[task, *ends(values)] for task, (_, values) in tasks.items()])


def _answers(page: Page, samples: Sequence[dict[str, Any]]) -> None:
    page.heading("What it answers")
    if not samples:
        page.text("No sample answers were taken.")
        return
    steps = sorted({samples[0]["step"], samples[-1]["step"]})
    asked: dict[str, dict[int, dict[str, Any]]] = {}
    for sample in samples:
        key = json.dumps([sample.get(name) for name in ("audios", "question", "truth")])
        asked.setdefault(key, {})[sample["step"]] = sample
    rows = []
    for answers in asked.values():
        row = answers[max(answers)]
        said = [answers.get(step, {}).get("answer") or answers.get(step, {}).get("error") for step in steps]
        rows.append([row.get("task"), ", ".join(row.get("audios") or []), row.get("question"), row.get("truth"), *said])
    page.table(["task", "audio", "question", "truth", *(f"answer at step {step}" for step in steps)], rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: RUN."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", metavar="RUN", type=Path, help="output folder of `mllm train`")
    try:
        print(write_report(parser.parse_args(arguments).run))
    except (MllmError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
