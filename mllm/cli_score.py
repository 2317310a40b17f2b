"""`mllm score`: look at notation, state its facts, convert it, play it, find the one that a recording plays."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mllm.errors import ScoreError

if TYPE_CHECKING:
    from mllm.score import Score

score_verbs = typer.Typer(
    no_args_is_help=True, help="Work with scores: show, facts, convert, render (sheet music, piano roll, sound), match."
)
ScoreFile = Annotated[str, typer.Argument(metavar="FILE", help="abc, mid, musicxml, mxl or krn.")]
TuneNumber = Annotated[
    int | None, typer.Option("--number", help="Of a book of ABC tunes: the X: of the one wanted; default the first.")
]
OutputFile = Annotated[Path, typer.Argument(metavar="OUTPUT", show_default=False)]


@score_verbs.command()
def show(file: ScoreFile, number: TuneNumber = None) -> None:
    """Title, facts in words, and the notes as ABC text.

    mllm score show tune.mid
    """
    from mllm.score import all_facts, to_abc

    score = notated(existing(file), number)
    told = {name: value for name, value in all_facts(score).items() if name != "chord_symbols"}  # the ABC shows them
    for name, value in told.items():
        if value not in (None, False) and (words := _words(value).strip()):
            typer.echo(f"{name.replace('_', ' '):<14} {words}")
    typer.echo("\n" + to_abc(score).strip())


@score_verbs.command("facts")
def print_facts(
    file: ScoreFile,
    bars: Annotated[bool, typer.Option("--bars", help="What stands in each bar instead.")] = False,
    number: TuneNumber = None,
    analysis: Annotated[
        str | None, typer.Option(help="A Roman-numeral analysis of it in RomanText: its chords and cadences too.")
    ] = None,
) -> None:
    """What is exactly true of a score, as JSON: key, metre, bars, range, intervals, note values, chords, form and more.

    mllm score facts tune.musicxml

    mllm score facts chorale.mxl --analysis chorale.rntxt

    mllm score facts tune.abc --bars
    """
    from mllm.score import all_facts, bar_contents

    score = notated(existing(file), number)
    told = existing(analysis).read_text("utf-8", errors="replace") if analysis else None
    found = bar_contents(score) if bars else all_facts(score, told)
    typer.echo(json.dumps(found, indent=1, ensure_ascii=False, default=str))


@score_verbs.command()
def convert(
    file: ScoreFile,
    output: OutputFile,
    transpose: Annotated[int, typer.Option(help="Semitones.")] = 0,
    number: TuneNumber = None,
) -> None:
    """Write a score in another format: .abc, .mid or .musicxml, by the suffix of OUTPUT.

    A file that says a model wrote it says so in the other format too.

    mllm score convert tune.musicxml tune.abc

    mllm score convert tune.abc tune.musicxml

    mllm score convert tune.abc higher.mid --transpose 2
    """
    from mllm.composed_files import mark_of, with_mark
    from mllm.score import MIDI, quantize, read_score, to_abc, to_midi, to_musicxml
    from mllm.score import transpose as move

    def abc(score: Score) -> bytes:
        return (to_abc(score).strip() + "\n").encode()

    writers = {".abc": abc, ".mid": to_midi, ".midi": to_midi, ".musicxml": to_musicxml, ".xml": to_musicxml}
    writer = writers.get(output.suffix.lower())
    if writer is None:
        suffix = output.suffix or "a file without suffix"
        raise ScoreError(
            f"{output}: can write .abc, .mid and .musicxml, not {suffix}; `mllm score render` makes pictures and sound"
        )
    source = existing(file)
    if output.exists() and output.samefile(source):
        raise ScoreError(f"{output}: is the file itself, whose layout and comments would be lost: name another")
    read = read_score(source, number=number)
    mark, score = mark_of(source, read), move(read, transpose)
    if source.suffix.lower() in MIDI and output.suffix.lower() not in MIDI:  # what was played becomes note values
        score, moved = quantize(score)
        typer.echo(f"quantized: {moved}")
    data = writer(score)
    _write(output, with_mark(data, output.suffix.lower(), mark) if mark else data)
    typer.echo(f"{output}: {len(score.notes)} notes")


@score_verbs.command()
def render(
    file: ScoreFile,
    output: OutputFile,
    piano_roll: Annotated[bool, typer.Option("--piano-roll", help="A piano roll instead of sheet music.")] = False,
    width: Annotated[int | None, typer.Option(min=300, max=4000, help="Of a picture, pixels.")] = None,
    soundfont: Annotated[Path | None, typer.Option(help="An .sf2 file; default TimGM6mb.")] = None,
    sampling_rate: Annotated[int, typer.Option(min=8000, max=192_000, help="Hz.")] = 44_100,
    number: TuneNumber = None,
) -> None:
    """Make a score to look at or listen to, by the suffix of OUTPUT.

    Sheet music is one picture as tall as the music, .svg or .png (with two pixels for each of its width).

    mllm score render tune.abc tune.svg

    mllm score render tune.musicxml tune.png --width 1200

    mllm score render tune.mid roll.png --piano-roll

    Sound is .wav, .flac, .ogg or .mp3; repeats are played.

    mllm score render tune.abc tune.flac
    """
    from mllm.engraving import WIDTH, engrave
    from mllm.piano_roll import WIDTH as ROLL_WIDTH
    from mllm.piano_roll import piano_roll as draw_roll
    from mllm.score import read_score, to_midi
    from mllm.sound_files import FORMATS, sound_file
    from mllm.synthesis import render as play

    suffix = output.suffix.lower()

    def picture(score: Score) -> tuple[bytes, str]:
        form = suffix.removeprefix(".")
        draw, usual = (draw_roll, ROLL_WIDTH) if piano_roll else (engrave, WIDTH)
        return draw(score, form=form, width=width or usual), f"{len(score.notes)} notes"

    def sound(score: Score) -> tuple[bytes, str]:
        if piano_roll:
            raise ScoreError(f"{output}: a piano roll is a picture; name a .svg or .png file")
        samples = play(to_midi(score), soundfont, sampling_rate)
        return sound_file(samples, sampling_rate, suffix), f"{len(samples) / sampling_rate:.1f} s"

    makers = {".svg": picture, ".png": picture} | dict.fromkeys(FORMATS, sound)
    maker = makers.get(suffix)
    if maker is None:
        raise ScoreError(
            f"{output}: can make {', '.join(makers)}, not {suffix or 'a file without suffix'}; "
            "`mllm score convert` writes notation and MIDI"
        )
    data, words = maker(read_score(existing(file), number=number, unfold=maker is sound))
    _write(output, data)
    typer.echo(f"{output}: {words}")


@score_verbs.command("match")
def match_scores(
    recording: Annotated[Path, typer.Argument(help="What is heard: wav, flac, ogg, mp3, aiff.")],
    scores: Annotated[list[str], typer.Argument(metavar="SCORE...", help="abc, mid, musicxml, mxl or krn.")],
    model: Annotated[str, typer.Option("--model", "-m", help="A model trained to transcribe.")] = "mini",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON list.")] = False,
) -> None:
    """Which of these scores does a recording play? The likeliest first, by how well the recording explains the notes.

    mllm score match take.wav first.abc second.abc

    For some bars of one melody, as the model was trained on. A gain below 0 speaks against a score, and so does a bar
    that fits much worse than the others: of two versions of one tune it tells which is not played.
    """
    from mllm.cli_model import load_quietly
    from mllm.matching import match

    files = [existing(score) for score in scores]
    found = match(load_quietly(model), recording, files)
    rows = [{"score": name, **vars(one), "worst_bar": one.worst_bar} for name, one in zip(scores, found, strict=True)]
    rows.sort(key=lambda row: -float(row["share"]))
    if as_json:
        typer.echo(json.dumps(rows, ensure_ascii=False))
        return
    for row in rows:
        worst = f"bar {row['worst_bar']} fits worst ({min(row['bars']):+.2f} nats a token)"
        typer.echo(f"{row['share']:6.1%}  {row['gain']:+.2f} nats a note  {row['score']}: {worst}")


def notated(path: Path, number: int | None) -> Score:
    """The score with its notes where they would be written; of a performance it is said how far they were moved."""
    from mllm.score import read_notated

    score, moved = read_notated(path, number=number)
    if moved and moved.largest:
        typer.echo(f"quantized: {moved}", err=True)
    return score


def existing(file: str | Path) -> Path:
    """The path, checked: `read_score` takes ABC text as well, and a mistyped name must not be read as a tune."""
    path = Path(file)
    if not path.is_file():
        raise ScoreError(f"{file}: no such file" if not path.exists() else f"{file}: not a file")
    return path


def _write(output: Path, data: bytes) -> None:
    """Write a file beside `output` and move it there when whole: never half a file. A missing folder is an error."""
    part = output.with_name(f".{output.name}.part")
    try:
        part.write_bytes(data)
        part.replace(output)
    except OSError as error:
        raise ScoreError(f"{output}: cannot be written ({error.strerror})") from error
    finally:
        part.unlink(missing_ok=True)


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key.replace('_', ' ')} {words}" for key, item in value.items() if (words := _words(item)))
    if isinstance(value, list | tuple):
        return ("; " if any(isinstance(item, dict) for item in value) else " ").join(map(_words, value))
    return str(value)
