"""`mllm compose`: let a model write a tune, on from one, a variation, or chords to it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mllm.cli_model import load_quietly
from mllm.cli_score import existing, notated
from mllm.errors import ScoreError

if TYPE_CHECKING:
    from mllm.score_types import Key, Score

_RANGE = re.compile(r"\s*([A-G][#b]?-?\d)\s*(?:-|to)\s*([A-G][#b]?-?\d)\s*")


def compose(
    output: Annotated[Path, typer.Argument(metavar="OUTPUT", help="abc, mid or musicxml.", show_default=False)],
    task: Annotated[str, typer.Option(help="free, continuation, variation or harmonization.")] = "free",
    source: Annotated[
        Path | None, typer.Option("--from", help="The tune to go on from: abc, mid, musicxml, mxl or krn.")
    ] = None,
    tune: Annotated[
        int | None, typer.Option("--tune", "--number", help="Of a tune book in --from: the X: of the tune.")
    ] = None,
    key: Annotated[str | None, typer.Option(help='Such as G, Dm or "D dorian".')] = None,
    metre: Annotated[str | None, typer.Option(help="Such as 6/8.")] = None,
    bars: Annotated[int | None, typer.Option(help="Full bars of the whole tune.")] = None,
    pitches: Annotated[str | None, typer.Option("--range", help="Of the first voice, such as C4-A5.")] = None,
    tempo: Annotated[float | None, typer.Option(help="Quarter notes a minute.")] = None,
    voices: Annotated[int | None, typer.Option(help="1 to 4.")] = None,
    pickup: Annotated[float | None, typer.Option(help="Quarters before the first full bar.")] = None,
    style: Annotated[str, typer.Option(help="A word or two, such as jig.")] = "",
    title: Annotated[str, typer.Option(help="Of the new tune.")] = "",
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same tune.")] = None,
    temperature: Annotated[float, typer.Option(min=0.0, max=5.0, help="0: the likeliest token each time.")] = 1.0,
    top_p: Annotated[
        float, typer.Option(min=0.01, max=1.0, help="Draw from the likeliest tokens of this much.")
    ] = 0.95,
    model: Annotated[
        str, typer.Option("--model", "-m", help="`mini`, or the folder of a checkpoint or adapter.")
    ] = "mini",
) -> None:
    """Write a tune whose bars are full and whose header says that a model wrote it.

    mllm compose tune.abc --key G --metre 6/8 --bars 16 --range D4-B5 --style jig

    mllm compose longer.musicxml --task continuation --from tune.abc --bars 32

    mllm compose chords.abc --task harmonization --from tune.abc
    """
    from mllm.composed_files import check_suffix, write_composition
    from mllm.composing import compose as write
    from mllm.composing_tasks import Request, plan

    check_suffix(output)
    if tune is not None and source is None:
        raise ScoreError(f"--tune {tune}: there is no --from that it is of")
    lowest, highest = read_range(pitches) if pitches else (None, None)
    request = Request(
        task=task,
        source=_source(source, output, tune) if source else None,
        key=_key(key) if key else None,
        metre=_metre(metre) if metre else None,
        bars=bars,
        lowest=lowest,
        highest=highest,
        tempo=tempo,
        voices=voices,
        pickup=pickup,
        style=style,
        title=title,
    )
    plan(request)  # what cannot be done is said before the model is loaded
    piece = write(load_quietly(model), request, temperature=temperature, top_p=top_p, seed=seed)
    write_composition(piece, output)
    kept = ", ".join(name for name, held in piece.obeyed.items() if held)
    missed = ", ".join(name for name, held in piece.obeyed.items() if not held)
    typer.echo(f"{output}: {len(piece.score.notes)} notes; as asked: {kept}{f'; not: {missed}' if missed else ''}")


def _source(path: Path, output: Path, number: int | None) -> Score:
    """The tune to go on from; of a book without a number the first, and that is said."""
    from mllm.score import tune_numbers

    existing(path)
    if output.exists() and output.samefile(path):
        raise ScoreError(f"{output}: is the source itself: name another file")
    score = notated(path, number)
    if path.suffix.lower() == ".abc" and number is None:
        numbers = tune_numbers(path.read_bytes().decode("latin-1"))
        if len(numbers) > 1:
            typer.echo(f"{path}: the first of {len(numbers)} tunes, X:{numbers[0]}; --tune takes another", err=True)
    elif path.suffix.lower() != ".abc" and number is not None:
        raise ScoreError(f"--tune {number}: {path} is no tune book, it holds one score")
    return score


def _key(text: str) -> Key:
    from mllm.abc_fields import read_key

    try:
        key, _ = read_key(text)
    except ScoreError:
        key = None
    if key is None:
        raise ScoreError(f'key {text!r}: give a tonic and a mode, such as G, "F# minor" or "D dorian"')
    return key


def _metre(text: str) -> tuple[int, int]:
    from mllm.abc_fields import read_metre

    try:
        metre = read_metre(text)
    except ScoreError:
        metre = None
    if metre is None:
        raise ScoreError(f"metre {text!r}: give two numbers, such as 6/8")
    return metre


def read_range(text: str) -> tuple[int, int]:
    """MIDI pitches of a range such as "C4-A5" or "Bb3 to D5"; ScoreError for what is none."""
    from pretty_midi import note_name_to_number

    match = _RANGE.fullmatch(text)
    if match is None:
        raise ScoreError(f"range {text!r}: give the lowest and the highest note, such as C4-A5")
    return note_name_to_number(match[1]), note_name_to_number(match[2])
