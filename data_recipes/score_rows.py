"""Rows about scores alone: an ABC excerpt, questions, exact answers; no sound.

    python -m mllm.data_recipes.score_rows data_recipes/mixtures/mini.yaml --output DIR --rows 1500

The excerpt is written as `mllm.score` writes every score for a prompt. Tunes keep the split that the clips gave them.
The shard `rows/train-scores.parquet` stands beside those of the clips.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mllm.data_recipes.build import SCHEMA
from mllm.data_recipes.config import load_mixture
from mllm.data_recipes.plan import seed_of, split_tunes
from mllm.data_recipes.sources import collect
from mllm.data_recipes.templates import wordings
from mllm.data_recipes.tune import Tune, key_name
from mllm.errors import MllmError
from mllm.score import Key, Note, Score, facts, to_abc, transpose

QUESTIONS = {
    "key": ("key", "{key}"),
    "metre": ("metre", "{metre}"),
    "melody_lowest": ("melody_lowest", "{lowest}"),
    "melody_highest": ("melody_highest", "{highest}"),
    "bars": (None, "{bars}"),
}
BAR_QUESTIONS = ("How many bars does this score have?", "Count the bars.", "How many measures are there?")
BARS = (2, 4)  # least and most bars of an excerpt: it has to fit a short prompt


def excerpt(tune: Tune, rng: np.random.Generator) -> Score | None:
    """Some whole bars of a tune's melody in a random key within five semitones, or None where it has none."""
    runs = [run for run in tune.runs if len(run) >= BARS[0]]
    if not runs:
        return None
    run = runs[int(rng.integers(len(runs)))]
    count = int(rng.integers(BARS[0], min(BARS[1], len(run)) + 1))
    first = int(rng.integers(len(run) - count + 1))
    notes = [
        Note(i * tune.bar_quarters + onset, duration, pitch)
        for i, bar in enumerate(run[first : first + count])
        for onset, duration, pitch, voice in bar
        if voice == 0
    ]
    if len(notes) < 4:
        return None
    tonic, mode = key_name(tune.tonic, tune.mode).split()
    score = Score(title=tune.title, notes=sorted(notes), key=Key(tonic, mode), metre=tune.metre, instruments=[""])
    return transpose(score, int(rng.integers(-5, 6)))


def score_rows(tunes: Iterable[Tune], licences: dict[str, str], seed: int, wanted: int) -> list[dict[str, Any]]:
    """Up to `wanted` rows, each a dialogue of three questions about one excerpt."""
    rows: list[dict[str, Any]] = []
    words = wordings()
    for tune in tunes:
        rng = seed_of(seed, f"score {tune.id}")
        score = excerpt(tune, rng)
        if score is None or len(rows) >= wanted:
            continue
        truth = facts(score)
        messages: list[dict[str, Any]] = []
        for task in rng.permutation(list(QUESTIONS))[:3]:
            kind, answer = QUESTIONS[task]
            questions = words[kind]["short"]["questions"] if kind else BAR_QUESTIONS
            parts = [{"type": "text", "text": to_abc(score) + "\n"}] if not messages else []
            parts.append({"type": "text", "text": str(questions[int(rng.integers(len(questions)))])})
            messages += [{"role": "user", "content": parts}, {"role": "assistant", "content": answer.format(**truth)}]
        rows.append(
            {
                "id": f"score-{len(rows):05d}",
                "task": "score",
                "messages": json.dumps(messages, ensure_ascii=False),
                "facts": json.dumps({**truth, "tune_id": tune.id}, ensure_ascii=False),
                "source": tune.source,
                "licence": licences[tune.source],
                "split": "train",
                "length": 0.0,
            }
        )
    return rows


def build_score_rows(mixture_path: str | Path, output: str | Path, wanted: int) -> Path:
    """Write the shard of score rows into a build folder; returns its path."""
    mixture = load_mixture(mixture_path)
    found = collect(mixture)
    train = split_tunes(found.tunes, mixture)["train"]
    order = seed_of(mixture.seed, "score rows").permutation(len(train))
    licences = {name: recipe.licence for name, recipe in found.recipes.items()}
    rows = score_rows((train[i] for i in order), licences, mixture.seed, wanted)
    shard = Path(output) / "rows" / "train-scores.parquet"
    shard.parent.mkdir(parents=True, exist_ok=True)
    part = shard.with_suffix(".part")
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), part, compression="zstd")
    os.replace(part, shard)
    _enter(Path(output) / "manifest.json", shard, rows)
    return shard


def _enter(manifest: Path, shard: Path, rows: list[dict[str, Any]]) -> None:
    """Enter the shard in the build's manifest, where there is one."""
    if not manifest.is_file():
        return
    content = json.loads(manifest.read_text(encoding="utf-8"))
    content["shards"][f"rows/{shard.name}"] = hashlib.sha256(shard.read_bytes()).hexdigest()
    content["rows"]["train"]["score"] = len(rows)
    part = manifest.with_suffix(".part")
    part.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(part, manifest)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mixture")
    parser.add_argument("--output", required=True, help="folder of the build")
    parser.add_argument("--rows", type=int, default=1500)
    given = parser.parse_args()
    try:
        print(build_score_rows(given.mixture, given.output, given.rows))
    except MllmError as error:
        sys.exit(f"error: {error}")
