"""How much faster an evaluation asks than one `generate` after the other, and whether the answers are the same.

    python -m mllm.eval.throughput_bench --model mini --data runs/data/mini --limit 16 --every 8

runs `mllm eval` on all tasks of ours with every control, and then gives each eighth prompt by itself to transformers'
`generate`. Recordings are heard before either is timed. An evaluation asks equal prompts once (controls have many: each
task's questions about silence), so there are two figures: over different prompts, and over all that is asked.
Ends in one line of JSON.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.progress import track

from mllm.assemble import load_model
from mllm.errors import MllmError
from mllm.eval.answers import read_records
from mllm.eval.controls import CONDITIONS
from mllm.eval.local_models import MusicModel
from mllm.eval.respondents import Failure
from mllm.eval.run import evaluate
from mllm.eval.task import Messages


class TimedModel(MusicModel):
    """A model that remembers what it was asked, what it said, and how long that took.

    Attributes:
        asked: different prompts with the most tokens of an answer. said: the answers to them. seconds: without hearing.
    """

    def __init__(self, spec: str):
        super().__init__(spec)
        self.asked: list[tuple[Messages, int]] = []
        self.said: list[str] = []
        self.seconds = 0.0

    def answer(self, messages: Sequence[Messages], max_new_tokens: int) -> list[str | Failure]:
        self._prompts(messages, max_new_tokens)
        begun = time.perf_counter()
        answers = super().answer(messages, max_new_tokens)
        self.seconds += time.perf_counter() - begun
        for one, answer in zip(messages, answers, strict=True):
            if not isinstance(answer, Failure):
                self.asked.append((one, max_new_tokens))
                self.said.append(answer)
        return answers


@torch.inference_mode()
def one_by_one(model: TimedModel, every: int = 1) -> tuple[list[str], float]:
    """Answers to each `every`-th prompt by transformers' `generate`, with weights as they were loaded, and the seconds.

    The seconds are those of all prompts, if the others take as long as these.
    """
    plain, processor = load_model(model.name)
    said, begun = [], 0.0
    for place, (messages, most) in enumerate(track(model.asked[::every], "one by one")):
        if place == 1:  # the first one is not timed
            begun = time.perf_counter()
        prompt = model.embed(messages)[None]
        tokens: Any = plain.generate(
            inputs_embeds=prompt, attention_mask=torch.ones(prompt.shape[:2], dtype=torch.long), do_sample=False,
            max_new_tokens=most,
        )  # fmt: skip
        said.append(processor.tokenizer.decode(tokens[0], skip_special_tokens=True).strip())
    seconds = time.perf_counter() - begun
    return said, seconds * len(model.asked) / max(1, len(said) - 1)


def measure(model: str, data: Path, limit: int, tasks: Sequence[str] | None = None, every: int = 1) -> dict[str, Any]:
    """What both ways take.

    {"questions" asked, "prompts" that differ, "tokens" of the answers, "batched" and "one_by_one" in seconds for all
    prompts, "times" one by the other, "times_of_questions" as equal prompts are asked once, "compared" answers,
    "same" as one `generate` gives among them, "same_alone" as the evaluation's own way gives to that prompt alone}.
    Raises EvalError, WeightsError.
    """
    asked = TimedModel(model)
    with tempfile.TemporaryDirectory(prefix="mllm-throughput-") as folder:
        evaluate(asked, tasks, data, folder, limit, tools=False)
        questions = sum(record["condition"] in CONDITIONS for record in read_records(Path(folder)))
    said, seconds = one_by_one(asked, every)
    some, before = asked.asked[::every], asked.said[::every]
    alone = [MusicModel.answer(asked, [messages], most)[0] for messages, most in track(some, "alone")]
    times = seconds / asked.seconds
    return {
        "questions": questions, "prompts": len(asked.said),
        "tokens": sum(len(asked.tokenizer(one)["input_ids"]) for one in asked.said),
        "batched": asked.seconds, "one_by_one": seconds, "times": times,
        "times_of_questions": times * questions / len(asked.said), "compared": len(said),
        "same": sum(one == other for one, other in zip(said, before, strict=True)),
        "same_alone": sum(one == other for one, other in zip(alone, before, strict=True)),
    }  # fmt: skip


def main(
    model: Annotated[str, typer.Option("--model", "-m", help="`mini`, or the folder of a checkpoint.")] = "mini",
    data: Annotated[Path, typer.Option(help="A folder made by `mllm data build`.")] = Path("runs/data/mini"),
    limit: Annotated[int, typer.Option(min=1, help="Items a task.")] = 2,
    tasks: Annotated[str, typer.Option(help="Comma-separated; empty: all of ours.")] = "",
    every: Annotated[int, typer.Option(min=1, help="One by one goes each prompt with such a number only.")] = 1,
) -> None:
    """Measure how much faster an evaluation asks than one `generate` after the other."""
    try:
        found = measure(model, data, limit, tasks.split(",") if tasks else None, every)
    except MllmError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error
    for name, value in found.items():
        typer.echo(f"{name:18s} {value:.4g}" if isinstance(value, float) else f"{name:18s} {value}")
    typer.echo(json.dumps({"model": model, "data": str(data), "limit": limit, "every": every, **found}))


if __name__ == "__main__":
    typer.run(main)
