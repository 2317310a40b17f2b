"""The command line: one typer app. Each verb imports its room when it runs, so `mllm --help` is instant."""

from __future__ import annotations

import json
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from mllm.cli_compose import compose
from mllm.cli_model import ModelName, load_quietly
from mllm.cli_score import score_verbs
from mllm.data_recipes.command_line import data_verbs
from mllm.errors import MllmError, PromptError
from mllm.serve.command_line import chat, serve
from mllm.train.command_line import train

# The extra that a verb needs beyond the library itself, by the package that is missing without it.
EXTRAS = {
    "gradio": "serve",
    "fastapi": "serve",
    "uvicorn": "serve",
    "sse_starlette": "serve",
    "openai": "serve",
    "prometheus_client": "serve",
    "accelerate": "train",
    "pydantic": "data",
    "pyarrow": "data",
    "librosa": "eval",
    "xgrammar": "grammar",
    "mir_eval": "eval",
}


class Verbs(TyperGroup):
    """Ends every verb that fails for a known reason with one line on stderr and status 1; Ctrl-C with 130."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise
        except (MllmError, OSError, ModuleNotFoundError) as error:
            typer.echo(f"error: {_one_line(error)}", err=True)
            raise typer.Exit(1) from error
        except KeyboardInterrupt as error:
            typer.echo("stopped", err=True)
            raise typer.Exit(130) from error


def _one_line(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError):
        missing = (error.name or "").partition(".")[0]
        if missing not in EXTRAS:
            raise error
        return f"this needs the package {missing}: run `pip install 'mllm[{EXTRAS[missing]}]'`"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return " ".join(str(error).split())


app = typer.Typer(
    cls=Verbs,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="rich",
)
app.add_typer(score_verbs, name="score")
app.add_typer(data_verbs, name="data")
app.command()(compose)


@app.callback()
def start() -> None:
    """Music language models: hear a recording, read a score, answer in words or in notation.

    Start with  [bold]mllm ask song.mp3 "What key is this in?"[/bold]
    or          [bold]mllm chat[/bold]   for a page in the browser.
    """
    # Before transformers is imported: its bars and warnings speak to developers, not to who asks about a song.
    for name, value in {
        "TRANSFORMERS_VERBOSITY": "error",
        "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }.items():
        os.environ.setdefault(name, value)
    warnings.simplefilter("ignore")
    logging.basicConfig(level=logging.ERROR, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")


@app.command()
def ask(
    words: Annotated[list[str], typer.Argument(metavar="FILE... QUESTION", show_default=False)],
    model: ModelName = "mini",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object with answer, time and tokens.")
    ] = False,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 64,
    hear: Annotated[bool, typer.Option("--hear", help="Play scores to the model as well as showing them.")] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Hold what the answer claims against the files: docs/verification.md.")
    ] = False,
) -> None:
    """Ask one question about recordings and scores.

    Recordings: wav, flac, ogg, mp3, aiff, up to 30 minutes. Scores: abc, mid, musicxml, mxl, krn.

      mllm ask song.mp3 "What key is this in?"

      mllm ask --hear tune.abc "Describe this."

      mllm ask --verify tune.abc "Describe this."
    """
    *files, question = words
    if not files or (os.path.isfile(question) and not question.endswith("?")):
        raise typer.BadParameter(
            'give at least one file and then the question: mllm ask song.mp3 "What key is this in?"',
            param_hint="FILE... QUESTION",
        )
    for file in files:
        if not Path(file).is_file():
            raise PromptError(f"{file}: no such file" if not Path(file).exists() else f"{file}: not a file")
    if verify:
        _need_estimators(files)  # before the model is loaded for nothing
    music = load_quietly(model)
    with _hearing_bar() as progress:
        pieces = music.stream(
            [music.question(files, question, hear=hear)], max_new_tokens=max_new_tokens, progress=progress
        )
        answer = _print_pieces(pieces, echo=not as_json)
    verdicts = _verdicts(str(answer), files, question) if verify else None
    if as_json:
        row = {"answer": str(answer), "model": model, "files": files, "question": question} | vars(answer)
        claims = {} if verdicts is None else {"claims": [verdict.to_dict() for verdict in verdicts]}
        typer.echo(json.dumps(row | claims))
    elif verdicts is not None:
        _print_verdicts(verdicts)


def _need_estimators(files: list[str]) -> None:
    from mllm.processing import is_score

    if not all(is_score(file) for file in files):
        import librosa  # noqa: F401 - what is missing is told by `_one_line`


def _verdicts(answer: str, files: list[str], question: str) -> list[Any]:
    from transformers.utils import logging

    from mllm.verification import verify

    logging.disable_progress_bar()  # of the weights of Basic Pitch
    return verify(answer, files, question=question)


def _print_verdicts(verdicts: list[Any]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    if not verdicts:
        typer.echo("no claims about the music were found in this answer")
        return
    colours = {"verified": "green", "contradicted": "red", "cannot tell": "yellow"}
    table = Table("claim", "verdict", "found", "tolerance", "evidence")
    for v in verdicts:
        said = ("not: " if v.claim.negated else "") + v.claim.text
        cells = (v.found or "–", v.tolerance, v.evidence + (f" ({v.source})" if v.source else ""))
        # Text, not markup: an answer may hold brackets that rich would read as styles
        table.add_row(Text(said), Text(v.verdict, colours[v.verdict]), *map(Text, cells))
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def _print_pieces(pieces: Iterator[str], echo: bool) -> Any:
    """Print the pieces as they come; returns the `Answer` that the iterator ends with."""
    begun = False
    while True:
        try:
            piece = next(pieces)
        except StopIteration as end:
            if echo:
                typer.echo("")
            return end.value
        if echo:
            piece = piece if begun else piece.lstrip()
            begun = begun or bool(piece)
            typer.echo(piece, nl=False)


@contextmanager
def _hearing_bar() -> Iterator[Any]:
    """A progress callback that shows a bar on a terminal's stderr while a long recording is heard."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    bar = Progress(
        TextColumn("listening"), BarColumn(), TimeRemainingColumn(), console=Console(stderr=True), transient=True
    )
    task = bar.add_task("listening")

    def progress(done: int, total: int) -> None:
        if done < total:
            bar.start()
        bar.update(task, completed=done, total=total)
        if done >= total:
            bar.stop()

    try:
        yield progress
    finally:
        bar.stop()


