"""The data card of a build: README.md with the header of a Hugging Face dataset card, and plots.

What it states follows T. Gebru et al., "Datasheets for datasets" (2021), and huggingface.co/docs/hub/datasets-cards.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from mllm.data_recipes.card_counts import COUNTED, ORDER, Tally, plot, tally
from mllm.data_recipes.config import HERE, SPLITS, Recipe, load_mixture, load_recipe
from mllm.data_recipes.licences import LICENCES, DataError, family, normalise
from mllm.data_recipes.store import Store

PLOTS = "card"
"""Folder of the plots inside the build."""


def write_card(folder: str | Path) -> str:
    """Write README.md and the plots `card/*.svg` into a build; the same build gives the same bytes.

    Args:
        folder: that `mllm data build` made, or its fsspec address.

    Returns:
        The path or address of README.md.

    Raises:
        DataError: there is no build, or it cannot be written to.
    """
    store = Store.at(folder)
    found = tally(store)
    try:
        manifest = json.loads(store.read("manifest.json"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{store.where('manifest.json')} cannot be read ({str(error).splitlines()[0]}): run `mllm data build` again"
        ) from error
    if not isinstance(manifest, dict):
        raise DataError(f"{store.where('manifest.json')} is not an object: run `mllm data build` again")
    try:
        shown = [name for name in COUNTED if any(found.counts[name].values())]
        for name in shown:
            store.write(f"{PLOTS}/{name}.svg", plot(name, found.counts[name]).encode())
        store.write("README.md", _card(found, manifest, shown).encode())
    except OSError as error:
        raise DataError(f"writing to {folder} failed: {error.strerror or error}") from error
    return store.where("README.md")


def _card(found: Tally, manifest: Mapping[str, Any], shown: list[str]) -> str:
    header = yaml.safe_dump(_header(found, manifest), sort_keys=False, allow_unicode=True)
    name = _plain(manifest.get("name") or "data")
    parts = [
        f"---\n{header}---\n",
        f"# {name}\n",
        "Instruction data for music language models: recordings and scores with questions and answers, made with "
        "`mllm data build`. Answers that we made say what the column `facts` says; conversations that a source brings "
        "ready made stay as they are there.\n"
        if manifest.get("config")
        else "Instruction data for music language models.\n",
        "**This build is empty: it has no rows.** What was left out stands below.\n" if not found.rows else "",
        "## Size\n",
        _sizes(found),
        "## Columns\n",
        "`messages` (conversation, JSON; audio parts name files of this folder), `facts` (what is true, JSON), `task`, "
        "`source`, `licence`, `split`, `length` (seconds of audio), `provenance` (id in the source, work, address, "
        "sha256; JSON; not in builds from before 0.2).\n",
        "## Sources\n",
        _sources(found, manifest),
        _soundfonts(manifest),
        "## What is in it\n",
        *(f"![{COUNTED[plot_name][0]}]({PLOTS}/{plot_name}.svg)\n" for plot_name in shown),
        "## What was left out\n",
        _left_out(found, manifest),
        "## Build it again\n",
        _rebuild(manifest),
        "## Known limits\n",
        _limits(found, manifest),
    ]
    return "\n".join(part for part in parts if part)


def _header(found: Tally, manifest: Mapping[str, Any]) -> dict[str, Any]:
    rows = sum(found.rows.values())
    names = sorted({name for split in found.counts["licences"].values() for name in split})
    licence = _hub_licence(names[0]) if len(names) == 1 else "other"
    header: dict[str, Any] = {
        "pretty_name": _plain(manifest.get("name") or "data"),
        **({"license": licence} if names else {}),
        "language": ["en"],
        "size_categories": [_size_category(rows)],
        "task_categories": ["audio-text-to-text", "question-answering"],
        "tags": ["music", "audio", "instruction-tuning"],
    }
    if files := [{"split": s, "path": f"rows/{s}-*.parquet"} for s in ORDER if found.rows[s]]:
        header["configs"] = [{"config_name": "default", "data_files": files}]
    if names and licence == "other":
        header |= {
            "license_name": "several" if len(names) > 1 else _plain(names[0]),
            "license_details": ", ".join(_plain(n) for n in names),
        }
    return header


_HUB = {"cc0": "cc0-1.0", "apache": "apache-2.0", "public-domain": "other"}
"""What the hub calls our families where it says otherwise; all others are named as we name them, with their version."""


def _hub_licence(name: str) -> str:
    try:
        canonical = normalise(name)
        return _HUB.get(family(canonical), canonical)
    except DataError:
        return "other"


def _known(licence: str) -> bool:
    try:
        return bool(normalise(licence))
    except DataError:
        return False


def _size_category(rows: int) -> str:
    for limit, text in ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M")):
        if rows < limit:
            return text
    return "1M<n<10M" if rows < 10_000_000 else "10M<n<100M"


def _plain(text: object) -> str:
    """Text that cannot break a table or begin a link or tag of the card."""
    flat = " ".join(str(text).split())
    return flat.replace("\\", "").replace("|", "\\|").replace("<", "&lt;").replace("[", "\\[").replace("]", "\\]")


def _table(head: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    lines += ["| " + " | ".join(_plain(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _sizes(found: Tally) -> str:
    rows = [
        (s, f"{found.rows[s]:,}", f"{found.recordings[s]:,}", f"{found.seconds[s] / 3600:.2f}",
         f"{found.things[s] - found.recordings[s]:,}")
        for s in ORDER if found.rows[s]
    ]  # fmt: skip
    return _table(("split", "rows", "recordings", "hours", "scores and texts"), rows)


def _sources(found: Tally, manifest: Mapping[str, Any]) -> str:
    total: Counter[str] = Counter()
    for counter in found.counts["sources"].values():
        total.update(counter)
    stated = manifest.get("licences") or manifest.get("sources")
    stated = stated if isinstance(stated, dict) else {}
    rows: list[tuple[Any, ...]] = []
    credits = []
    for name, count in total.most_common():
        entry = stated.get(name) if isinstance(stated.get(name), dict) else {}
        recipe = _recipe(name)
        title = entry.get("title") or (recipe.title if recipe else "")
        terms = entry.get("terms") or (recipe.terms if recipe else "")
        citation = entry.get("citation") or (recipe.citation if recipe else "")
        address = entry.get("url") or (recipe.url if recipe else "")
        licences = ", ".join(sorted(found.licences_of[name])) or entry.get("licence", "")
        rows.append((name, title, licences, terms, f"{count:,}"))
        credit = [_plain(part) for part in (title, address, citation and f"cite: {citation}") if part]
        if _needs_credit(found.licences_of[name]):
            credit.append("credit the author of every item that you use (`provenance.url`)")
        if credit:
            credits.append(f"- **{_plain(name)}**: {'; '.join(credit)}")
    table = _table(("source", "title", "licences", "terms", "rows"), rows)
    return table + ("\n### Credit\n\n" + "\n".join(credits) + "\n" if credits else "")


def _recipe(name: str) -> Recipe | None:
    """Today's recipe of a source, for what an old manifest does not say."""
    try:
        return load_recipe(name)
    except DataError:
        return None


