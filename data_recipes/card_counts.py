"""What a build holds, counted from its shards a few hundred rows at a time, and drawn."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from io import StringIO
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa

from mllm.data_recipes.manifest import Distinct
from mllm.data_recipes.shard_contents import provenance_of, rows_of, shards
from mllm.data_recipes.store import Store

_BARS = 40
"""Most bars in a plot; the title says how many more there are."""
ORDER = ("train", "validation", "test")
_REMEMBERED = 200_000
"""Values that a tally keeps apart; a longer tail is counted together."""

# Name of a plot -> its title and what its axis counts.
COUNTED: dict[str, tuple[str, str]] = {
    "tasks": ("Tasks", "rows"),
    "sources": ("Sources", "rows"),
    "licences": ("Licences", "rows"),
    "keys": ("Keys", "recordings and scores"),
    "tempi": ("Tempi (beats a minute)", "recordings and scores"),
    "metres": ("Metres", "recordings and scores"),
    "instruments": ("Instruments", "recordings and scores"),
    "genres": ("Genres and traditions", "recordings and scores"),
    "lengths": ("Lengths (seconds)", "recordings"),
}
_STEPS = {"tempi": 10, "lengths": 1}
"""Width of the classes of what is measured."""


@dataclass
class Tally:
    """What the shards hold: split -> value -> count, for each name in COUNTED."""

    counts: dict[str, dict[str, Counter[str]]] = field(
        default_factory=lambda: {name: defaultdict(Counter) for name in COUNTED}
    )
    rows: Counter[str] = field(default_factory=Counter)
    things: Counter[str] = field(default_factory=Counter)
    """Recordings, scores and texts, each once in a split; episodes are made of those of other rows and count none."""
    recordings: Counter[str] = field(default_factory=Counter)
    seconds: Counter[str] = field(default_factory=Counter)
    licences_of: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    """Source -> licences of its rows."""
    broken: list[str] = field(default_factory=list)
    """Shards that could not be read."""
    _seen: Distinct = field(default_factory=Distinct)

    def add(self, row: dict[str, Any]) -> None:
        """Count a row; what it is about is told by its sha256, or by the row's id where that is missing."""
        split = str(row["split"])
        source, licence = str(row["source"]), str(row["licence"])
        self.rows[split] += 1
        self.licences_of[source].add(licence)
        for name, value in (("tasks", row["task"]), ("sources", source), ("licences", licence)):
            self._count(name, split, str(value))
        thing = provenance_of(row).get("sha256") or str(row["id"]).removesuffix(f"-{row['task']}")
        if source == "episodes" or not self._seen.add(f"{split} {thing}"):
            return
        self.things[split] += 1
        length = float(row["length"] or 0)
        if length > 0:
            self.recordings[split] += 1
            self.seconds[split] += length  # type: ignore[assignment]
            self._count("lengths", split, _class("lengths", length))
        facts = json.loads(row["facts"])
        if not isinstance(facts, dict):
            return
        for name, values in _facts(facts).items():
            for value in values:
                self._count(name, split, value)

    def _count(self, name: str, split: str, value: str) -> None:
        counter = self.counts[name][split]
        counter[value if value in counter or len(counter) < _REMEMBERED else "other"] += 1


def _facts(facts: Mapping[str, Any]) -> dict[str, list[str]]:
    """Values to count of what is true of one recording or score."""
    out: dict[str, list[str]] = {}
    for name, fact in (("keys", "key"), ("metres", "metre")):
        if isinstance(facts.get(fact), str) and facts[fact]:
            out[name] = [facts[fact]]
    if isinstance(tempo := facts.get("tempo"), int | float) and 0 < tempo < 1000:
        out["tempi"] = [_class("tempi", tempo)]
    if isinstance(found := facts.get("instruments"), list):
        out["instruments"] = [i for i in found if isinstance(i, str) and i]
    genre = facts.get("genre") or facts.get("tradition")
    out["genres"] = [genre] if isinstance(genre, str) else []
    return out


def _class(name: str, value: float) -> str:
    step = _STEPS[name]
    return str(int(value // step * step))


def tally(store: Store) -> Tally:
    """Count everything in the shards of a build; unreadable shards and rows are named, not raised."""
    out = Tally()
    columns = ["id", "task", "facts", "source", "licence", "split", "length", "provenance"]
    for shard in shards(store):
        try:
            for row in rows_of(store, shard, columns):
                out.add(row)
        except (OSError, pa.ArrowException, ValueError, TypeError) as error:
            out.broken.append(f"{PurePosixPath(shard).name}: {str(error).splitlines()[0][:120]}")
    return out


def plot(name: str, counts: Mapping[str, Counter[str]]) -> str:
    """A bar chart as SVG: the share of each value in every split, so that small splits compare with large ones.

    Args:
        name: in COUNTED.
        counts: split -> value -> count.
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    title, unit = COUNTED[name]
    whole: Counter[str] = Counter()
    for counter in counts.values():
        whole.update(counter)
    values = [value for value, _ in sorted(whole.items(), key=lambda item: (-item[1], item[0]))][:_BARS]
    if name in _STEPS:
        values = sorted(values, key=float)
    splits = [s for s in ORDER if counts.get(s)]
    across = name in _STEPS
    figure = Figure(figsize=(8, 3.2) if across else (8, 1.2 + 0.26 * len(values)), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.subplots()
    width = 0.8 / len(splits)
    for i, split in enumerate(splits):
        total = sum(counts[split].values())
        shares = [100 * counts[split][value] / total for value in values]
        places = [k + (i - (len(splits) - 1) / 2) * width for k in range(len(values))]
        (axes.bar if across else axes.barh)(places, shares, width, label=f"{split} ({total:,})")
    ticks = [f"{v}" for v in values]
    if across:
        axes.set_xticks(range(len(values)), ticks)
        axes.set_ylabel(f"% of {unit}")
    else:
        axes.set_yticks(range(len(values)), [t if len(t) <= 48 else t[:47] + "…" for t in ticks])
        axes.set_ylim(len(values) - 0.4, -0.6)
        axes.set_xlabel(f"% of {unit}")
    left_out = len(whole) - len(values)
    axes.set_title(f"{title}, the {len(values)} most frequent of {len(whole)}" if left_out else title)
    axes.legend()
    out = StringIO()
    # Without these the file would hold today's date and random ids; "$" in a name is no formula.
    with matplotlib.rc_context({"svg.hashsalt": "mllm", "svg.fonttype": "none", "text.parse_math": False}):
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": "mllm data card"})
    return out.getvalue()
