"""Training through its own front door: configs, the warm-up, tuning, what it gives."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile
import torch
import yaml
from click_rows import losses
from safetensors.torch import load_file
from tiny import clicks, save_tiny_text_model
from transformers import AutoConfig

from mllm import load
from mllm.errors import WeightsError
from mllm.rows import RowsError, read_rows
from mllm.towers import load_tower
from mllm.train.collator import Collator
from mllm.train.config import ConfigError, load_config
from mllm.train.dataset import InstructionDataset, join_dialogues, loop_recordings
from mllm.train.faults import last_whole_checkpoint
from mllm.train.feature_cache import FeatureCache
from mllm.train.report import METRICS, SAMPLES, read_lines
from mllm.train.sft import train
from mllm.train.ship import ship
from mllm.train.tuned_model import build_model
from mllm.train.warmup import roll_pitch, semitone_blocks, warm_up

ROOT = Path(__file__).parents[2]
BPM = (60, 80, 100, 120, 150, 180)


@pytest.fixture(scope="module")
def own_clips(tmp_path_factory) -> Path:
    """A user's own data: clips and a JSONL of messages beside them."""
    folder = tmp_path_factory.mktemp("data")
    rows = []
    for i, bpm in enumerate(BPM * 2):
        soundfile.write(folder / f"{i}.wav", clicks(bpm, 6.0), 22050)
        audio = {"type": "audio", "audio": f"{i}.wav"}
        user = {"role": "user", "content": [audio, {"type": "text", "text": "How fast?"}]}
        facts = {"instruments": ["click"], "tonic": "C", "mode": "major", "tempo": bpm, "metre": "4/4"}
        split = "train" if i < len(BPM) else "validation"
        rows.append({"messages": [user, {"role": "assistant", "content": f"{bpm}"}], "facts": facts, "split": split})
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder / "rows.jsonl"