def _needs_credit(licences: set[str]) -> bool:
    for licence in licences:
        try:
            if family(normalise(licence)).startswith("cc-by"):
                return True
        except DataError:
            continue
    return False


def _soundfonts(manifest: Mapping[str, Any]) -> str:
    fonts = manifest.get("soundfonts")
    if not isinstance(fonts, dict) or not fonts:
        return ""
    rows = [(n, f.get("licence", ""), str(f.get("sha256", ""))[:16]) for n, f in fonts.items() if isinstance(f, dict)]
    return "## Soundfonts\n\nRecordings that we rendered sound through these.\n\n" + _table(
        ("soundfont", "licence", "sha256 begins"), rows
    )


def _left_out(found: Tally, manifest: Mapping[str, Any]) -> str:
    rows: list[tuple[Any, ...]] = []
    for key in sorted(k for k in manifest if k.startswith(("left_out", "skipped"))):
        rows += [(place or key, why, n) for place, why, n in _reasons(manifest[key], "")]
    rows += [("card", f"shard cannot be read: {why}", "") for why in found.broken]
    return _table(("where", "why", "how many"), rows) if rows else "Nothing.\n"


def _reasons(node: Any, place: str) -> list[tuple[str, str, Any]]:
    """(where, why, count) of nested counts, the most frequent first."""
    if not isinstance(node, dict):
        return [(place, str(node), "")]
    out: list[tuple[str, str, Any]] = []
    for key, value in node.items():
        if isinstance(value, int | float):
            out.append((place, str(key), f"{value:,}"))
        else:
            out += _reasons(value, f"{place} / {key}" if place else str(key))
    return sorted(out, key=lambda r: (r[0], -int(str(r[2]).replace(",", "").split(".")[0] or 0), r[1]))


