"""The whole report in one command, in its smallest size: every part is there, and a second run asks nothing."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest

from mllm.eval.full_report import SHOWN, measure
from mllm.eval.task import EvalError
from mllm.eval.tasks import OURS

SETTINGS: dict[str, Any] = {"queries": 2, "shots": (0, 1), "fit_clips": 20, "split": "validation"}
SECONDS = 180.0
"""Of processor time: other work on the machine does not stretch it."""
HEARD = ("instrument", "key", "tempo", "metre")


@pytest.fixture(scope="module")
def smoke(tunes, tmp_path_factory) -> tuple[dict[str, Any], Path]:
    """What `python -m mllm.eval.full_report --limit 1 --queries 2 --shots 0,1 --fit-clips 20` makes of `mini`."""
    output, begun = tmp_path_factory.mktemp("report"), time.process_time()
    found = measure("mini", tunes, output, 1, **SETTINGS)
    assert time.process_time() - begun < SECONDS
    return found, output


def test_every_part_of_the_report_is_there(smoke):
    found, output = smoke
    tasks = found["tasks"]["tasks"]
    assert {*HEARD, "captions", "chords", "abc_writing"} <= tasks.keys() <= OURS.keys()
    for name in HEARD:
        conditions = tasks[name]
        assert {"model", "silence", "noise", "text", "nudged", "majority", "chance"} <= conditions.keys()
        assert "beside text:smollm2" in "".join(conditions) and any("stack" in condition for condition in conditions)
        assert any(condition.startswith("tool: ") and "stack" not in condition for condition in conditions)
        assert conditions["model"]["medium"] == "audio" and conditions["model"]["n"] == 1
        assert {"points", "low", "high", "against"} == conditions["model"]["gain"].keys()
    curves = found["in_context"]["curves"]
    assert set(curves) == {"ordinary", "made-up", "changing"}
    for points in curves.values():
        assert [point["shots"] for point in points] == [0, 1]
        assert all(point["n"] == 2 and {"silence", "accuracy"} <= point.keys() for point in points)
        assert {"shuffled", "copied"} <= points[1].keys()
    assert found["in_context"]["cost"] and set(found["seconds"]) == {"tasks", "in_context"}


def test_both_files_show_the_tables_and_the_curves(smoke):
    _, output = smoke
    report, page = (output / "report.md").read_text(), (output / "report.html").read_text()
    assert "gain over the best control" in report and "## Examples in the prompt" in report
    (linked,) = re.findall(r"!\[.*?\]\((.*?)\)", report)
    curves = (output / linked).read_text()
    assert curves == (output / "in_context" / "in_context.svg").read_text()
    shown = page[page.index(f'aria-label="{SHOWN}"') :]
    drawn = curves[curves.index("<defs>", curves.index("</metadata>") if "</metadata>" in curves else 0) :]
    assert drawn in shown and "<?xml" not in page and "“Says the last label”" in shown
    assert 'id="key"' in page


def test_a_second_run_asks_nothing_and_another_data_set_is_refused(smoke, tunes, data):
    found, output = smoke
    kept = sorted(output.rglob("answers.jsonl"))
    before = [file.read_bytes() for file in kept]
    again = measure("mini", tunes, output, 1, **SETTINGS)
    assert len(kept) == 3 and [file.read_bytes() for file in kept] == before and again["tasks"] == found["tasks"]
    assert all(again["seconds"][part] >= found["seconds"][part] for part in found["seconds"])
    assert json.loads((output / "seconds.json").read_text()) == again["seconds"]
    with pytest.raises(EvalError, match="choose another --output"):
        measure("mini", data, output, 1, **SETTINGS | {"split": "test", "tasks": ["key"]})
