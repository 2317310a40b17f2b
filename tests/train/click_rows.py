"""Clicks with questions about their tempo, a tiny model, and settings to train it in seconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import soundfile
from tiny import clicks, save_tiny_text_model

from mllm.train.report import METRICS, read_lines

QUESTIONS = ("How fast?", "And what tempo is it, really?")


def click_settings(folder: Path) -> dict[str, Any]:
    """Fields of a TrainConfig; rows, recordings and the text model are written into `folder`."""
    rows = []
    for i in range(12):
        bpm = (60, 90, 120)[i % 3]
        soundfile.write(folder / f"{i}.wav", clicks(bpm, 3.0 + i % 2), 22050)
        for number, question in enumerate(QUESTIONS):
            parts = [{"type": "audio", "audio": f"{i}.wav"}, {"type": "text", "text": question}]
            talk = [{"role": "user", "content": parts}, {"role": "assistant", "content": f"{bpm}"}]
            rows.append(
                {"id": f"{i}-{number}", "messages": talk, "task": "tempo", "split": ("validation", "train")[i > 2]}
            )
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return {
        "model": {
            "audio_tower": "tempogram",
            "language_model": save_tiny_text_model(folder / "text"),
            "projector": {"projector_hidden_size": 64, "projector_layers": 1, "projector_dropout": 0.0},
        },
        "lora": {"rank": 2, "alpha": 4, "dropout": 0.0},
        "data": {"path": str(folder / "rows.jsonl"), "feature_cache": str(folder / "features")},
        "packing": {"tokens": 120},
        "samples": {"rows": 0},
        "training": {
            "max_steps": 4,
            "save_steps": 2,
            "logging_steps": 1,
            "bf16": False,
            "per_device_train_batch_size": 2,
            "warmup_steps": 0,
            "dataloader_num_workers": 0,
        },
    }


def losses(run: Path) -> list[float]:
    """Training losses that a run logged, in order."""
    return [line["loss"] for line in read_lines(run / METRICS) if "loss" in line]
