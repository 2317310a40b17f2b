"""Baselines: what a tower's features hold, what notes tell, and an untuned model that is told what tools heard."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import typer
from tiny import save_tiny_text_model
from typer.testing import CliRunner

from mllm.eval import baselines, note_tools
from mllm.eval.cascade import Cascade, heard
from mllm.eval.item import Item
from mllm.eval.respondents import Failure, respondent
from mllm.eval.sounds import Sound, recording, silence
from mllm.eval.task import EvalError, Task, Verdict
from mllm.eval.tasks import TASKS
from mllm.eval.tower_tools import TowerFeatures, linear, nearest, tower_tools
from mllm.score import read_score, to_midi
from mllm.synthesis import render

RATE = 22_050
TUNE = "X:1\nM:4/4\nL:1/4\nQ:1/4=120\nK:D\nD F A d|c A G E|D F A F|E C D2|D F A d|c A G E|D F A F|E C D2|]\n"


@pytest.fixture(scope="module")
def tune(tmp_path_factory) -> Path:
    """Sixteen seconds in D major at 120, one voice from C#4 to D5, as a piano plays them."""
    file = tmp_path_factory.mktemp("tune") / "tune.wav"
    soundfile.write(file, render(to_midi(read_score(TUNE)), sampling_rate=RATE).mean(1, dtype=np.float32), RATE)
    return file


def test_features_are_of_the_sound_alone_and_kept(data, tmp_path):
    paths = [data / "clips" / f"{split}-{i}.flac" for split in ("train", "test") for i in range(2)]
    first = TowerFeatures("tempogram", tmp_path)
    rows, counted = first.of(paths, lambda: None), []
    assert rows.shape == (4, 2 * 192) and rows.dtype == np.float32
    np.testing.assert_array_equal(rows[:2], rows[2:])  # TRAIN's clips again, under other names
    assert np.abs(rows[0] - rows[1]).max() > 0.01
    (kept,) = tmp_path.glob("*.npz")
    with np.load(kept) as file:
        np.savez(kept, names=file["names"], values=file["values"] + 1)
    again = TowerFeatures("tempogram", tmp_path).of(paths, lambda: counted.append(1))
    np.testing.assert_array_equal(again, rows + 1)  # read, not computed
    assert len(counted) == 4


def test_padding_is_not_heard(tmp_path):
    from tiny import clicks

    long, short = clicks(120, 10.0), clicks(120, 5.0)
    for name, wave in (("long", long), ("short", short), ("padded", np.pad(short, (0, len(long) - len(short))))):
        soundfile.write(tmp_path / f"{name}.wav", wave, RATE)
    rows = TowerFeatures("tempogram", tmp_path).of([tmp_path / f"{n}.wav" for n in ("long", "short", "padded")], int)
    means = rows[:, :192]
    # half of silence changes the means more than half of the music alone
    assert np.linalg.norm(means[0] - means[1]) < np.linalg.norm(means[0] - means[2])


def test_nearest_and_probe_find_what_the_features_hold():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((200, 12)).astype(np.float32)
    names = ["high" if row[3] > 0 else "low" for row in x]
    fitted = linear(x[:150], names[:150])
    assert np.mean([fitted(row) == name for row, name in zip(x[150:], names[150:], strict=True)]) > 0.9
    tempi = [f"{100 * np.exp(0.2 * row[5]):.2f}" for row in x]
    fitted = linear(x[:150], tempi[:150])
    # the penalty draws estimates to the mean, but leaves their order
    said = [float(fitted(row)) for row in x[150:]]
    assert np.corrcoef(said, [float(t) for t in tempi[150:]])[0, 1] > 0.95
    assert nearest(x, names)(x[7] * 1.01) == names[7]
    shuffled = linear(x[:150], list(rng.permutation(names[:150])))
    assert np.mean([shuffled(row) == name for row, name in zip(x[150:], names[150:], strict=True)]) < 0.75


