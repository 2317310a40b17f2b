"""The command that a report states: typed again, it asks the same."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from mllm.eval.respondents import Respondent

Options = Mapping[str, Any]
"""Option -> its value: a list is the option again for each, True a flag, None or False nothing."""


def command(program: str, options: Options) -> str:
    """One line that a shell reads back as the program with these options."""
    words = program.split()
    for option, value in options.items():
        if value is True:
            words.append(option)
        elif isinstance(value, list):
            words += [word for one in value for word in (option, str(one))]
        elif value is not None and value is not False:
            words += [option, str(value)]
    return shlex.join(words)


def named(model: str | Respondent, model_name: str = "") -> dict[str, Any]:
    """The options that name a model: what was typed, for a server's own name does not say how to reach it."""
    return {"--model": model if isinstance(model, str) else model.name, "--model-name": model_name or None}


def unless(value: Any, default: Any) -> Any:
    """What need not be said is None: nobody has to read an option that changes nothing."""
    return None if value == default else value


def controls(conditions: Sequence[str], every: Sequence[str], tools: bool) -> dict[str, Any]:
    """The options of `mllm eval` that say which conditions are asked, and whether classical tools answer."""
    if tuple(conditions) == ("model",) and not tools:
        return {"--no-controls": True}
    return {"--conditions": unless(",".join(conditions), ",".join(every)), "--no-tools": not tools}
