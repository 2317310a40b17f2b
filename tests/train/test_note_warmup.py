"""The warm-up of time tokens: what it asks for, that it is learned and the rest kept, that tuning goes on from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import yaml
from safetensors.torch import load_file, save_file
from tiny import save_tiny_text_model

from mllm.rows import read_rows
from mllm.train.config import ConfigError, load_config
from mllm.train.dataset import chosen
from mllm.train.note_targets import LETTERS, NoteTargets, abc_notes
from mllm.train.note_warmup import warm_up
from mllm.train.sft import train
from mllm.train.tuned_model import build_model, trained_projector

RATE = 22050
LETTER_OF = {60: "C", 62: "D", 64: "E", 65: "F", 67: "G", 69: "A", 71: "B"}


def test_the_notes_of_a_melody_in_abc():
    abc = "X:1\nT:A bad bag\nM:4/4\nL:1/8\nK:Eb\n^F2 G/ z a,3/ | _b4- b2 c'- | c' (3cde |]\n"
    assert abc_notes(abc) == [
        ("F", "2", 0), ("G", "/2", 0), ("a", "3/2", 0), ("b", "4", 1),
        ("c", "", 1), ("c", "", 2), ("d", "", 2), ("e", "", 2),
    ]  # fmt: skip


def test_targets_of_tokens_and_frames():
    abc = "X:1\nM:2/4\nL:1/8\nK:C\nC2 E2 | G4 |]\n"
    notes = [[0.1, 0.45, 60], [0.5, 0.95, 64], [1.0, 1.9, 67]]
    it = NoteTargets([{"notes": notes, "seconds": 2.0, "abc": abc}], tokens=50, frames=4, rate=20.0)
    begins = [LETTERS.index(x) if x else len(LETTERS) for x in ("C", "", "E", "", "", "G")]
    assert it.letter[0, :6].tolist() == begins and (it.letter[0, 10:] == -1).all(), "nothing is asked behind the end"
    assert it.bar[0, [0, 2, 5]].tolist() == [0, 0, 1] and it.bar[0, 1] == -1
    assert it.onset[0].flatten().nonzero().flatten().tolist() == [2, 10, 20]
    assert it.pitch[0].flatten()[:12].tolist() == [0, 0, *[40] * 7, 0, 44, 44]


def test_what_is_written_otherwise_than_played_asks_no_letters():
    fact = {"notes": [[0.1, 0.4, 60]], "seconds": 2.0, "abc": "X:1\nM:2/4\nL:1/8\nK:C\nC2 E2 |]\n"}
    it = NoteTargets([fact], tokens=50, frames=4, rate=20.0)
    assert (it.letter == -1).all() and (it.pitch == 40).any()


def test_shares_let_the_same_rows_through_each_time():
    rows: list[dict[str, Any]] = [
        {"id": f"{task}-{i}", "task": task} for i in range(1000) for task in ("match", "score_key", "a")
    ]
    shares = {"score_*": 0.25, "match": 0.5}
    some = list(chosen(rows, shares))
    count = {task: sum(row["task"] == task for row in some) for task in ("match", "score_key", "a")}
    assert count["a"] == 1000 and 420 < count["match"] < 580 and 190 < count["score_key"] < 310
    assert [row for row in some if row["task"] == "match"] == list(chosen(rows[::3], shares))


def melody(pitches: list[int], seconds: float) -> np.ndarray:
    """Tones of half a second each [samples], from 0.05 s on."""
    out = np.zeros(int(seconds * RATE), np.float32)
    for number, pitch in enumerate(pitches):
        time = np.arange(int(0.45 * RATE)) / RATE
        tone = sum(np.sin(2 * np.pi * k * 440 * 2 ** ((pitch - 69) / 12) * time) / k for k in (1, 2, 3))
        start = int((0.05 + 0.5 * number) * RATE)
        out[start : start + len(tone)] += 0.2 * tone * np.exp(-3 * time)
    return out


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A config and melodies of four notes with their ABC; returns the config's file."""
    folder = tmp_path_factory.mktemp("melodies")
    rng, rows = np.random.default_rng(0), []
    for i in range(30):
        pitches = [int(p) for p in rng.choice(list(LETTER_OF), 4)]
        soundfile.write(folder / f"{i}.wav", melody(pitches, 2.2), RATE)
        body = " ".join(LETTER_OF[p] + "2" for p in pitches)
        user = [{"type": "audio", "audio": f"{i}.wav"}, {"type": "text", "text": "Write it down."}]
        facts = {
            "notes": [[0.05 + 0.5 * n, 0.5 + 0.5 * n, p] for n, p in enumerate(pitches)],
            "seconds": 2.2,
            "abc": f"X:1\nM:4/4\nL:1/8\nK:C\n{body} |]\n",
        }
        messages = [{"role": "user", "content": user}, {"role": "assistant", "content": f"{body} |]"}]
        split = "train" if i < 24 else "validation"
        rows.append({"id": str(i), "task": "transcribe", "messages": messages, "facts": facts, "split": split})
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    config = {
        "model": {
            "audio_tower": "basic_pitch",
            "language_model": save_tiny_text_model(folder / "text"),
            "projector": {"projector_hidden_size": 64, "projector_layers": 1, "projector_dropout": 0.0},
        },
        "lora": {"rank": 2, "alpha": 4},
        "data": {"path": str(folder / "rows.jsonl"), "feature_cache": str(folder / "features")},
        "note_warmup": {"epochs": 16, "batch_size": 8, "pitch_shift": 2, "learning_rate": 3e-3},
        "training": {"max_steps": 1, "bf16": False, "per_device_train_batch_size": 2, "warmup_steps": 0},
    }
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(config))
    return file


def test_notes_are_learned_and_summaries_kept(run, tmp_path):
    record = warm_up(load_config(run), tmp_path)
    scores = record["validation"]
    assert scores["letter"] > 0.6, f"of seven letters, in melodies that were not trained on: {scores}"
    assert scores["moved"] < 0.2, "the summary tokens say what they said"
    assert record["clips"] == 24 and (tmp_path / "projector.safetensors").is_file()


def test_tuning_goes_on_from_an_adapter_with_another_projector(run, tmp_path):
    config = load_config(run)
    train(config, tmp_path / "first")
    weights = {k: torch.randn_like(v) if v.dim() > 1 else v for k, v in _projector(config).items()}
    save_file(weights, tmp_path / "projector.safetensors")
    config.model.adapter = str(tmp_path / "first")
    config.model.projector_weights = str(tmp_path / "projector.safetensors")
    model, _ = build_model(config, bf16=False)
    assert torch.equal(trained_projector(model).state_dict()["out.weight"], weights["out.weight"])
    adapter = load_file(tmp_path / "first" / "adapter_model.safetensors")
    lora = next(name for name in adapter if "lora_B" in name)
    parts = dict(model.named_parameters())
    assert torch.equal(parts[lora.replace(".weight", ".default.weight")], adapter[lora]), "the adapter's own LoRA"


def _projector(config) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in trained_projector(build_model(config, bf16=False)[0]).state_dict().items()}


def test_rows_without_notes_are_refused(run, tmp_path):
    config = load_config(run)
    rows = [
        {k: v for k, v in row.items() if k != "facts"}
        for row in map(json.loads, Path(config.data.path).read_text().splitlines())
    ]
    config.data.path = str(tmp_path / "rows.jsonl")
    Path(config.data.path).write_text("\n".join(map(json.dumps, rows)))
    assert read_rows(config.data.path, "train")
    with pytest.raises(ConfigError, match="no train rows with `notes` and `abc`"):
        warm_up(config, tmp_path)