@pytest.fixture(scope="module")
def config_file(own_clips, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    config = {
        "model": {
            "audio_tower": "tempogram",
            "language_model": save_tiny_text_model(folder / "text"),
            "projector": {"projector_hidden_size": 64, "projector_layers": 1, "projector_dropout": 0.0},
        },
        "lora": {"rank": 2, "alpha": 4, "dropout": 0.0},
        "samples": {"rows": 0},
        "data": {"path": str(own_clips), "feature_cache": str(folder / "features")},
        "warmup": {"epochs": 2, "batch_size": 2, "pitch_shift": 0},
        "training": {
            "max_steps": 6,
            "save_steps": 2,
            "logging_steps": 1,
            "bf16": False,
            "per_device_train_batch_size": 2,
            "warmup_steps": 1,
            "seed": 3,
        },
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def test_the_adapter_answers(config_file, own_clips, tmp_path):
    train(load_config(config_file), tmp_path / "run")
    answer = load(str(tmp_path / "run")).ask(own_clips.parent / "0.wav", "How fast?", max_new_tokens=4)
    assert answer.audio_tokens == 8 + 30, "six seconds are eight summary tokens and five a second"


def test_training_goes_on_from_an_adapter_and_says_so(config_file, tmp_path):
    config = load_config(config_file)
    first, second = tmp_path / "first", tmp_path / "second"
    train(config, first)
    config.model.adapter = str(first)
    config.training = config.training | {"max_steps": 1, "learning_rate": 0.0, "warmup_steps": 0}
    config.learning_rates.projector = 0.0
    train(config, second)
    before, after = (load_file(run / "adapter_model.safetensors") for run in (first, second))
    assert all(torch.equal(before[name], after[name]) for name in before), "a step at rate 0 changes nothing"
    record = json.loads((second / "provenance.json").read_text())["goes_on_from"]
    assert record["sha256"] == hashlib.sha256((first / "adapter_model.safetensors").read_bytes()).hexdigest()
    assert record["cost"]["steps"] > 0 and record["data"]["sha256"]
    config.lora.rank += 1
    with pytest.raises(ConfigError, match="of another shape"):
        train(config, tmp_path / "third")
    config.model.adapter = str(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="no adapter_model.safetensors"):
        train(config, tmp_path / "third")


def test_a_shipped_run_answers_alike_and_names_no_folder_of_this_machine(config_file, own_clips, tmp_path, monkeypatch):
    run, out = tmp_path / "run", tmp_path / "shipped"
    with pytest.raises(WeightsError, match="no finished training run"):
        ship(tmp_path, out)
    train(load_config(config_file), run)
    monkeypatch.setattr("mllm.train.ship.LIMIT_MIB", 0.001)
    with pytest.raises(WeightsError, match="lower lora.rank"):
        ship(run, out)
    assert not out.exists()
    monkeypatch.undo()
    ship(run, out)
    record = json.loads((out / "provenance.json").read_text())
    weights = out / "adapter_model.safetensors"
    assert record["files"] == {weights.name: hashlib.sha256(weights.read_bytes()).hexdigest()}
    assert "_name_or_path" not in (out / "config.json").read_text() and record["licence"] == "Apache-2.0"
    clip = own_clips.parent / "0.wav"
    trained, shipped = (load(str(folder)).ask(clip, "How fast?", max_new_tokens=4) for folder in (run, out))
    assert shipped.prompt_tokens == trained.prompt_tokens and shipped.audio_tokens == 8 + 30


def test_warm_up_learns_the_tempo_of_clicks(config_file, tmp_path):
    config = load_config(config_file)
    config.warmup.epochs = 60
    record = warm_up(config, tmp_path)
    assert record["validation"]["tempo"] > 0.9, "the validation clips are clicks of the same six tempi"
    assert record["validation"]["word: first digit"] > 0.9, (
        "the token lies near the embedding of the digit it stands for"
    )
    assert (tmp_path / "projector.safetensors").is_file()


def test_rows_about_one_clip_become_turns(own_clips):
    rows = read_rows(own_clips, "train")
    again = json.loads(json.dumps(rows))
    joined = join_dialogues([*rows, *again])
    assert len(joined) == len(rows)
    assert [message["role"] for message in joined[0]["messages"]] == ["user", "assistant"] * 2
    assert [part["type"] for part in joined[0]["messages"][2]["content"]] == ["text"]


def test_a_looped_clip_is_a_longer_recording(config_file, tmp_path):
    rows, rate = [], 22050
    for i, seconds in enumerate((10.0, 6.0)):
        soundfile.write(tmp_path / f"{i}.wav", clicks(90, seconds), rate)
        user = {
            "role": "user",
            "content": [{"type": "audio", "audio": f"{i}.wav"}, {"type": "text", "text": "How fast?"}],
        }
        answer = {"role": "assistant", "content": "90"}
        rows.append({"messages": [user, answer], "task": "dialogue"})
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    config = load_config(config_file)
    _, processor = build_model(config)
    looped = loop_recordings(read_rows(tmp_path / "rows.jsonl", "train"), share=1.0)
    dataset = InstructionDataset(looped, processor)
    whole, short = dataset[0], dataset[1]
    times = looped[0]["loop"]
    assert times >= 2 and whole["audios"] == [str(tmp_path / "0.wav")] * times and len(whole["masks"]) == times
    assert "[0:10]" in processor.tokenizer.decode(whole["input_ids"]), "time marks stand before the windows"
    assert len(short["audios"]) == 1, "a clip that does not fill its window is not looped"
    cache = FeatureCache(load_tower("tempogram"), processor.feature_extractor, tmp_path / "features")
    batch = Collator(processor, cache)([whole, short])
    assert len(batch["tower_features"]) == times + 1 == len(batch["input_features_mask"])
    assert not any("loop" in row for row in loop_recordings(rows, share=0.0))


@pytest.mark.parametrize("path", sorted((ROOT / "train" / "configs").glob("*.yaml")), ids=lambda path: path.name)
def test_shipped_configs_run(settings, tmp_path, path):
    """Each as it stands, but on tiny parts, own clips and two steps; the last is checked, and then it answers."""
    config = load_config(path)
    model = config.model.model_copy(update=settings["model"] | {"projector": config.model.projector})
    model.projector_weights = model.adapter = None  # what it goes on from has the shape of larger parts
    data = config.data.model_copy(update=settings["data"] | {"shares": {}})  # the clips are of one task
    training = config.training | {"max_steps": 2, "save_steps": 2, "eval_steps": 2, "logging_steps": 1}
    changed = {"model": model, "data": data, "training": training}
    changed["samples"] = config.samples.model_copy(update={"max_new_tokens": 4})
    train(config.model_copy(update=changed), tmp_path)
    assert len(losses(tmp_path)) == 2 and last_whole_checkpoint(tmp_path)
    told = read_lines(tmp_path / METRICS)
    checked = [line["step"] for line in told if "eval_loss" in line]
    samples = read_lines(tmp_path / SAMPLES)
    assert checked in ([2], [1, 2]), "after each epoch, where the config says so"
    assert [sample["step"] for sample in samples] == [step for step in checked for _ in range(config.samples.rows)]
    assert not any(sample.get("error") for sample in samples)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lora: {rang: 3}", "unknown key 'lora.rang': did you mean 'rank'"),
        ("datta: {}", "did you mean 'data'"),
        ("model: {projector: {projector_hiden_size: 3}}", "did you mean 'projector_hidden_size'"),
        ("warmup: {learning_rate: fast}", "warmup.learning_rate: .*number.*'fast'"),
        ("lora: 3", "lora: .*dictionary.*not 3"),
        ("data: {path: 3}", "data.path: .*string, not 3"),
        ("lora: {rank: 0}", "lora.rank: .*greater than or equal to 1"),
        ("method: lorra", "method: .*'lora', 'dora', 'full' or 'projector'"),
        ("{method: full, model: {quantization: nf4}}", "quantized ones cannot be"),
        ("{method: full, learning_rates: {tower: 0.1}}", "leaves the tower frozen"),
        ("{method: projector, model: {adapter: mini}}", "cannot go on from an adapter"),
        ("data: {streaming: true}", "training.max_steps"),
        ("a: [", "not YAML"),
        ("[1, 2]", "expected keys"),
    ],
)
def test_a_wrong_config_is_refused(tmp_path, text, message):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_config(path)


