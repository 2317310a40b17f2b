"""The command line: what it prints, and one clear line with exit status 1 for whatever is wrong."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import music21
import pytest
import soundfile
from bad_input import BAD_AUDIO, BAD_SCORES, silence, tone
from test_weights import URI, index, own_cache  # noqa: F401  (fixture: an index that breaks)
from tiny import clicks
from tiny_checkpoint import tiny_folder
from typer.testing import CliRunner

from mllm.cli import app

COMMAND = [sys.executable, "-m", "mllm.cli"]
TUNE = "X:1\nT:Scale\nM:4/4\nL:1/4\nQ:1/4=120\nK:C\nCDEF|GABc|cBAG|FEDC|]\n"


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def ask(*files, question="What is the tempo?", options=("--max-new-tokens", 4)):
    return run("ask", "--model", tiny_folder(), *options, *files, question)


def assert_one_line(result, *words):
    """Failed with status 1, said so in one line on stderr, printed nothing else."""
    assert result.exit_code == 1, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1, result.stderr
    assert "Traceback" not in result.stderr
    for word in words:
        assert word in result.stderr


@pytest.fixture
def clip(tmp_path):
    path = tmp_path / "clicks.wav"
    soundfile.write(path, clicks(100), 22_050)
    return path


@pytest.fixture
def tune(tmp_path):
    path = tmp_path / "scale.abc"
    path.write_text(TUNE)
    return path


def test_ask_prints_the_answer_and_nothing_else(clip):
    done = subprocess.run(
        [*COMMAND, "ask", "--model", tiny_folder(), clip, "What is the tempo?", "--max-new-tokens", "4"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() and done.stderr == ""


def test_ask_as_json(clip):
    result = ask(clip, clip, options=("--json", "--max-new-tokens", 4))
    row = json.loads(result.stdout)
    assert row["answer"] and row["files"] == [str(clip)] * 2 and row["question"] == "What is the tempo?"
    assert row["audio_tokens"] == 2 * 58 and row["audio_seconds"] == pytest.approx(20) and row["seconds"] > 0


@pytest.mark.parametrize("kind", ["wav", "flac", "ogg", "mp3"])
def test_ask_hears_every_format(tmp_path, kind):
    path = tmp_path / f"clicks.{kind}"
    soundfile.write(path, clicks(100), 22_050)
    row = json.loads(ask(path, options=("--json", "--max-new-tokens", 2)).stdout)
    assert row["audio_seconds"] == pytest.approx(10, abs=0.1) and row["audio_tokens"] == 58


@pytest.mark.parametrize("kind", ["mid", "abc", "musicxml", "mxl"])
def test_ask_reads_every_notation(tmp_path, kind):
    path = tmp_path / f"scale.{kind}"
    if kind == "abc":
        path.write_text(TUNE)
    else:
        music21.converter.parse(TUNE, format="abc").write({"mid": "midi"}.get(kind, kind), fp=path)
    row = json.loads(ask(path, options=("--json", "--max-new-tokens", 2)).stdout)
    assert row["audio_tokens"] == 0 and row["prompt_tokens"] > 40


def test_a_damaged_checkpoint_is_one_line(tmp_path, clip):
    damaged = tmp_path / "damaged"
    shutil.copytree(tiny_folder(), damaged)
    weights = damaged / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    assert_one_line(run("ask", "--model", damaged, clip, "What?"), "not a checkpoint that can be loaded")


def test_ask_reads_and_hears_a_score(tune):
    read, heard = ask(tune, options=("--json",)), ask(tune, options=("--json", "--hear"))
    assert json.loads(read.stdout)["audio_tokens"] == 0
    assert json.loads(heard.stdout)["audio_tokens"] > 0


@pytest.mark.parametrize(("rate", "channels"), [(8_000, 1), (192_000, 1), (44_100, 8)])
def test_unusual_recordings_are_heard(tmp_path, rate, channels):
    path = tmp_path / "unusual.wav"
    soundfile.write(path, tone(2, rate, channels), rate)
    assert ask(path).exit_code == 0


@pytest.mark.parametrize("kind", BAD_AUDIO)
def test_a_bad_recording_is_one_line(tmp_path, kind):
    path = BAD_AUDIO[kind](tmp_path)
    before = sorted(tmp_path.iterdir())
    assert_one_line(ask(path), path.name)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("kind", BAD_SCORES)
def test_a_bad_score_is_one_line_in_every_verb(tmp_path, kind):
    path = BAD_SCORES[kind](tmp_path)
    before = sorted(tmp_path.iterdir())
    assert_one_line(ask(path), path.name)
    assert_one_line(run("score", "show", path), path.name)
    assert_one_line(run("score", "facts", path), path.name)
    assert_one_line(run("score", "convert", path, tmp_path / "out.mid"), path.name)
    assert_one_line(run("score", "render", path, tmp_path / "out.wav"), path.name)
    assert sorted(tmp_path.iterdir()) == before


def test_missing_files_folders_and_models_are_one_line(tmp_path, clip):
    assert_one_line(ask(tmp_path / "nowhere.mp3"), "nowhere.mp3: no such file")
    assert_one_line(ask(tmp_path), "not a file")
    assert_one_line(run("score", "show", tmp_path / "nowhere.abc"), "no such file")
    assert_one_line(run("ask", "--model", "nonesuch", clip, "What?"), "no model 'nonesuch'", "mini")


def test_too_long_a_prompt_is_one_line(clip):
    assert_one_line(ask(clip, question="word " * 9000), "this model holds 8192")


def test_half_an_hour_is_the_limit(tmp_path):
    assert_one_line(ask(silence(tmp_path / "long.wav", 1801, 8_000, 1)), "long.wav", "30 min")


def test_a_question_without_a_file_is_a_usage_error(clip):
    for words in (["What key is this in?"], [str(clip)], [str(clip), str(clip)]):
        result = run("ask", *words)
        assert result.exit_code == 2 and "then the question" in " ".join(result.stderr.replace("│", " ").split())


def adapter_that_names(text_model, folder: Path) -> Path:
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    bases = {"audio_tower": "tempogram", "language_model": text_model, "projector": {}}
    (folder / "provenance.json").write_text(json.dumps({"bases": bases}))
    return folder


def test_an_interrupted_download_is_one_line(index, tmp_path, clip):  # noqa: F811
    index.break_after = 300_000
    model = adapter_that_names(URI, tmp_path / "adapter")
    result = run("ask", "--model", model, clip, "What?")
    assert_one_line(result, "interrupted after", "goes on from there")


def test_a_wrong_hash_is_one_line(index, tmp_path, clip, monkeypatch):  # noqa: F811
    links = tmp_path / "links.html"
    address = f"http://127.0.0.1:{index.server_port}/files/{index.wheel.name}#sha256={'ab' * 32}"
    links.write_text(f'<a href="{address}">{index.wheel.name}</a>')
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", links.as_uri())
    model = adapter_that_names(URI, tmp_path / "adapter")
    assert_one_line(run("ask", "--model", model, clip, "What?"), "wrong hash", "ab" * 32)


def test_a_cache_that_cannot_be_is_one_line(index, tmp_path, clip, monkeypatch):  # noqa: F811
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("MLLM_CACHE", str(tmp_path / "file" / "cache"))
    model = adapter_that_names(URI, tmp_path / "adapter")
    assert_one_line(run("ask", "--model", model, clip, "What?"), "Point MLLM_CACHE at a folder")


def test_a_full_cache_disk_is_one_line(index, tiny_disk, tmp_path, clip, monkeypatch):  # noqa: F811
    monkeypatch.setenv("MLLM_CACHE", str(tiny_disk))
    model = adapter_that_names(URI, tmp_path / "adapter")
    assert_one_line(run("ask", "--model", model, clip, "What?"), "no room on the disk")


def test_export_writes_a_checkpoint_that_answers_alike_and_overwrites_nothing(tmp_path, clip):
    out = tmp_path / "exported"
    done = run("export", tiny_folder(), out, "--dtype", "bfloat16")
    assert done.exit_code == 0 and str(out) in done.stdout
    assert json.loads((out / "provenance.json").read_text())["licence"] == "Apache-2.0"
    again = run("ask", "--model", out, "--max-new-tokens", 4, clip, "What is the tempo?")
    assert again.stdout == ask(clip).stdout
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    assert_one_line(run("export", tiny_folder(), out), "exists")
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before


def test_export_on_a_full_disk_leaves_nothing(tiny_disk):
    assert_one_line(run("export", tiny_folder(), tiny_disk / "out"), "nothing was left")
    assert list(tiny_disk.iterdir()) == []


def test_score_verbs(tune, tmp_path):
    shown = run("score", "show", tune)
    assert shown.exit_code == 0 and "Scale" in shown.stdout and "C major" in shown.stdout and "K:C" in shown.stdout
    facts = json.loads(run("score", "facts", tune).stdout)
    assert "C major" in json.dumps(facts) and "4/4" in json.dumps(facts)
    midi, back, sound = tmp_path / "scale.mid", tmp_path / "back.abc", tmp_path / "scale.flac"
    assert run("score", "convert", tune, midi, "--transpose", 2).exit_code == 0
    assert "D major" in run("score", "facts", midi).stdout
    assert run("score", "convert", midi, back).exit_code == 0 and "K:D" in back.read_text()
    assert run("score", "render", tune, sound, "--sampling-rate", 22_050).exit_code == 0
    assert soundfile.info(sound).duration == pytest.approx(8, abs=0.2)
    before = tune.read_text()
    assert_one_line(run("score", "convert", tune, tune), "is the file itself")
    assert tune.read_text() == before
    assert_one_line(
        run("score", "convert", tune, tmp_path / "scale.pdf"), "scale.pdf: can write .abc, .mid and .musicxml"
    )
    assert_one_line(run("score", "render", tune, tmp_path / "no" / "scale.wav"), "cannot be written")


def test_data_list_and_show():
    listed = run("data", "list")
    assert listed.exit_code == 0 and "oneill" in listed.stdout and "mini" in listed.stdout
    assert "licence" in run("data", "show", "oneill").stdout
    assert_one_line(run("data", "show", "nonesuch"), "mllm data list")


def test_data_build_and_show(tmp_path):
    built = run("data", "build", "tiny", "--output", tmp_path / "tiny", "--limit", 4, "--workers", 1)
    assert built.exit_code == 0, built.stderr
    shown = run("data", "show", tmp_path / "tiny", "--rows", 1)
    assert '"clips"' in shown.stdout and json.loads(shown.stdout.splitlines()[-1])["messages"]
    assert_one_line(run("data", "build", tmp_path / "none.yaml", "--output", tmp_path / "x"), "none.yaml")


def test_data_check_and_card(tmp_path):
    folder = tmp_path / "tiny"
    assert run("data", "build", "tiny", "--output", folder, "--limit", 4, "--workers", 1).exit_code == 0
    fine = run("data", "check", folder, "--workers", 1, "--output", tmp_path / "report.json")
    assert fine.exit_code == 0 and "fine" in fine.output, fine.output
    assert json.loads((tmp_path / "report.json").read_text())
    card = run("data", "card", folder)
    assert card.exit_code == 0 and "apache-2.0" in (folder / "README.md").read_text()
    next(folder.rglob("train-*.flac")).unlink()
    broken = run("data", "check", folder, "--workers", 1)
    assert broken.exit_code == 1 and "missing" in broken.output
    leaky = tmp_path / "bench.jsonl"
    clip = next(folder.rglob("train-*.flac"))
    leaky.write_text(json.dumps({"id": "1", "audio": str(clip)}))
    assert "benchmark" in run("data", "check", folder, "--workers", 1, "--against", leaky).output
    assert_one_line(run("data", "card", tmp_path / "nowhere"), "nowhere")
    assert_one_line(run("data", "check", tmp_path / "nowhere"), "nowhere")


def test_train_refuses_a_bad_config_in_one_line(tmp_path):
    config = tmp_path / "bad.yaml"
    config.write_text("modle: {}\n")
    assert_one_line(run("train", config, "--output_dir", tmp_path / "out"), "modle", "model")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "verb",
    [
        "",
        "ask",
        "chat",
        "train",
        "eval",
        "export",
        "data",
        "data list",
        "data show",
        "data build",
        "data check",
        "data card",
    ]
    + ["score", "score show", "score facts", "score convert", "score render"],
)
def test_every_verb_teaches_with_an_example(verb):
    shown = run(*verb.split(), "--help")
    assert shown.exit_code == 0
    if verb not in ("data", "score"):
        assert f"mllm {verb}".strip() in shown.stdout


def test_ctrl_c_ends_with_130(clip):
    process = subprocess.Popen(
        [*COMMAND, "ask", "--model", tiny_folder(), clip, "What?", "--max-new-tokens", "8000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # what runs in the background of a script ignores Ctrl-C, and its children with it
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    process.stdout.read(1)  # it answers
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in errors
    assert time.monotonic() - began < 60


def test_full_disk_for_output_is_one_line(tune):
    with open("/dev/full", "w") as full:
        done = subprocess.run([*COMMAND, "score", "facts", tune], stdout=full, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 1 and done.stderr.count(b"\n") == 1 and b"No space left" in done.stderr
