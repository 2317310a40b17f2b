"""The page about a run: what it says, and that nothing is fetched or let through."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from mllm.train.report import main, read_lines, show, write_report

ROOT = Path(__file__).parents[2]


class Checked(HTMLParser):
    """Every element that is opened is closed; gathers text, tags and addresses."""

    VOID = {"meta", "br", "img"}

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.text, self.addresses, self.ids = "", [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        given = dict(attrs)
        self.addresses += [given[key] for key in ("src", "href", "xlink:href", "data", "action") if key in given]
        self.ids += [given["id"]] if "id" in given else []
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_report_says_what_happened_and_fetches_nothing(whole, tmp_path) -> None:
    for name in ("metrics.jsonl", "samples.jsonl"):
        (tmp_path / name).write_text((whole.folder / name).read_text())
    cost = whole.trainer.ledger.cost()
    provenance = {
        "bases": {
            "audio_tower": "stack",
            "weights": [{"name": "tower", "uri": "pypi:x==1/y", "sha256": "abc", "licence": "ISC"}],
        },
        "data": {"path": "mini", "licences": {"tunes": {"title": "<script>alert(2)</script>", "licence": "CC0-1.0"}}},
        "config": {"lora": {"rank": 12}, "training": {"learning_rate": 5e-4}},
        "cost": cost,
    }
    (tmp_path / "provenance.json").write_text(json.dumps(provenance))
    page = write_report(tmp_path)
    text = page.read_text()
    checked = Checked(text)
    assert "script" not in checked.tags and "<script>alert(1)</script>" in checked.text
    assert all(address.startswith("#") for address in checked.addresses)
    assert not re.search(r"url\((?!#)|@import", text)
    assert len(checked.ids) == len(set(checked.ids))
    assert checked.tags.count("svg") == 5  # loss, rate, speed, tasks in training and in validation
    lines = read_lines(tmp_path / "metrics.jsonl")
    first, last = (line["loss"] for line in (lines[0], [line for line in lines if "loss" in line][-1]))
    assert f"8 steps. Loss in training from {show(first)} to {show(last)}." in checked.text
    for said in ("CC0-1.0", "pypi:x==1/y", "lora.rank", "0.0005", "said False", "C | <b>major</b>", "tunes"):
        assert said in checked.text
    assert f"{cost['tokens']:,}" in checked.text and f"mllm ask --model {tmp_path} " in checked.text
    markdown = (tmp_path / "report.md").read_text()
    assert "<script" not in markdown and "C \\| &lt;b&gt;major" in markdown
    for image in re.findall(r"!\[.*?\]\((.*?)\)", markdown):
        assert "<svg" in (tmp_path / image).read_text()
    write_report(tmp_path)
    assert page.read_text() == text
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize(
    "lines",
    [
        [],
        [{"step": 1, "loss": 2.0}],
        [{"step": 1, "loss": None, "loss_task/$x_": None}, {"step": 2, "loss": 1.0, "loss_task/$x_": 3.0}],
        [{"step": step, "loss": None, **{f"loss_task/_{i} 音": i for i in range(30)}} for step in range(40)],
    ],
)
def test_report_of_little(tmp_path, lines) -> None:
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 3, "los')
    if not lines:
        (tmp_path / "checkpoint-4").mkdir()
        (tmp_path / "checkpoint-4" / "provenance.json").write_text('{"cost": {"steps": 4}}')
    checked = Checked(write_report(tmp_path).read_text())
    assert "No sample answers were taken." in checked.text
    assert lines or "4 steps." in checked.text


def test_report_of_no_run_is_one_line_and_status_1(tmp_path) -> None:
    command = [sys.executable, "-m", "mllm.train.report"]
    done = subprocess.run([*command, tmp_path / "no"], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and done.stderr.startswith("error: no folder ")
    done = subprocess.run([*command, "--help"], capture_output=True, text=True, cwd=ROOT, check=True)
    assert "RUN" in done.stdout
    with pytest.raises(SystemExit, match="holds no training run"):
        main([str(tmp_path)])
    (tmp_path / "provenance.json").write_text("{")
    with pytest.raises(SystemExit, match="cannot be read"):
        main([str(tmp_path)])
