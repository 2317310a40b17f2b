"""The page of a run stands by itself: nothing is fetched, clips are linked where they lie, hostile words stay words."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from urllib.parse import unquote

import pytest

from mllm.eval.html_report import MOST_SHOWN, write_report
from mllm.eval.report import summarise


class Page(HTMLParser):
    """Tags with their attributes, and the texts of scripts."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.scripts: list[str] = []
        self.inside = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.inside = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag):
        self.inside = ""

    def handle_data(self, data):
        if self.inside == "script":
            self.scripts[-1] += data


def test_the_page_of_a_run_stands_by_itself(evaluated):
    text = (evaluated / "report.html").read_text()
    page = Page(text)
    links = [v for _, attrs in page.tags for k, v in attrs.items() if k in ("src", "href", "data", "action")]
    assert links and all(link.startswith("#") for link in links if link is not None)
    assert not re.search(r"@import|url\((?!#)", text)
    assert text.count("<svg") == 1 + 4 and "<metadata" not in text
    policy = next(attrs["content"] for tag, attrs in page.tags if attrs.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy
    lists = [json.loads(script) for script in page.scripts if script.startswith("[")]
    assert [len(items) for items in lists] == [3, 4, 4, 4]
    for item in (item for items in lists for item in items):
        assert (evaluated / unquote(item["audio"][0])).resolve().is_file()
        assert {"model", "silence", "noise", "swapped", "text", "majority"} <= item["answers"].keys()


def record(item: str, answer: str, condition: str = "model", score: float = 0.0) -> dict:
    return {
        "task": "key", "version": "1", "item": item, "condition": condition, "group": item, "strata": {"of": "<b>"},
        "audio": [f"clips/{item} #1.wav"], "question": "Key?", "options": [], "truth": "C major", "answer": answer,
        "parsed": None, "score": score, "extras": {"tonic": 0.5},
    }  # fmt: skip


def page_of(records, tmp_path) -> str:
    summary = {
        "run": {"model": "<i>m</i>", "split": "test", "data": "d", "limit": None, "model_sha256": "0",
                "data_sha256": "1", "benchmarks_sha256": {}, "command": "mllm eval", "fit_clips": 1},
        "about": {"key": {"title": "key", "version": "1", "question": "Key?", "works_in_train": 0,
                          "guessed_on_items": False}},
        "tasks": {"key": summarise(records)},
    }  # fmt: skip
    write_report(tmp_path / "report.html", summary, records, tmp_path)
    return (tmp_path / "report.html").read_text()


def test_hostile_words_stay_words(tmp_path):
    bad = "</script><script>alert(1)</script><img src=x onerror=alert(1)>"
    text = page_of([record("a", bad), record(bad, "ok")], tmp_path)
    page = Page(text)
    assert len(page.scripts) == 2 and not any(tag in ("img", "i", "b") for tag, _ in page.tags)
    (items,) = [json.loads(script) for script in page.scripts if script.startswith("[")]
    assert items[0]["answers"]["model"][0] == bad and items[1]["id"] == bad
    assert items[0]["audio"] == ["clips/a%20%231.wav"]


def test_a_long_run_lists_its_first_items(tmp_path):
    text = page_of([record(str(i), "?") for i in range(MOST_SHOWN + 50)], tmp_path)
    (items,) = [json.loads(script) for script in Page(text).scripts if script.startswith("[")]
    assert len(items) == MOST_SHOWN and f"Items ({MOST_SHOWN + 50})" in text


@pytest.mark.slow
def test_items_can_be_filtered_and_heard(evaluated):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path="/usr/bin/chromium")
        page = browser.new_page()
        errors = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto((evaluated / "report.html").as_uri())
        part = page.locator("details[data-task=tempo]")
        part.locator("summary").click()
        assert part.locator("table.items tr").count() == 5
        part.locator(".words").fill("test-2")
        assert part.locator("table.items tr").count() == 2
        loaded = (
            "a => new Promise(r => { a.onloadedmetadata = () => r(a.duration); a.onerror = () => r(-1); a.load(); })"
        )
        assert part.locator("audio").first.evaluate(loaded) == pytest.approx(3 + 2 / 3, abs=0.1)
        assert not errors
        browser.close()
