"""A data set of eight clips in the house format, a build of rendered tunes, and the tests' tiny model."""

import json
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile as sf

sys.path.insert(0, str(Path(__file__).parents[1]))  # tiny.py, clicks and the tiny checkpoint
sys.path.insert(0, str(Path(__file__).parents[1] / "serve"))  # live.py, a real server

RATE = 22_050
FACTS = [
    ("C major", 100.0, "3/4", ["flute"], 523.25),
    ("A minor", 80.0, "4/4", ["choir"], 440.0),
    ("Eb dorian", 140.0, "6/8", ["harp"], 311.13),
    ("C major", 100.0, "4/4", ["flute", "harp"], 523.25),
]
SOUND = ("instrument", "key", "tempo", "metre")


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Path:
    """Folder with four TRAIN clips and four test clips of 3 to 4 s: clicks at the tempo, on the tonic."""
    from tiny import clicks

    folder = tmp_path_factory.mktemp("data")
    (folder / "clips").mkdir()
    (folder / "rows").mkdir()
    rows = []
    for split in ("train", "test"):
        for i, (key, tempo, metre, instruments, pitch) in enumerate(FACTS):
            audio = f"clips/{split}-{i}.flac"
            sf.write(folder / audio, clicks(tempo, 3.0 + i / 3, RATE, pitch), RATE)
            tonic, mode = key.split()
            facts = {
                "instruments": instruments,
                "key": key,
                "tonic": tonic,
                "mode": mode,
                "tempo": tempo,
                "metre": metre,
            }
            for task in ("key", "tempo"):  # as in a real build, a clip has several rows
                content = [{"type": "audio", "audio": audio}, {"type": "text", "text": f"{task}?"}]
                messages = [{"role": "user", "content": content}, {"role": "assistant", "content": "…"}]
                rows.append({
                    "id": f"{split}-{i}-{task}", "task": task, "messages": json.dumps(messages),
                    "facts": json.dumps(facts), "source": "test", "licence": "Apache-2.0", "split": split,
                    "length": 3.0 + i / 3,
                })  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows), folder / "rows" / "all.parquet")
    (folder / "manifest.json").write_text(json.dumps({"name": "test"}))
    return folder


@pytest.fixture(scope="session")
def model() -> str:
    """Folder of a tiny random model that hears through the tempogram."""
    from tiny_checkpoint import tiny_folder

    return str(tiny_folder())


@pytest.fixture(scope="session")
def evaluated(data, model, tmp_path_factory) -> Path:
    """Output folder of one whole evaluation of the four tasks about sound."""
    from mllm.eval.run import evaluate

    output = tmp_path_factory.mktemp("eval")
    evaluate(model, SOUND, data, output)
    return output


TUNES = """
name: gate
seed: 20261126
sources:
  - {recipe: tonal, limit: 200}
clips: {train: 8, validation: 28, test: 0, short_share: 0.0, unit: 64}
sound: {several_families: 0.0, drums: 0.0, codec: 0.0}
soundfonts:
  - {name: TimGM6mb, path: ["pretty_midi:TimGM6mb.sf2"], licence: gpl-2.0}
"""


@pytest.fixture(scope="session")
def tunes(tmp_path_factory) -> Path:
    """A build of rendered tunes with one instrument family each: 28 clips of validation, 8 of TRAIN."""
    from mllm.data_recipes.build import build_mixture

    folder = tmp_path_factory.mktemp("tunes")
    (folder / "tunes.yaml").write_text(TUNES)
    build_mixture(folder / "tunes.yaml", folder / "built", workers=1)
    return folder / "built"


@pytest.fixture
def waves() -> list[np.ndarray]:
    """Three waveforms of unequal length."""
    from tiny import clicks

    return [clicks(bpm, seconds) for bpm, seconds in ((60, 2.0), (90, 12.0), (150, 4.0))]
