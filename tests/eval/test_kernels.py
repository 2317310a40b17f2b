"""A process that evaluates computes with kernels that round alike, unless it is told to be fast; it says which."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
from tiny_checkpoint import tiny_folder

from mllm.eval.kernels import VARIABLE

HAS_AMX = bool(torch.cpu.get_capabilities().get("amx_tile"))
ROWS = """
import sys, torch
from mllm.eval.kernels import answers_may_differ
from mllm.eval.local_models import MusicModel
from mllm.packed_weights import PackedLinear
MusicModel(sys.argv[1])
maker = torch.Generator().manual_seed(0)
linear = torch.nn.Linear(576, 1536, bias=False)
linear.weight.data.normal_(generator=maker)
rows = torch.randn(300, 576, generator=maker).bfloat16()
with torch.inference_mode():
    layer = PackedLinear(linear.bfloat16())
    whole = layer(rows)
    parts = [torch.cat([layer(some) for some in rows.split(n)]) for n in (2, 40, 150)]
print(answers_may_differ(), all(torch.equal(part, whole) for part in parts))
"""


def plain(**more: str) -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if key != VARIABLE} | more


@pytest.mark.skipif(not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="this CPU multiplies no bfloat16")
def test_rows_are_alike_unless_the_environment_wants_them_fast():
    command = [sys.executable, "-c", ROWS, str(tiny_folder())]
    said = subprocess.run(command, env=plain(), capture_output=True, text=True, check=True).stdout.split()
    assert said == ["False", "True"]
    fast = subprocess.run(command, env=plain(**{VARIABLE: "ALL"}), capture_output=True, text=True, check=True)
    assert fast.stdout.split()[0] == str(HAS_AMX)


def test_a_fast_evaluation_says_so_and_is_not_gone_on_with_slowly(data, tmp_path):
    base = [sys.executable, "-m", "mllm.cli", "eval", "--model", str(tiny_folder()), "--tasks", "key"]
    base += ["--data", str(data), "--limit", "1", "--no-controls", "--output", str(tmp_path)]
    said = subprocess.run([*base, "--fast"], env=plain(), capture_output=True, text=True, check=True).stdout
    run = json.loads((tmp_path / "summary.json").read_text())["run"]
    assert run["command"].endswith("--fast") == HAS_AMX == ("With `--fast`" in said)
    assert run["rounding"] == ("fast" if HAS_AMX else "alike")
    again = subprocess.run(base, env=plain(), capture_output=True, text=True)
    assert again.returncode == (1 if HAS_AMX else 0), again.stderr
    assert ("another rounding" in again.stderr) == HAS_AMX