@pytest.mark.parametrize(
    ("line", "words"), [("{", "line 2: not JSON"), ('{"text": "no messages"}', "line 2: a row is")]
)
def test_a_line_that_is_no_row_is_named(own_clips, tmp_path, line, words):
    path = tmp_path / "rows.jsonl"
    path.write_text(own_clips.read_text().splitlines()[0] + "\n" + line)
    with pytest.raises(RowsError, match=words):
        read_rows(path, "train")


def test_a_file_without_lines_is_said_to_be_empty(tmp_path):
    (tmp_path / "rows.jsonl").touch()
    with pytest.raises(RowsError, match="the file is empty"):
        read_rows(tmp_path / "rows.jsonl", "train")


def test_paths_of_scores_stand_beside_the_rows(tmp_path):
    part = {"type": "score", "score": "tunes/a.abc"}
    (tmp_path / "rows.jsonl").write_text(json.dumps({"messages": [{"role": "user", "content": [part]}]}))
    [row] = read_rows(tmp_path / "rows.jsonl", "train")
    assert row["messages"][0]["content"][0]["score"] == str(tmp_path / "tunes" / "a.abc")


def test_warm_up_refuses_what_it_cannot_learn_from(config_file, own_clips, tmp_path):
    config = load_config(config_file)
    config.model.projector = {"projector_type": "mlp"}
    with pytest.raises(ConfigError, match="summary tokens"):
        warm_up(config, tmp_path)
    config = load_config(config_file)
    rows = [{k: v for k, v in json.loads(line).items() if k != "facts"} for line in own_clips.read_text().splitlines()]
    config.data.path = str(own_clips.parent / "no_facts.jsonl")
    Path(config.data.path).write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(ConfigError, match="no train rows with `facts`"):
        warm_up(config, tmp_path)
    config = load_config(config_file)
    config.warmup.batch_size, config.warmup.epochs, config.warmup.pitch_shift = 64, 1, 6  # more than there are clips
    assert warm_up(config, tmp_path)["clips"] == len(BPM)


def test_notes_are_rolled_where_they_are():
    config = AutoConfig.for_model("mllm_stack")
    assert semitone_blocks(config) == [0, 88] and semitone_blocks(AutoConfig.for_model("mllm_musicnn")) == []
    features = torch.zeros(2, 3, config.hidden_size)
    features[:, :, [40, 88 + 40, 200]] = 1
    rolled = roll_pitch(features, torch.tensor([0, 3]), [0, 88])
    assert rolled[1, 0].nonzero().flatten().tolist() == [43, 131, 200] and torch.equal(rolled[0], features[0])


def test_a_wrong_training_argument_is_one_line(config_file, tmp_path):
    config = yaml.safe_load(config_file.read_text())
    config["training"]["max_stepz"] = 3
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "mllm.train.sft", str(path), "--output_dir", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "max_stepz" in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr
