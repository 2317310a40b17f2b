"""Work of `mllm.train.bench stream`, in a process of its own: FOLDER ROWS -> a line of JSON at 1k, 3k, 10k, … rows."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import soundfile

from mllm.assemble import text_model_folder
from mllm.configuration import MusicLMConfig
from mllm.processing import build_processor
from mllm.towers import load_tower
from mllm.train.collator import Collator
from mllm.train.config import DataConfig, PackingSettings
from mllm.train.feature_cache import FeatureCache
from mllm.train.streaming import PackStream

CLIPS = 64


def write_noise(folder: Path, rows: int, clips: int, seconds: float) -> None:
    """A JSONL of questions about clips of noise."""
    rng = np.random.default_rng(0)
    for number in range(clips):
        soundfile.write(folder / f"{number}.wav", rng.normal(0, 0.1, round(seconds * 22050)), 22050)
    with open(folder / "rows.jsonl", "w", encoding="utf-8") as file:
        for number in range(rows):
            heard = {"type": "audio", "audio": f"{number * 7 % clips}.wav"}
            asked = {"type": "text", "text": f"Question {number}: what is the tempo?"}
            talk = [
                {"role": "user", "content": [heard, asked]},
                {"role": "assistant", "content": f"{number % 200} BPM."},
            ]
            file.write(json.dumps({"id": str(number), "task": "tempo", "messages": talk}) + "\n")


def main(folder: Path, rows: int) -> None:
    """Read, encode, pack and lay out every row."""
    from transformers import AutoTokenizer

    write_noise(folder, rows, CLIPS, 2.0)
    tower, text = load_tower("tempogram"), text_model_folder("smollm2-135m-instruct")
    config = MusicLMConfig(audio_config=tower.config, projector_type="mlp", summary_tokens=0)
    processor = build_processor(config, AutoTokenizer.from_pretrained(text))
    cache = FeatureCache(tower, processor.feature_extractor, folder / "features")
    cache.fill([folder / f"{number}.wav" for number in range(CLIPS)], progress=False)
    data = DataConfig(path=str(folder / "rows.jsonl"), streaming=True, shuffle_buffer=1000)
    collate, read, since = Collator(processor, cache), 0, 0
    marks = [m for m in (10**e * f for e in range(3, 9) for f in (1, 3)) if m < rows] + [rows]
    began = time.perf_counter()
    for pack, position in PackStream(data, processor, PackingSettings(), seed=0):
        read += len(collate([(pack, position)])["meta"].rows)
        while marks and read >= marks[0]:
            spent, mark = time.perf_counter() - began, marks.pop(0)
            memory = psutil.Process().memory_info().rss / 2**20
            point = {"rows": mark, "milliseconds_a_row": 1000 * spent / (read - since), "mib": memory}
            print(json.dumps(point), flush=True)
            began, since = time.perf_counter(), read
        if not marks:
            return


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
