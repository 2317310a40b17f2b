"""Which products oneDNN computes with: those that give a row the same bits beside any others, or the fastest.

On processors with AMX, oneDNN takes tiles for some numbers of rows and vectors for others, which sum in other steps; so
does the attention of PyTorch. Then 15 % of `mini`'s answers depend on what is asked in the same batch (104 prompts of
ours, 160 of ZIQI-Eval; LOG, 2026-11-27). Without AMX none does, and an evaluation takes 2.6 times as long.

oneDNN reads the variable when it computes for the first time in a process:
https://uxlfoundation.github.io/oneDNN/dev_guide_cpu_dispatcher_control.html
"""

from __future__ import annotations

import os

import torch

VARIABLE, ALIKE, FASTEST = "ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16", "ALL"


def choose_kernels(fastest: bool = False) -> None:
    """Set what the environment does not say. Before anything is computed; later it changes nothing."""
    os.environ.setdefault(VARIABLE, FASTEST if fastest else ALIKE)


def answers_may_differ() -> bool:
    """Whether kernels were chosen with which an answer may depend on what else is asked."""
    chosen = os.environ.get(VARIABLE, ALIKE).upper()
    return bool(torch.cpu.get_capabilities().get("amx_tile")) and (chosen in (FASTEST, "DEFAULT") or "AMX" in chosen)
