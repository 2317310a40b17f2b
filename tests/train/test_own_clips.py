"""A user's path: two hundred clips of one's own with captions, `mini` learns them, and answers about a new one."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml

from mllm import load
from mllm.rows import read_rows

ROOT = Path(__file__).parents[2]
WAVES = {
    "square": lambda turns: np.sign(np.sin(turns)),
    "sine": np.sin,
    "noise": lambda turns: np.random.default_rng(len(turns)).normal(0, 0.5, len(turns)),
}
QUESTION = "Describe this music."


def write_own_clips(folder: Path, count: int) -> Path:
    """Clips of pulses: a sound, a register, fast or slow; the last tenth is for validation."""
    rng, rows = np.random.default_rng(0), []
    for number in range(count):
        wave, high, fast = list(WAVES)[number % 3], bool(rng.integers(2)), bool(rng.integers(2))
        moments = np.arange(10 * 22050) / 22050
        pitch = rng.uniform(700, 1200) if high else rng.uniform(80, 140)
        pulses = (moments * (rng.uniform(5, 6) if fast else rng.uniform(0.8, 1.2)) % 1) < 0.5
        sound = 0.2 * WAVES[wave](2 * np.pi * pitch * moments) * pulses
        soundfile.write(folder / f"{number}.flac", sound, 22050)
        register = "" if wave == "noise" else ("high " if high else "low ")
        caption = f"The Oberheim patch plays {'fast' if fast else 'slow'} pulses of a {register}{wave}."
        heard = [{"type": "audio", "audio": f"{number}.flac"}, {"type": "text", "text": QUESTION}]
        talk = [{"role": "user", "content": heard}, {"role": "assistant", "content": caption}]
        rows.append({"messages": talk, "split": "train" if number < 0.9 * count else "validation"})
    (folder / "my_clips.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder / "my_clips.jsonl"


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_two_hundred_own_clips_are_learned_within_fifteen_minutes(tmp_path):
    own = write_own_clips(tmp_path, 200)
    config = yaml.safe_load((ROOT / "train/configs/own_clips.yaml").read_text())
    assert config["data"] == {"path": own.name}, "run from the folder with the clips, as README says"
    began = time.monotonic()
    command = [sys.executable, "-m", "mllm.cli", "train", str(ROOT / "train/configs/own_clips.yaml")]
    subprocess.run([*command, "--output_dir", "runs/own"], cwd=tmp_path, check=True)
    clip = "185.flac"
    ask = [sys.executable, "-m", "mllm.cli", "ask", "--model", "runs/own", clip, QUESTION]
    said = subprocess.run(ask, cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    assert time.monotonic() - began < 15 * 60
    assert said.startswith("The Oberheim patch plays")

    tuned, before = load(str(tmp_path / "runs/own")), load("mini")
    right = {"tuned": 0, "before": 0}
    rows = read_rows(own, "validation")
    for row in rows:
        caption, audio = row["messages"][1]["content"], row["messages"][0]["content"][0]["audio"]
        wave = caption.rstrip(".").split()[-1]
        right["tuned"] += wave in str(tuned.ask(audio, QUESTION))
        right["before"] += wave in str(before.ask(audio, QUESTION))
    print(right, len(rows), time.monotonic() - began)
    assert right["tuned"] >= 0.7 * len(rows) > right["before"], "a third would be chance"
