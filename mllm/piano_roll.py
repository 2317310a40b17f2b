"""A score as a piano roll: time to the right in quarters, pitch upwards, one bar a note, one colour a voice."""

from __future__ import annotations

import io
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mllm.engraving import check_drawable, picture_form, printable, write_picture
from mllm.score_bars import bars_of_score
from mllm.score_types import DRUMS, Key, Score

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH = 1000  # pixels
MOST_NOTES = 200_000

_INCH = 100  # pixels
_LABELS = 16  # bar numbers at most
_LINES = 200  # bar lines at most: more are a grey area
# Names in the SVG that do not differ each time, and text as text.
_SETTINGS: Any = {"svg.hashsalt": "mllm", "svg.fonttype": "none"}


def piano_roll(score: Score, path: str | Path | None = None, *, form: str = "svg", width: int = WIDTH) -> bytes:
    """Picture of when each pitch sounds, with the bars' numbers above. The same score gives the same bytes.

    Args:
        score: what to draw.
        path: also write the picture there; its suffix, .svg or .png, is the form.
        form: "svg" or "png", where there is no path.
        width: of the picture, pixels, 300 to 4000.

    Raises:
        ScoreError: nothing to draw, another suffix, a file that cannot be written.
    """
    from matplotlib import rc_context

    form = picture_form(path, form)
    figure = piano_roll_figure(score, width)
    out = io.BytesIO()
    with rc_context(_SETTINGS):
        figure.savefig(out, format=form, dpi=_INCH, metadata={"Date": None} if form == "svg" else None)
    return write_picture(path, out.getvalue())


def piano_roll_figure(score: Score, width: int = WIDTH) -> Figure:
    """The same as a matplotlib figure to draw on: x is quarters, y the MIDI pitch.

    The notes of a voice are one collection, in the SVG a group with the id "voice-0", "voice-1" and so on.
    """
    import matplotlib
    from matplotlib.collections import PolyCollection
    from matplotlib.figure import Figure

    check_drawable(score, width, MOST_NOTES)
    lowest, highest = min(n.pitch for n in score.notes), max(n.pitch for n in score.notes)
    tall = min(max(1.6 + 0.09 * (highest - lowest), 2.4), 8.0)  # inches
    figure = Figure(figsize=(width / _INCH, tall), layout="constrained")
    axes = figure.add_subplot()
    colours = matplotlib.colormaps["tab10"]
    voices = sorted({n.voice for n in score.notes})
    for number, voice in enumerate(voices):
        edges = [
            (n.onset, n.onset + n.duration, n.pitch - 0.45, n.pitch + 0.45) for n in score.notes if n.voice == voice
        ]
        boxes = [((a, low), (b, low), (b, high), (a, high)) for a, b, low, high in edges]
        notes = PolyCollection(boxes, facecolors=[colours(number % colours.N)], edgecolors="white", linewidths=0.4)
        notes.set_gid(f"voice-{voice}")
        name = score.instruments[voice] if voice < len(score.instruments) else ""
        notes.set_label(_words(name).lstrip("_") or f"voice {voice + 1}")  # an underscore hides from the legend
        axes.add_collection(notes)
    axes.set(xlim=(0, score.length), ylim=(lowest - 1.5, highest + 1.5), xlabel="quarters", ylabel="pitch")
    octaves = [pitch for pitch in range(128) if pitch % 12 == 0 and lowest - 1 <= pitch <= highest + 1]
    marks = sorted({*octaves, lowest, highest} if len(octaves) < 2 else octaves)
    drums_alone = {*score.instruments[:1]} == {DRUMS} and len(voices) == 1
    axes.set_yticks(marks, [str(p) if drums_alone else Key("C").spell(p) for p in marks])
    axes.set_title(_words(score.title), pad=20)
    _mark_bars(axes, score)
    if len(voices) > 1:
        figure.legend(loc="outside right upper", frameon=False)
    return figure


def _mark_bars(axes: Any, score: Score) -> None:
    bars = bars_of_score(score)
    if not bars:
        return
    top = axes.secondary_xaxis("top")
    numbered = bars[:: -(-len(bars) // _LABELS)]
    top.set_xticks([bar.start for bar in numbered], [str(bar.number) for bar in numbered], fontsize=8)
    lines = bars if len(bars) <= _LINES else numbered
    axes.vlines(
        [bar.start for bar in lines], 0, 1, transform=axes.get_xaxis_transform(), color="0.85", lw=0.6, zorder=0
    )


def _words(text: str) -> str:
    """Plain text to matplotlib, which takes what stands between dollars for a formula."""
    return textwrap.shorten(printable(text), 80, placeholder=" …").replace("$", r"\$")