def test_only_questions_about_one_recording_get_the_tower(data, tmp_path):
    features = TowerFeatures("tempogram", tmp_path)
    tasks = baselines.with_baselines(TASKS, ["key", "tempo", "theory"], data, "test", features)
    names = {name: [tool.name for tool in task.tools] for name, task in tasks.items()}
    assert names["theory"] == []
    assert names["key"][-2:] == ["nearest TRAIN clip by tempogram features", "linear probe on tempogram features"]
    assert note_tools.KEY.name in names["key"] and len(names["tempo"]) == 3
    free = Task("free", "free", lambda *given: [], lambda answer, item: Verdict(answer, 1.0))
    texts = [Item(str(i), "Describe.", f"caption {i}", (data / "clips" / "test-0.flac",)) for i in range(140)]
    assert [tool.name for tool in tower_tools(free, texts, features)] == ["nearest TRAIN clip by tempogram features"]
    with pytest.raises(EvalError, match="unknown task tmepo"):
        baselines.with_baselines(TASKS, ["tmepo"], data, "test", features)


def test_one_command_measures_all(data, tmp_path):
    save_tiny_text_model(tmp_path / "text")
    app = typer.Typer()
    app.command()(baselines.main)
    words = ["--data", data, "--tasks", "instrument,tempo", "--output", tmp_path / "out", "--tower", "tempogram"]
    words += ["--model", f"cascade:{tmp_path / 'text'}"]
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    # the test clips are TRAIN's clips again: whoever finds them knows the answer
    for task, items in (("instrument", 3), ("tempo", 4)):
        found = summary["tasks"][task]
        assert found["tool: nearest TRAIN clip by tempogram features"]["accuracy"] == 1
        assert {"chance", "majority", "model", "silence", "tool: linear probe on tempogram features"} <= found.keys()
        assert found["model"]["n"] == items
    rows = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    assert {row["condition"] for row in rows if row["task"] == "tempo"} >= {"tool: librosa tempo"}
    shown = (tmp_path / "out" / "baselines.md").read_text()
    assert "nearest TRAIN clip by tempogram features | 100.0 [100.0–100.0]" in shown and "--tower tempogram" in shown
    assert done.stdout == shown


def test_notes_tell_key_and_melody(tune):
    item = Item("1", "?", "D major", (tune,))
    assert list(note_tools.KEY.answers((), [item], lambda: None)) == ["D major"]
    asked = [
        Item(kind, "?", "", (tune,), strata={"of": f"melody_{kind}"})
        for kind in ("lowest", "highest", "range", "first_notes", "contour")
    ]
    *said, contour = note_tools.MELODY.answers((), asked, lambda: None)
    assert said == ["C#4", "D5", "C#4 to D5", "D4 F#4 A4"]
    assert isinstance(contour, Verdict) and contour.parsed is None


def test_a_cascade_is_told_what_tools_heard_and_nothing_of_silence(tune, tmp_path):
    told = heard(recording(tune))
    assert "key: D major" in told and "lowest note: C#4; highest note: D5; first notes: D4 F#4 A4 D5" in told
    assert "one voice" in told and float(told.split("tempo: ")[1].split()[0]) == pytest.approx(120, rel=0.05)
    assert heard(silence(10.0)) == "Tools heard a recording of 10 seconds: it is silent."
    save_tiny_text_model(tmp_path)
    cascade = respondent(f"cascade:{tmp_path}")
    assert isinstance(cascade, Cascade) and cascade.sha256 != respondent(f"text:{tmp_path}").sha256

    def question(sound: Sound) -> list[dict]:
        return [
            {"role": "user", "content": [{"type": "audio", "audio": sound}, {"type": "text", "text": "Which key?"}]}
        ]

    text = respondent(f"text:{tmp_path}")
    broken = Sound("broken", lambda rate: _unreadable(), lambda: 1.0)
    said = cascade.answer([question(silence(10.0)), question(broken)], 8)
    words = [{"role": "user", "content": f"{heard(silence(10.0))}\nWhich key?"}]
    assert said[0] == text.answer([words], 8)[0]
    assert isinstance(said[1], Failure) and "cannot be read" in said[1].reason


