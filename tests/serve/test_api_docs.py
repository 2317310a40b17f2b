"""docs/serving.md is run as it stands, against a server with the tiny model."""

import re
import shlex
import subprocess
from pathlib import Path

import numpy as np
import pytest
from live import LiveServer, sound

DOCS = Path(__file__).parents[2] / "docs" / "serving.md"
TEXT = DOCS.read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.M | re.S)


def tones() -> np.ndarray:
    """Three seconds of six notes, each with overtones, that fade: something that Basic Pitch hears notes in."""
    time = np.arange(11_025) / 22_050
    notes = [220 * 2 ** (step / 12) for step in (0, 2, 4, 5, 7, 9)]
    waves = [sum(np.sin(2 * np.pi * hertz * n * time) / n**2 for n in (1, 2, 3)) * np.exp(-3 * time) for hertz in notes]
    return (0.3 * np.concatenate(waves)).astype(np.float32)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Puts a server where the page has one, and its files into the folder that the code runs in."""
    live = LiveServer(api_keys=["key-one"], max_tokens=48)
    (tmp_path / "song.wav").write_bytes(sound(tones()))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLLM_API_KEY", "key-one")

    def there(code: str) -> str:
        code = code.replace("http://127.0.0.1:8000", live.url)
        return re.sub(r"mini(?=[\"'\s])", "tiny", code)

    yield there
    live.close()


def test_python_and_curl_run(run, tmp_path, capsys):
    exec(run("\n".join(blocks("python"))), {})
    printed = capsys.readouterr().out
    assert '"metre"' in printed and "set_metronome" in printed and "64" in printed.split()
    for block in blocks("bash")[1:]:
        done = subprocess.run(["bash", "-euc", run(block)], capture_output=True, text=True, check=True)
        assert "error" not in done.stdout
        assert "chat.completion" in done.stdout or "K:" in done.stdout
    assert (tmp_path / "song.mid").read_bytes()[:4] == b"MThd"


def test_options_that_are_named_exist():
    from typer.testing import CliRunner

    from mllm.cli import app
    from mllm.serve.requests import NEUTRAL, ChatRequest

    told = CliRunner(env={"COLUMNS": "200", "TERM": "dumb"}).invoke(app, ["serve", "--help"]).output
    for line in blocks("bash")[0].splitlines():
        words = shlex.split(line, comments=True)
        assert all(word in told for word in words if word.startswith("--"))
    for name in re.findall(r"^\| `(--[\w-]+)`", TEXT, re.M):
        assert name in told
    table = TEXT.partition("### Options")[2].partition("### Tools")[0]
    rows, refused = table.split("Not built, refused:")
    named = {name for row in re.findall(r"^\| (`.*?`) \|", rows, re.M) for name in re.findall(r"`([\w.]+)`", row)}
    assert {name.partition(".")[0] for name in named} == set(ChatRequest.model_fields) - {"model", "messages"}
    assert set(re.findall(r"`(\w+)`", refused)) <= set(NEUTRAL)
