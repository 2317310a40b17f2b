"""What a row costs as a build grows, and how much memory the whole takes; ends in one JSON line.

    python -m mllm.data_recipes.bench_rows [--rows 10000 100000 1000000] [--workers 2] [--plot docs/build_cost.svg]

Rows without sound (theory), so that the engine itself is measured. Memory is that of all processes of a build together,
looked at ten times a second.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from mllm.cost_plot import plot_cost


def resident(pid: int) -> int:
    """Bytes of memory of a process and all its descendants (Linux)."""
    total, page = 0, os.sysconf("SC_PAGE_SIZE")
    waiting = [pid]
    while waiting:
        one = waiting.pop()
        try:
            total += int(Path(f"/proc/{one}/statm").read_text().split()[1]) * page
            for task in Path(f"/proc/{one}/task").iterdir():
                waiting += [int(child) for child in (task / "children").read_text().split()]
        except (OSError, ValueError):
            continue
    return total


def measure(rows: int, workers: int) -> dict[str, float]:
    """Build a mixture of `rows` theory rows in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="mllm-rows-") as temporary:
        mixture = Path(temporary) / "rows.yaml"
        mixture.write_text(yaml.safe_dump({"name": "rows", "seed": 1, "theory": {"train": rows}}))
        command = [sys.executable, "-m", "mllm.cli", "data", "build", str(mixture)]
        command += ["--output", f"{temporary}/built", "--workers", str(workers)]
        began, most = time.perf_counter(), 0
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None:
            most = max(most, resident(process.pid))
            time.sleep(0.1)
        seconds = time.perf_counter() - began
        if process.returncode:
            raise SystemExit(f"the build of {rows} rows failed")
        manifest = json.loads(Path(temporary, "built", "manifest.json").read_text())
        inside = manifest["seconds_of_stages"]["theory"]
        return {
            "rows": sum(sum(tasks.values()) for tasks in manifest["rows"].values()),
            "seconds": round(seconds, 2),
            "microseconds_a_row": round(1e6 * inside / rows, 1),
            "peak_mib": round(most / 2**20),
        }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--plot", type=Path, help="file for a picture (svg, png)")
    args = parser.parse_args()
    load = os.getloadavg()[0]
    results = [measure(rows, args.workers) for rows in args.rows]
    if args.plot:
        cost = [r["microseconds_a_row"] for r in results]
        plot_cost([r["rows"] for r in results], cost, "microseconds a row", [r["peak_mib"] for r in results], args.plot)
    print(json.dumps({"bench": "rows", "workers": args.workers, "load_before": round(load, 2), "builds": results}))


if __name__ == "__main__":
    main()