app.command()(chat)
app.command()(serve)
app.command()(train)


@app.command("eval")
def evaluate_model(
    output: Annotated[Path | None, typer.Option(help="Folder for the results; goes on where it stopped.")] = None,
    model: Annotated[
        str,
        typer.Option(
            "--model",
            "-m",
            help="`mini`, the folder of a checkpoint, `text:smollm2`, `text:DIR`, `http://host:port/v1`.",
        ),
    ] = "mini",
    model_name: Annotated[str, typer.Option(help="What a server calls the model; its key: OPENAI_API_KEY.")] = "",
    tasks: Annotated[str | None, typer.Option(help="Comma-separated, such as key,tempo; default all.")] = None,
    data: Annotated[Path, typer.Option(help="Folder that `mllm data build` made.")] = Path("runs/data/mini"),
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many items a task.")] = None,
    split: Annotated[str, typer.Option(help="test, or validation while something is still being chosen.")] = "test",
    seed: Annotated[int, typer.Option(help="Of what a task draws.")] = 0,
    beside: Annotated[list[str] | None, typer.Option(help="Ask this model too, such as text:smollm2.")] = None,
    controls: Annotated[bool, typer.Option(help="Also silence, noise, text alone, swapped clips, tools.")] = True,
    conditions: Annotated[str | None, typer.Option(help="These controls alone, such as model,silence.")] = None,
    tools: Annotated[bool | None, typer.Option(help="Whether classical tools answer; default as --controls.")] = None,
    fit_clips: Annotated[int, typer.Option(min=1, help="TRAIN clips that fitted tools learn from.")] = 800,
    fast: Annotated[
        bool,
        typer.Option(
            "--fast", help="AMX too, where there is any: 2.6 times as fast, but answers may depend on others."
        ),
    ] = False,
    gate: Annotated[str | None, typer.Option(help="Exit with 1 below these gains, such as listening=0.2.")] = None,
    compare: Annotated[
        tuple[Path, Path] | None, typer.Option(metavar="RUN_A RUN_B", help="Compare two runs instead of asking.")
    ] = None,
) -> None:
    """Score a model on held-out items, beside chance, silence and classical tools; prints the table.

    mllm eval --model mini --tasks key,tempo --data runs/data/mini --limit 100 --output runs/eval

    mllm eval --model http://127.0.0.1:8000/v1 --model-name mini --limit 20 --output runs/eval-api

    mllm eval --compare runs/eval-before runs/eval-after
    """
    if compare:
        from mllm.eval.compare import compare as compared
        from mllm.eval.compare import markdown

        typer.echo(markdown(compared(*compare)), nl=False)
        return
    if output is None:
        raise typer.BadParameter("name a folder for scores and answers", param_hint="--output")
    from mllm.eval.controls import CONDITIONS
    from mllm.eval.gate import failures, read_gate
    from mllm.eval.kernels import choose_kernels
    from mllm.eval.run import evaluate

    wanted = [task.strip() for task in tasks.split(",") if task.strip()] if tasks else None
    asked = tuple(CONDITIONS) if controls else ("model",)
    if conditions:
        asked = tuple(name.strip() for name in conditions.split(",") if name.strip())
    least = read_gate(gate) if gate else {}
    choose_kernels(fastest=fast)
    summary = evaluate(
        model, wanted, data, output, limit, model_name=model_name, split=split, seed=seed, beside=beside or (),
        fit_clips=fit_clips, conditions=asked, tools=controls if tools is None else tools,
    )  # fmt: skip
    typer.echo((output / "table.md").read_text(encoding="utf-8"), nl=False)
    if failed := failures(summary, least):
        for line in failed:
            typer.echo(f"gate: {line}", err=True)
        raise typer.Exit(1)


@app.command()
def export(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="`mini`, or the folder of an adapter.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="New folder for the checkpoint.")],
    dtype: Annotated[str, typer.Option(help="bfloat16, float16 or float32.")] = "bfloat16",
) -> None:
    """Merge an adapter into its bases and write one self-contained checkpoint for `from_pretrained` and `--model`.

    mllm export mini exported/mini
    """
    if dtype not in ("bfloat16", "float16", "float32"):
        raise typer.BadParameter("must be bfloat16, float16 or float32", param_hint="--dtype")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise PromptError(f"{folder} exists and is not an empty folder: choose a new one or remove it")
    import torch

    from mllm.assemble import save_model

    music = load_quietly(model, dtype=getattr(torch, dtype))
    save_model(music.model, music.processor, folder, music.provenance | {"exported_from": model, "dtype": dtype})
    typer.echo(f'{folder}: written; try it with `mllm ask --model {folder} song.mp3 "What key is this in?"`')


if __name__ == "__main__":
    app()
