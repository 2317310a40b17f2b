"""Who is asked: our models, models behind an API, language models without ears, constants.

A respondent has `name`, `sha256` (what its answers are remembered under), `at_once` (questions it likes to be given
together) and `answer`. One that can weigh the options of a multiple choice has `option_loglikelihoods` too. The audio
parts of the messages it gets hold a `mllm.eval.sounds.Sound`: samples without a file's name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from mllm.eval.task import Messages

TEXT_MODELS = {"smollm2": "smollm2-135m-instruct"}
"""Short names of pinned language models."""


@dataclass(frozen=True)
class Failure:
    """No answer came: a server's error, a prompt that does not fit. Counted as wrong, and asked again next time."""

    reason: str


class Respondent(Protocol):
    """What the runner needs."""

    name: str
    sha256: str
    at_once: int

    def answer(self, messages: Sequence[Messages], max_new_tokens: int) -> list[str | Failure]:
        """Greedy answers to conversations, in order."""
        ...


@runtime_checkable
class WeighsOptions(Protocol):
    """What can say how likely an answer is."""

    def option_loglikelihoods(
        self, messages: Sequence[Messages], options: Sequence[Sequence[str]]
    ) -> list[list[tuple[float, int]] | Failure]:
        """For each conversation and each option as the whole answer: sum of log-probabilities (nats), and tokens."""
        ...


class Constant:
    """Says the same to everything."""

    at_once = 4096

    def __init__(self, text: str):
        self.text = text
        self.name = f"constant:{text}"
        self.sha256 = hashlib.sha256(self.name.encode()).hexdigest()

    def answer(self, messages: Sequence[Messages], max_new_tokens: int) -> list[str | Failure]:
        return [self.text] * len(messages)


def _text(spec: str, model_name: str) -> Respondent:
    from mllm.eval.local_models import TextModel

    return TextModel(TEXT_MODELS.get(spec, spec))


def _cascade(spec: str, model_name: str) -> Respondent:
    from mllm.eval.cascade import Cascade

    return Cascade(TEXT_MODELS.get(spec, spec))


def _api(spec: str, model_name: str) -> Respondent:
    from mllm.eval.api_model import ApiModel

    return ApiModel(spec, model_name)


def _constant(spec: str, model_name: str) -> Respondent:
    return Constant(spec)


SCHEMES: Mapping[str, Callable[[str, str], Respondent]] = {
    "text:": _text, "cascade:": _cascade, "constant:": _constant,
    "http://": lambda rest, name: _api(f"http://{rest}", name),
    "https://": lambda rest, name: _api(f"https://{rest}", name),
}  # fmt: skip
"""What a model's name begins with -> how it is reached; without any of these it is a music model of ours."""


def respondent(spec: str, model_name: str = "") -> Respondent:
    """The respondent that `--model` names; weights are loaded when it is asked the first thing.

    Args:
        spec: `mini` or the folder of a checkpoint; `text:DIR` or `text:smollm2`; `cascade:smollm2`, which is told
            what classical tools heard; `http://host:port/v1`; `constant:WORDS`.
        model_name: what an API calls the model.

    Raises:
        WeightsError: no such model.
        EvalError: an API without a model's name.
    """
    for scheme, make in SCHEMES.items():
        if spec.startswith(scheme):
            return make(spec.removeprefix(scheme), model_name)
    from mllm.eval.local_models import MusicModel

    return MusicModel(spec)


def folder_hash(folder: Path) -> str:
    """sha256 over config and weights of a model's folder."""
    files = sorted(f for f in folder.glob("*") if f.suffix == ".safetensors" or f.name.endswith("config.json"))
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def weighs_options(asked: Any) -> bool:
    """Whether a respondent can weigh options."""
    return isinstance(asked, WeighsOptions)
