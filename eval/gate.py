"""A gate for CI: a run passes where its listening gains stay above what is asked for."""

from __future__ import annotations

from typing import Any

from mllm.eval.task import EvalError

LISTENING = "listening"
"""The name that stands for every task about sound."""


def read_gate(text: str) -> dict[str, float]:
    """`listening=0.2,key=0.5` -> {"listening": 0.2, "key": 0.5}. Raises EvalError for anything else."""
    out: dict[str, float] = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        try:
            out[name.strip()] = float(value)
        except ValueError as error:
            raise EvalError(f"--gate {text!r}: write NAME=GAIN, as in listening=0.2 or key=0.5,tempo=0.3") from error
    return out


def failures(summary: dict[str, Any], gate: dict[str, float]) -> list[str]:
    """What does not pass: tasks whose gain's lower end lies below; a gate that no task answers to fails too."""
    out = []
    for name, least in gate.items():
        about = {
            task: conditions.get("model", {})
            for task, conditions in summary["tasks"].items()
            if task == name or (name == LISTENING and conditions.get("model", {}).get("medium") == "audio")
        }
        gains = {task: model["gain"] for task, model in about.items() if "gain" in model}
        if not gains:
            out.append(f"{name}: no task of this run has such a gain")
        out += [
            f"{task}: gain {gain['points']:.3f} [{gain['low']:.3f}, {gain['high']:.3f}] over {gain['against']}, "
            f"its lower end must be {least:g} or more"
            for task, gain in gains.items()
            if gain["low"] < least
        ]
    return out
