"""`mllm score`: look at notation, state its facts, convert it, play it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from mllm.errors import ScoreError

score_verbs = typer.Typer(no_args_is_help=True, help="Work with scores: show, facts, convert, render.")
ScoreFile = Annotated[str, typer.Argument(metavar="FILE", help="abc, mid, musicxml, mxl or krn.")]
OutputFile = Annotated[Path, typer.Argument(metavar="OUTPUT", show_default=False)]


@score_verbs.command()
def show(file: ScoreFile) -> None:
    """Title, facts in words, and the notes as ABC text.

    mllm score show tune.mid
    """
    from mllm.score import facts, read_score, to_abc

    score = read_score(_existing(file))
    for name, value in facts(score).items():
        if value not in (None, False) and (words := _words(value).strip()):
            typer.echo(f"{name.replace('_', ' '):<14} {words}")
    typer.echo("\n" + to_abc(score).strip())


@score_verbs.command("facts")
def print_facts(file: ScoreFile) -> None:
    """What is exactly true of a score, as JSON: key, metre, tempo, bars, notes, range, contour, first notes.

    mllm score facts tune.musicxml
    """
    from mllm.score import facts, read_score

    typer.echo(json.dumps(facts(read_score(_existing(file))), indent=1, ensure_ascii=False, default=str))


@score_verbs.command()
def convert(
    file: ScoreFile, output: OutputFile, transpose: Annotated[int, typer.Option(help="Semitones.")] = 0
) -> None:
    """Write a score in another format: .abc, .mid or .musicxml, by the suffix of OUTPUT.

    mllm score convert tune.musicxml tune.abc

    mllm score convert tune.abc tune.musicxml

    mllm score convert tune.abc higher.mid --transpose 2
    """
    from mllm.score import Score, read_score, to_abc, to_midi, to_musicxml
    from mllm.score import transpose as move

    def abc(score: Score) -> bytes:
        return (to_abc(score).strip() + "\n").encode()

    writers = {".abc": abc, ".mid": to_midi, ".midi": to_midi, ".musicxml": to_musicxml, ".xml": to_musicxml}
    writer = writers.get(output.suffix.lower())
    if writer is None:
        suffix = output.suffix or "a file without suffix"
        raise ScoreError(f"{output}: can write .abc, .mid and .musicxml, not {suffix}")
    source = _existing(file)
    if output.exists() and output.samefile(source):
        raise ScoreError(f"{output}: is the file itself, whose lyrics and chord symbols would be lost: name another")
    score = move(read_score(source), transpose)
    data = writer(score)
    _write(output, lambda path: path.write_bytes(data))
    typer.echo(f"{output}: {len(score.notes)} notes")


@score_verbs.command()
def render(
    file: ScoreFile,
    output: OutputFile,
    soundfont: Annotated[Path | None, typer.Option(help="An .sf2 file; default TimGM6mb.")] = None,
    sampling_rate: Annotated[int, typer.Option(min=8000, max=192_000, help="Hz.")] = 44_100,
) -> None:
    """Play a score into a sound file: .wav, .flac or .ogg, by the suffix of OUTPUT.

    mllm score render tune.abc tune.flac
    """
    import soundfile

    from mllm.score import read_score, to_midi
    from mllm.synthesis import render as play

    kinds = {".wav": "WAV", ".flac": "FLAC", ".ogg": "OGG"}
    kind = kinds.get(output.suffix.lower())
    if kind is None:
        raise ScoreError(f"{output}: can write {', '.join(kinds)}, not {output.suffix or 'a file without suffix'}")
    samples = play(to_midi(read_score(_existing(file))), soundfont, sampling_rate)
    _write(output, lambda path: soundfile.write(path, samples, sampling_rate, format=kind))
    typer.echo(f"{output}: {len(samples) / sampling_rate:.1f} s")


def _existing(file: str) -> Path:
    """The path, checked: `read_score` takes ABC text as well, and a mistyped name must not be read as a tune."""
    path = Path(file)
    if not path.is_file():
        raise ScoreError(f"{file}: no such file" if not path.exists() else f"{file}: not a file")
    return path


def _write(output: Path, write: Any) -> None:
    """Let `write(path)` make the file beside `output` and move it there when whole: never half a file."""
    part = output.with_name(f".{output.name}.part")
    try:
        write(part)
        part.replace(output)
    except (OSError, RuntimeError) as error:  # soundfile's errors are RuntimeErrors
        reason = getattr(error, "strerror", None) or str(error)
        raise ScoreError(f"{output}: cannot be written ({reason})") from error
    finally:
        part.unlink(missing_ok=True)


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_words(item)}" for key, item in value.items())
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
