"""Nothing that is written may rot: the READMEs' commands run or are understood, and every YAML loads into its type."""

import ast
import dataclasses
import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml
from typer.testing import CliRunner

from mllm.assemble import MODELS

ROOT = Path(__file__).parent.parent
README = "\n".join(
    (ROOT / folder / "README.md").read_text(encoding="utf-8") for folder in (".", "data_recipes", "train", "eval")
)
KNOWN = {"make", "mllm", "accelerate", "pip", "python", "git", "cd", "curl", "pre-commit"}
# These finish in seconds on a small clip; the others train, serve or build for long, so only their options are checked.
REALLY_RUN = {"ask", "score show", "score facts", "score convert", "score render", "data list", "data show"}
HAS_MINI = (ROOT / "mllm" / "mini" / "config.json").is_file()
TUNE = "X:1\nT:A tune\nM:4/4\nL:1/4\nQ:1/4=100\nK:D\nD E F G|A B c d|d c B A|G F E D|]\n"


def blocks(*languages: str) -> list[str]:
    return [m[2] for m in re.finditer(r"^```(\w+)\n(.*?)^```", README, re.M | re.S) if m[1] in languages]


def commands() -> list[str]:
    """Each command of README on one line, without prompt, comment and what a console prints."""
    found = []
    for block in blocks("bash", "sh", "shell", "console"):
        lines = block.replace("\\\n", " ").splitlines()
        if any(line.startswith("$ ") for line in lines):
            lines = [line[2:] for line in lines if line.startswith("$ ")]
        found += [" ".join(line.split()) for line in lines if line.strip() and not line.lstrip().startswith("#")]
    return list(dict.fromkeys(found))


def words(command: str) -> list[str]:
    """The words of the (first) command, without comment, environment settings, pipes and background mark."""
    split = shlex.split(command, comments=True)
    while split and re.fullmatch(r"[A-Z_]+=.*", split[0]):
        split = split[1:]
    ends = [i for i, word in enumerate(split) if word in {"|", ">", "&&", "&", ";"}]
    return split[: ends[0]] if ends else split


MLLM = [command for command in commands() if words(command)[0] == "mllm"]


def verb_of(split: list[str]) -> str:
    return " ".join(split[1:3]) if split[1:2] and split[1] in {"data", "score"} else " ".join(split[1:2])


def test_readme_has_the_two_commands():
    assert {"make chat", "make test"} <= {" ".join(words(command)) for command in commands()}


@pytest.mark.parametrize("command", commands())
def test_command_is_known(command):
    split = words(command)
    assert split[0] in KNOWN, f"README uses {split[0]!r}"
    if split[0] == "make":
        subprocess.run(["make", "-n", *split[1:]], cwd=ROOT, check=True, capture_output=True)
    if split[0] == "cd":
        assert split[1] in {"mllm"} or (ROOT / split[1]).is_dir()
    if split[0] == "pip" and "install" in split:
        assert "constraints.txt" in split, "an unpinned torch pulls gigabytes: -c constraints.txt"
    if "-m" in split and split[0] in {"python", "accelerate"}:
        assert importlib.util.find_spec(split[split.index("-m") + 1]), command
    for word in split[1:]:
        if re.match(r"(train|data_recipes|eval|serve|tests|mllm|scripts)/", word):
            assert (ROOT / word).exists(), f"{word} does not exist"


