"""What `mllm.eval.in_context` measured, as a Markdown table and as one figure a model."""

from __future__ import annotations

import io
from typing import Any

COLOURS = {"ordinary": "#2f6db3", "made-up": "#c2571a", "changing": "#3a8a52"}
_RATES = {"copied": "a shown label, wrongly", "last": "the last label shown", "reordered": "changed by order"}


def markdown(summary: dict[str, Any]) -> str:
    """The table of all points, what the most examples are worth, what a prompt costs, and the terms."""
    run = summary["run"]
    head = (
        "labels", "examples", "queries", "right", "all clips silent", "shuffled labels", "commonest label",
        "a shown label, wrongly", "says the last label", "says the commonest", "changed by order", "unread",
    )  # fmt: skip
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for kind, points in summary["curves"].items():
        for point in points:
            constant = point.get("commonest_constant")
            cells = [
                kind, str(point["shots"]), str(point["n"]), f"**{cell(point['accuracy'])}**",
                cell(point.get("silence")), cell(point.get("shuffled")),
                "–" if constant is None else f"{100 * constant:.1f}",
                *(cell(point.get(name)) for name in ("copied", "last", "commonest", "reordered")),
                str(point["unread"]) + (f" ({point['failed']} failed)" if point["failed"] else ""),
            ]  # fmt: skip
            lines.append("| " + " | ".join(cells) + " |")
    lines += ["", f"What {run['shots'][-1]} examples are worth, in points, paired over queries:", ""]
    for kind, gains in summary["gains"].items():
        told = [
            f"over {name} {100 * g['difference']:+.1f} [{100 * g['low']:.1f} to {100 * g['high']:.1f}], "
            f"p = {g['p']:.2g}"
            for name, g in gains.items()
        ]
        lines.append(f"- {kind} labels: " + "; ".join(told))
    lines += ["", "| examples | tokens of prompt | seconds a question, one at a time |", "|---|---|---|"]
    for cost in summary["cost"]:
        tokens = "–" if cost["tokens"] is None else f"{cost['tokens']:.0f}"
        failed = f" ({cost['of'] - cost['answered']} of {cost['of']} failed)" if cost["answered"] < cost["of"] else ""
        lines.append(f"| {cost['shots']} | {tokens} | {cost['seconds']:.2f}{failed} |")
    return "\n".join([*lines, "", *_terms(run), ""])


def cell(share: dict[str, float] | None) -> str:
    """ "62.5 [47.5–77.5]" in %."""
    return "–" if share is None else f"{100 * share['mean']:.1f} [{100 * share['low']:.1f}–{100 * share['high']:.1f}]"


def _terms(run: dict[str, Any]) -> list[str]:
    return [
        f"In %, with 95 % bootstrap intervals over works; chance is {100 / run['classes']:.1f}. The same "
        f"{run['queries']} queries and examples for all rows. Shuffled: the examples' labels tell nothing. “Says the "
        f"last label” of a model that does not copy is {100 / run['classes']:.1f} too, for the query's class is drawn "
        "apart from the examples. “Says the commonest” is over prompts with one commonest label. “Changed by order”: "
        "the same examples backwards. An unread answer is wrong. Seconds are medians of few questions, every clip "
        "heard anew.",
        "",
        f"Command: `{run['command']}`  ",
        f"Model sha256: `{run['model_sha256']}`",
    ]


def figure(summary: dict[str, Any]) -> bytes:
    """The curves as an SVG: a panel a kind of labels, and one for what is copied or changes with the order."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    run, curves = summary["run"], summary["curves"]
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "in context", "font.size": 9}):
        page = Figure(figsize=(3.3 * (len(curves) + 1), 3.4), layout="constrained")
        panels = page.subplots(1, len(curves) + 1, sharey=True)
        places = {k: i for i, k in enumerate(run["shots"])}
        for axes, (kind, points) in zip(panels, curves.items(), strict=False):
            colour = COLOURS[kind]
            at = [places[p["shots"]] for p in points]
            axes.fill_between(at, *([100 * p["accuracy"][end] for p in points] for end in ("low", "high")),
                              color=colour, alpha=0.2, linewidth=0)  # fmt: skip
            axes.plot(at, [100 * p["accuracy"]["mean"] for p in points], "o-", color=colour, label="model")
            for name, style, title in (("shuffled", "s--", "shuffled labels"), ("silence", "x:", "all clips silent")):
                with_it = [p for p in points if name in p]
                axes.plot([places[p["shots"]] for p in with_it], [100 * p[name]["mean"] for p in with_it], style,
                          color="#777777", label=title, markersize=4)  # fmt: skip
            axes.axhline(100 / run["classes"], color="#bbbbbb", linewidth=0.8, label="chance")
            axes.set_title(f"{kind} labels")
        panels[0].legend(fontsize=7, loc="lower right")
        panels[0].set_ylabel("%")
        for kind, points in curves.items():
            for name, style in zip(_RATES, ("o-", "x:", "s--"), strict=True):
                with_it = [p for p in points if name in p]
                if with_it:
                    panels[-1].plot(
                        [places[p["shots"]] for p in with_it], [100 * p[name]["mean"] for p in with_it], style,
                        color=COLOURS[kind], label=f"{kind}: {_RATES[name]}", markersize=4,
                    )  # fmt: skip
        panels[-1].set_title("copied, changed")
        panels[-1].legend(fontsize=6)
        for axes in panels:
            axes.set_xticks(range(len(places)), [str(k) for k in places])
            axes.set_xlabel("examples in the prompt")
            axes.set_ylim(-2, 102)
            for side in ("top", "right"):
                axes.spines[side].set_visible(False)
        page.suptitle(f"{run['model']}: {run['queries']} queries".replace("$", r"\$"), fontsize=10)
        out = io.BytesIO()
        page.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return out.getvalue()
