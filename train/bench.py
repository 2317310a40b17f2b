"""What a step costs: against a trainer written as others write it, as a set grows, and with a language model of 4 B.

    python -m mllm.train.bench speed --data runs/data/mini [--rows 512]
    python -m mllm.train.bench stream [--rows 1000000] [--plot docs/train_cost.svg]
    python -m mllm.train.bench large

Each ends in one line of JSON. Every training runs in a process of its own, one after the other: run nothing else.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.console import Console
from rich.table import Table

from mllm.cost_plot import plot_cost
from mllm.errors import MllmError
from mllm.provenance import read_provenance
from mllm.train.loss_curves import compare
from mllm.train.report import METRICS, read_lines

app = typer.Typer(no_args_is_help=True, help=__doc__.splitlines()[0])
MODEL = {
    "audio_tower": "stack",
    "language_model": "smollm2-135m-instruct",
    "projector": {"projector_type": "resampler", "projector_hidden_size": 256, "projector_layers": 3},
}
PLAIN: dict[str, Any] = {"packing": None, "supervised_logits": False, "compile_layers": False}
"""As peers train: the tower in every step, rows padded on the right in any order, logits everywhere."""
OURS: dict[str, Any] = {"packing": {"tokens": 768}}


def run(config: dict[str, Any], folder: Path, name: str) -> dict[str, Any]:
    """Train in a process of its own; what it cost, and its last validation loss."""
    file, output = folder / f"{name}.yaml", folder / name
    file.write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "mllm.train.sft", str(file), "--output_dir", str(output)]
    began = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise MllmError(f"the training {name!r} failed: {last}")
    record = read_provenance(output)
    cost = record["cost"]
    lines = read_lines(output / METRICS)
    checked = [line["eval_loss"] for line in lines if "eval_loss" in line]
    active = cost["seconds"] - cost["seconds_evaluating_and_saving"] + cost["seconds_encoding_before"]
    return {
        "steps": cost["steps"],
        "rows": cost["rows"],
        "rows_a_second": round(cost["rows"] / active, 3),
        "seconds": round(active, 1),
        "seconds_waiting_for_data": cost["seconds_waiting_for_data"],
        "wall_seconds": round(time.monotonic() - began, 1),
        "validation_loss": checked[-1] if checked else None,
        "losses": [line["loss"] for line in lines if "loss" in line],
        "peak_memory_mib": cost["peak_memory_mib"],
        "padding_share": cost["padding_share"],
        "share_of_gemm_peak": cost["share_of_gemm_peak"],
        "tokens": cost["tokens"],
        "packing": record["rows"].get("packing"),
    }


@app.command()
def speed(
    data: Annotated[Path, typer.Option(help="a build of `mllm data build`, or a JSONL of rows")] = Path(
        "runs/data/mini"
    ),
    rows: Annotated[int, typer.Option(min=16, help="training rows of the one epoch")] = 512,
    plain_batch: Annotated[int, typer.Option(min=1, help="rows in a padded batch; a pack of 768 holds as many")] = 12,
    seeds: Annotated[int, typer.Option(min=1, help="warm runs with other seeds: the noise of the loss")] = 2,
) -> None:
    """The same rows, once: written as others write it; with our cache empty; with our cache full.

    As others write it twice: with the tower that ships here, and with its layers called one by one as they were
    published, which is what another trainer would call.
    """
    base = {
        "model": MODEL,
        "learning_rates": {"language_model": 5e-4, "projector": 5e-4},
        "samples": {"rows": 0},
    }
    training = {"num_train_epochs": 1, "save_strategy": "no", "eval_strategy": "epoch", "logging_steps": 1}
    training |= {"warmup_steps": 4, "lr_scheduler_type": "constant_with_warmup", "per_device_eval_batch_size": 4}
    with tempfile.TemporaryDirectory(prefix="mllm-bench-") as temporary:
        folder = Path(temporary)
        source = {"path": str(data), "limit": rows, "validation_limit": 64}
        cached = source | {"feature_cache": str(folder / "features")}
        batch = {"per_device_train_batch_size": plain_batch, "train_sampling_strategy": "random"}
        plainly = base | PLAIN | {"data": source | {"feature_cache": False}, "training": training | batch}
        layers = {"model": MODEL | {"audio_tower": str(_layer_by_layer(folder / "tower"))}}
        jobs = {"plain": plainly, "plain, tower layer by layer": plainly | layers}
        for name, seed in [("cold", 0), *((f"warm {seed}", seed) for seed in range(seeds))]:
            one = training | {"per_device_train_batch_size": 1, "seed": seed}
            jobs[name] = base | OURS | {"data": cached, "training": one}
        results = {name: run(config, folder, name) for name, config in jobs.items()}
    plain, cold, warm = results["plain"], results["cold"], results["warm 0"]
    eager = results["plain, tower layer by layer"]
    spread = [result["validation_loss"] for name, result in results.items() if not name.startswith("plain")]
    title = f"{plain['rows']} rows once, {os.cpu_count()} cores; × over plain, and with its tower layer by layer"
    table = Table("what", "measured", "aim", title=title)
    rates = (
        ("plain", plain, ""),
        ("its tower layer by layer", eager, ""),
        ("cache empty", cold, "≥ 2×"),
        ("cache full", warm, "≥ 5×"),
    )
    for name, result, aim in rates:
        rate = result["rows_a_second"]
        ratios = f"{rate / plain['rows_a_second']:.1f}×, {rate / eager['rows_a_second']:.1f}×"
        table.add_row(name, f"{rate:.2f} rows/s, {ratios}", aim)
    table.add_row("peak memory", f"{warm['peak_memory_mib'] / plain['peak_memory_mib']:.0%} of plain", "≤ 60 %")
    table.add_row("validation loss, plain", f"{plain['validation_loss']:.3f} after {plain['steps']} steps", "")
    table.add_row("validation loss, ours", f"{min(spread):.3f}–{max(spread):.3f} after {warm['steps']} steps", "equal")
    ours = [result["losses"] for name, result in results.items() if name.startswith("warm")]
    gap, noise = compare(plain["losses"], ours)
    between = f", {noise:.3f} between seeds" if noise is not None else ""
    table.add_row("loss in training, smoothed", f"{gap:.3f} from plain's at most{between}", "within noise")
    waits = "; ".join(f"{name} {_waiting(result):.1%}" for name, result in (("plain", plain), ("ours", warm)))
    table.add_row("waiting for the next batch", f"{waits} of the time", "")
    table.add_row("no padding", f"{1 - warm['padding_share']:.1%}", "≥ 95 %")
    table.add_row("share of the GEMM peak", f"{warm['share_of_gemm_peak']:.0%}", "≥ 60 %")
    _tell(table, {"bench": "training speed", "results": results, "loss_gap": gap, "loss_noise": noise})


def _waiting(result: dict[str, Any]) -> float:
    """Share of a training's time."""
    return float(result["seconds_waiting_for_data"] / result["seconds"])


def _layer_by_layer(folder: Path) -> Path:
    """The tower stack, saved so that it runs its layers as they were published."""
    import torch

    from mllm.towers import load_tower

    load_tower("stack", dtype=torch.bfloat16, fused=False).save_pretrained(folder)
    return folder


@app.command()
def stream(
    rows: Annotated[int, typer.Option(min=1000, help="rows that are read")] = 1_000_000,
    plot: Annotated[Path | None, typer.Option(help="file for a picture (svg, png)")] = None,
) -> None:
    """What it takes to read, encode, pack and lay out a row of a stream, from the first to the last."""
    with tempfile.TemporaryDirectory(prefix="mllm-bench-") as temporary:
        command = [sys.executable, "-m", "mllm.train.bench_stream", temporary, str(rows)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as work:
            points = []
            for line in work.stdout or ():
                points.append(json.loads(line))
                print(line, end="", file=sys.stderr)  # the last ones take minutes
        if work.returncode:
            raise MllmError("the stream was not read to its end")
    table = Table("rows", "ms a row", "memory, MiB", title="streaming; each line covers the rows since the one before")
    for point in points:
        table.add_row(f"{point['rows']:,}", f"{point['milliseconds_a_row']:.3f}", f"{point['mib']:.0f}")
    if plot:
        cost = [point["milliseconds_a_row"] for point in points]
        plot_cost([point["rows"] for point in points], cost, "milliseconds a row", [p["mib"] for p in points], plot)
    _tell(table, {"bench": "training stream", "points": points})


@app.command()
def large(steps: Annotated[int, typer.Option(min=1)] = 3) -> None:
    """QLoRA on a language model of four billion random weights (Qwen3-4B's shape): memory of a few steps."""
    with tempfile.TemporaryDirectory(prefix="mllm-bench-") as temporary:
        folder = Path(temporary)
        subprocess.run([sys.executable, "-m", "mllm.train.bench_large", str(folder)], check=True)
        config = {
            "model": MODEL | {"language_model": str(folder / "text"), "quantization": "nf4"},
            "data": {"path": str(folder / "rows.jsonl"), "feature_cache": str(folder / "features")},
            "samples": {"rows": 0},
            "packing": {"tokens": 256},
            "training": {"max_steps": steps, "per_device_train_batch_size": 1, "logging_steps": 1}
            | {"gradient_checkpointing": True, "save_strategy": "no"},
        }
        result = run(config, folder, "large")
    table = Table("what", "measured", "aim", title=f"QLoRA, 4 B random weights, {os.cpu_count()} cores")
    table.add_row("steps", f"{result['steps']} in {result['seconds']:.0f} s", f"{steps}")
    table.add_row("peak memory", f"{result['peak_memory_mib'] / 1024:.1f} GiB", "≤ 20 GiB")
    _tell(table, {"bench": "training large", "result": result})


def _tell(table: Table, result: dict[str, Any]) -> None:
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    print(json.dumps({"cores": os.cpu_count()} | result))


if __name__ == "__main__":
    app()