def _rebuild(manifest: Mapping[str, Any]) -> str:
    config = manifest.get("config")
    if not config or not isinstance(config, dict):
        return "`manifest.json` does not say how this was built.\n"
    name = str(manifest.get("name") or "")
    revision = manifest.get("git_revision")
    lines = [f"git checkout {_plain(revision)}"] if revision else []
    if _ships(name, config):
        lines += [f"mllm data build {name}", f"mllm data check runs/data/{name}"]
        first = ""
    else:
        lines += [_WRITE_MIXTURE, "mllm data build mixture.yaml --output rebuilt", "mllm data check rebuilt"]
        first = (
            "The mixture is not one that ships, so its YAML is written from `manifest.json` first. Run this in the "
            "folder of this card; recipes that it names by a path have to be seen from there.\n\n"
        )
    commands = "\n".join(lines)
    return (
        f"{first}```sh\n{commands}\n```\n\n"
        f"Seed {_plain(config.get('seed', 'unknown'))}; "
        f"plan `{_plain(str(manifest.get('plan', 'unknown'))[:16])}`. "
        "The same mixture, sources, soundfonts, revision and `--limit` give the same bytes. "
        "`manifest.json` has the whole configuration and the hash of every shard.\n"
    )


_WRITE_MIXTURE = (
    "python -c \"import json; json.dump(json.load(open('manifest.json'))['config'], open('mixture.yaml', 'w'))\""
)
"""JSON is YAML."""


def _ships(name: str, config: Mapping[str, Any]) -> bool:
    """Whether a mixture comes with this package, under this name and with these settings."""
    path = HERE / "mixtures" / f"{name}.yaml"
    if not name or "/" in name or not path.is_file():
        return False
    return load_mixture(path).model_dump(exclude={"scores_dir", "sets_dir"}) == config


def _limits(found: Tally, manifest: Mapping[str, Any]) -> str:
    limits = ["Questions and answers are in English and follow a limited number of wordings."]
    if manifest.get("soundfonts"):
        limits.append("Rendered recordings come from soundfonts: they lack the playing, rooms and voices of real ones.")
    total = sum(sum(c.values()) for c in found.counts["sources"].values())
    top = Counter[str]()
    for counter in found.counts["sources"].values():
        top.update(counter)
    if total:
        name, count = top.most_common(1)[0]
        limits.append(f"{100 * count / total:.0f} % of the rows come from one source ({_plain(name)}).")
    unclear = sorted({n for c in found.counts["licences"].values() for n in c if not _known(n)})
    if unclear:
        limits.append(f"Licences in words of their own, to be read before use: {_plain('; '.join(unclear))}.")
    if not manifest.get("complete", True):
        limits.append("The build is not complete.")
    missing = [s for s in SPLITS if not found.rows[s]]
    if missing:
        limits.append(f"There is no {' and no '.join(missing)} split.")
    limits += [f"Licences of the family {f}: {LICENCES[f].title}." for f in _restricted(found)]
    return "\n".join(f"- {limit}" for limit in limits) + "\n"


def _restricted(found: Tally) -> list[str]:
    """Families in the data under which trained weights may not be sold or data not be changed."""
    out = set()
    for name in {n for c in found.counts["licences"].values() for n in c}:
        try:
            of = family(normalise(name))
        except DataError:
            continue
        if not (LICENCES[of].commercial and LICENCES[of].derivatives):
            out.add(of)
    return sorted(out)