@pytest.mark.parametrize("command", MLLM)
def test_mllm_command_knows_its_options(command):
    from mllm.cli import app

    split = words(command)
    verb = verb_of(split).split()
    answer = CliRunner(env={"COLUMNS": "200", "TERM": "dumb"}).invoke(app, [*verb, "--help"])
    assert answer.exit_code == 0, answer.output
    for word in split[1 + len(verb) :]:
        if word.startswith("--"):
            assert word.partition("=")[0] in answer.output, f"mllm {' '.join(verb)} has no {word}"


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Ten seconds of a scale, as sound and as a score."""
    seconds = np.arange(10 * 22050) / 22050
    pitch = 220 * 2 ** (np.array([0, 2, 4, 5, 7, 9, 11, 12])[(seconds * 2).astype(int) % 8] / 12)
    sound = 0.2 * np.sin(2 * np.pi * np.cumsum(pitch) / 22050)
    return sound.astype(np.float32)


def provide(folder: Path, name: str, sound: np.ndarray) -> None:
    """Put the file that a command names into `folder`, so that it can be run as it stands."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = path.suffix.lower()
    if kind in {".wav", ".flac", ".ogg", ".mp3"}:
        soundfile.write(path, sound, 22050)
    elif kind == ".abc":
        path.write_text(TUNE)
    elif kind in {".mid", ".midi", ".musicxml", ".mxl", ".xml"}:
        from music21 import converter

        score = converter.parse(TUNE, format="abc")
        score.write({".mid": "midi", ".midi": "midi", ".mxl": "mxl"}.get(kind, "musicxml"), fp=path)


@pytest.mark.parametrize("command", [c for c in MLLM if verb_of(words(c)) in REALLY_RUN])
def test_mllm_command_runs_as_written(command, tmp_path, clip):
    if words(command)[1] == "ask" and not HAS_MINI:
        pytest.skip("the trained mini is not in this tree")
    verb, given = verb_of(words(command)), words(command)[2:]
    made = {b for a, b in zip(given, given[1:], strict=False) if a in {"-o", "--output"}}
    if verb in {"score convert", "score render"}:
        made.add([word for word in given if re.search(r"\.\w+$", word)][-1])
    for word in given:
        if re.search(r"\.(wav|flac|ogg|mp3|abc|midi?|musicxml|mxl)$", word) and not (ROOT / word).exists():
            if word not in made:
                provide(tmp_path, word, clip)
        elif (ROOT / word).exists() and "/" in word and not (tmp_path / word).exists():
            (tmp_path / word).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / word).symlink_to(ROOT / word)
        elif word.startswith("runs/"):  # the reader's own model: any will do
            (tmp_path / word).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / word).symlink_to(MODELS["mini"])
    mllm = [sys.executable, "-c", "from mllm.cli import app; app()"]
    done = subprocess.run([*mllm, *words(command)[1:]], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() or any(tmp_path.iterdir())


@pytest.mark.parametrize("code", blocks("python"))
def test_python_block_runs(code, tmp_path, clip):
    ast.parse(code)
    if "load(" in code and not HAS_MINI:
        pytest.skip("the trained mini is not in this tree")
    for name in re.findall(r"""["']([\w./-]+\.(?:wav|flac|ogg|mp3|abc|midi?|musicxml|mxl))["']""", code):
        provide(tmp_path, name, clip)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_links_and_pictures_lead_somewhere():
    documents = [p for p in ROOT.glob("*.md") if p.name != "CHANGELOG.md"]
    for document in documents:
        text = re.sub(r"^```.*?^```", "", document.read_text(encoding="utf-8"), flags=re.M | re.S)
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
            if not re.match(r"[a-z]+:", target):
                assert (document.parent / target).exists(), f"{document.name} links to {target}"


def yaml_files() -> list[str]:
    listed = subprocess.run(
        ["git", "ls-files", "*.yaml", "*.yml"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return [name for name in listed.stdout.split() if (ROOT / name).is_file()]


@pytest.mark.parametrize("name", yaml_files())
def test_yaml_is_valid(name):
    path = ROOT / name
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert content, f"{name} is empty"
    if name.startswith("train/configs/"):
        from transformers import TrainingArguments

        from mllm.train.config import load_config

        config = load_config(path)
        unknown = set(config.training) - {field.name for field in dataclasses.fields(TrainingArguments)}
        assert not unknown, f"{name}: TrainingArguments has no {unknown}"
    elif name.startswith("train/accelerate/"):
        from accelerate.commands.config.config_args import load_config_from_file

        assert load_config_from_file(str(path)).distributed_type
    elif name.startswith("data_recipes/mixtures/"):
        from mllm.data_recipes.config import load_mixture

        assert load_mixture(path).sources
    elif name.startswith("data_recipes/recipes/"):
        from mllm.data_recipes.config import load_recipe

        assert load_recipe(path.stem).licence