def _unreadable() -> np.ndarray:
    from mllm.errors import AudioError

    raise AudioError("it cannot be read")


def test_public_sets_are_probed_on_their_own_train_part(tmp_path, monkeypatch, caplog):
    """Slow and fast clicks as genres, tags, ratings and notes: what the features hold, beside the model."""
    from tiny import clicks

    bench = tmp_path / "bench"
    parts = {"train": range(8), "test": range(8, 12)}
    genres = {i: ("blues", "rock")[i % 2] for i in range(12)}
    rows, notes = ["clip_id\tslow\tfast\tmp3_path"], {"train": {}, "test": {}}
    songs, info = ["song_id,mean_arousal,mean_valence"], ["song_id,Mediaeval 2013 set"]
    for part, numbers in parts.items():
        (bench / "gtzan").mkdir(parents=True, exist_ok=True)
        names = [f"{genres[i]}/{i}.wav" for i in numbers]
        (bench / "gtzan" / f"{part}_filtered.txt").write_text("\n".join(names))
        for i in numbers:
            slow = genres[i] == "blues"
            folder = "0" if part == "train" else "d"
            rows.append(f"{i}\t{int(slow)}\t{int(not slow)}\t{folder}/{i}-0-29.wav")
            songs.append(f"{i},{2.0 if slow else 8.0},5")
            info.append(f"{i},{'development' if part == 'train' else 'evaluation'}")
            notes[part][f"note-{i}"] = {"pitch": 60 + slow, "instrument_family_str": "bass", "instrument_str": str(i)}
            wave = clicks(70 + i if slow else 170 + i, 4.0)
            for place in (
                f"gtzan/genres_original/{genres[i]}/{i}.wav", f"mtt/{folder}/{i}-0-29.wav",
                f"emomusic/clips_45seconds/{i}.mp3", f"nsynth/nsynth-{part}/audio/note-{i}.wav",
            ):  # fmt: skip
                (bench / place).parent.mkdir(parents=True, exist_ok=True)
                soundfile.write(bench / place, wave, RATE)
        (bench / f"nsynth/nsynth-{part}/examples.json").write_text(json.dumps(notes[part]))
    (bench / "mtt/annotations_final.csv").write_text("\n".join(rows))
    (bench / "emomusic/static_annotations.csv").write_text("\n".join(songs))
    (bench / "emomusic/songs_info.csv").write_text("\n".join(info))
    monkeypatch.setenv("MLLM_BENCHMARKS", str(bench))
    (bench / "gtzan/genres_original/blues/0.wav").write_bytes(b"")  # as some of MagnaTagATune's are
    (bench / "mtt/0/1-0-29.wav").unlink()
    save_tiny_text_model(tmp_path / "text")
    tasks = ["gtzan", "mtt", "emomusic_arousal", "nsynth_pitch"]
    model = f"cascade:{tmp_path / 'text'}"
    found = baselines.measure(tmp_path, tasks, tmp_path / "out", model=model, tower="tempogram")["tasks"]
    probe = "tool: linear probe on tempogram features"
    assert [found[name][probe]["n"] for name in tasks] == [4] * 4
    assert found["gtzan"][probe]["accuracy"] == found["nsynth_pitch"][probe]["accuracy"] == 1
    assert found["mtt"][probe]["extras"] == {"mAP": 1, "ROC-AUC": 1}
    assert found["emomusic_arousal"][probe]["extras"]["R²"] > 0.5
    assert caplog.text.count("1 recordings of TRAIN are left out") == 3  # GTZAN has two methods
    assert "majority" in found["gtzan"] and found["gtzan"]["majority"]["accuracy"] == 0.5
