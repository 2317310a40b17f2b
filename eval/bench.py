"""`make bench`: how fast the towers hear and the model answers on this machine, and with how much memory.

Every measurement runs in a process of its own, one after the other: run nothing else meanwhile. Prints a table that
says what was measured and what is aimed at, then one line of JSON a bench.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from mllm.errors import MllmError

BENCHES = ("towers", "ask", "long")
console = Console(stderr=True)


def measure(kind: str, **job: Any) -> dict[str, Any]:
    """Run one measurement of `mllm.eval.bench_work` in a fresh process. Raises MllmError where it fails."""
    arguments = json.dumps({"kind": kind, "started": time.time()} | job)
    command = [sys.executable, "-m", "mllm.eval.bench_work", arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise MllmError(f"the bench {kind!r} failed: {last}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def towers_rows(r: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Rows (what, measured, aim) of the table."""
    rows = []
    for way, words in (("one_by_one", "one at a time"), ("batch", f"{r['windows']} in a batch")):
        t = r[way]
        what = f"tower stack, {r['window_seconds']:g}-s windows, {words}"
        rows.append((f"{what}: plain eager fp32", f"{t['plain_seconds'] / r['windows']:.2f} s a window", ""))
        rows.append((f"{what}: fused, bf16", f"{t['fused_seconds'] / r['windows']:.2f} s a window", ""))
        factor = t["real_time_factor"]
        rows.append(("  real-time factor (s of work a s of sound)", f"{factor:.4f} ({1 / factor:.0f}× real time)", ""))
        rows.append(("  fused against plain", f"{t['ratio']:.1f}× as fast ({t['cpu_ratio']:.1f}× less CPU)", "≥ 4×"))
    return [*rows, ("  largest difference of a feature, fused bf16 - plain", f"{r['max_difference']:.1e}", "")]


def ask_rows(r: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Rows (what, measured, aim) of the table."""
    return [
        ("start-up: interpreter, imports, weights", f"{r['start_up_seconds']:.1f} s", ""),
        ("first answer after start-up, 10-s clip", f"{r['first_seconds']:.2f} s", ""),
        (f"answer about a new 10-s clip ({r['answer_tokens']:g} tokens)", f"{r['seconds']:.2f} s", "≤ 4 s"),
        (f"follow-up question, same clip ({r['follow_up_tokens']:g} tokens)", f"{r['follow_up_seconds']:.2f} s", ""),
        ("peak memory of that process", f"{r['peak_rss_gib']:.2f} GiB", "≤ 2.5 GiB"),
    ]


def long_rows(r: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Rows (what, measured, aim) of the table."""
    return [
        (f"answer about a {r['audio_seconds'] / 60:.0f}-minute mp3", f"{r['seconds']:.0f} s", "≤ 180 s"),
        ("follow-up question about it", f"{r['follow_up_seconds']:.2f} s", ""),
        ("peak memory of that process", f"{r['peak_rss_gib']:.2f} GiB", "≤ 4 GiB"),
    ]


ROWS: dict[str, Callable[[dict[str, Any]], list[tuple[str, str, str]]]] = {
    "towers": towers_rows, "ask": ask_rows, "long": long_rows,
}  # fmt: skip


def bench(model: str, only: list[str], repeats: int, minutes: float) -> dict[str, dict[str, Any]]:
    """{bench: measurements}; see `mllm.eval.bench_work` for what each holds."""
    results = {}
    with tempfile.TemporaryDirectory(prefix="mllm-bench-") as folder, console.status("") as status:
        for name in only:
            job: dict[str, Any] = {"model": model, "repeats": repeats}
            if name == "long":
                status.update(f"writing a {minutes:g}-minute mp3")
                job["path"] = str(Path(folder) / "long.mp3")
            try:
                if name == "long":
                    measure("record", path=job["path"], minutes=minutes)
                status.update(f"measuring: {name}")
                results[name] = measure(name, **job)
            except MllmError as error:  # what the others measured is not lost
                results[name] = {"error": str(error)}
    return results


def main(
    model: Annotated[str, typer.Option(help="a shipped model's name or the folder of a checkpoint")] = "mini",
    only: Annotated[str, typer.Option(help="comma-separated: " + ", ".join(BENCHES))] = ",".join(BENCHES),
    repeats: Annotated[int, typer.Option(min=1, help="repeats whose median counts")] = 5,
    minutes: Annotated[float, typer.Option(min=0.5, max=30, help="length of the long recording")] = 30,
) -> None:
    """Measure hearing, answering, a long recording and a follow-up question on this machine."""
    names = [name.strip() for name in only.split(",") if name.strip()]
    if unknown := [name for name in names if name not in BENCHES]:
        raise typer.BadParameter(f"unknown bench {', '.join(unknown)}: known are {', '.join(BENCHES)}")
    load = os.getloadavg()[0]
    if load > 1:
        console.print(f"[yellow]the load of this machine is {load:.1f}: something else runs, times will be too long")
    results = bench(model, names, repeats, minutes)
    title = f"model {model}, {os.cpu_count()} cores, {platform.machine()}, load before {load:.1f}, medians of {repeats}"
    table = Table("what", "measured", "aim", title=title)
    for name in names:
        failed = results[name].get("error")
        for row in [(name, failed, "")] if failed else ROWS[name](results[name]):
            table.add_row(*row)
        table.add_section()
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    for name in names:
        print(
            json.dumps(
                {"bench": name, "model": model, "cores": os.cpu_count(), "load_before": load} | results[name],
                ensure_ascii=False,
            )
        )
    if any("error" in result for result in results.values()):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
