"""A score as sheet music: `Score` to SVG through verovio, to PNG through resvg."""

from __future__ import annotations

import re
import textwrap
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from mllm.errors import ScoreError
from mllm.measures import QUARTER, bar_lines, end_of
from mllm.musicxml_writing import to_musicxml
from mllm.quantization import quantize
from mllm.score_types import DRUMS, SEMITONES, Score
from mllm.whole_files import write_whole

FORMS = ("svg", "png")
WIDTH = 840  # pixels
MOST_NOTES = 20_000  # about ten seconds
MOST_PIXELS = 100_000_000  # of a PNG: 400 MB in memory

_SVG = "http://www.w3.org/2000/svg"
_STAFF_SCALE = 40  # percent of verovio's own size: a staff 29 pixels high
_TALLEST = 60_000  # of verovio's pages; what is longer goes on below
_TITLE = {"font-size": "24", "text-anchor": "middle", "font-family": "Times, serif"}
_TITLE_LINE = 32  # pixels
_TITLE_LINES = 3
# Verovio writes these signs of tempos and chords in its own font, which a PNG and many programs do not have.
_SIGNS = str.maketrans(
    {"\ueca5": "♩", "\ueca7": "♪", "\uecb7": ".", "\uea64": "♭", "\uea65": "♮", "\uea66": "♯",
     "\ued60": "♭", "\ued61": "♮", "\ued62": "♯", "\ue870": "°", "\ue871": "ø", "\ue872": "+", "\ue873": "Δ"}
)  # fmt: skip
_ACCIDENTALS = ("♭", "♮", "♯")
_TEXT, _MUSIC = 405, 720  # sizes that verovio gives to letters and to signs of its own font
_DIVISIONS = (24, 16, 10, 9, 7)  # of a quarter, that written moments stand on
_NEAR = 0.01
_PLAYED = 0.1  # a larger share of moments off these: played, not written
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
# Where General MIDI's drums stand in a staff with a percussion clef; x is a cross for a head. After Weinberg, Guide to
# Standardized Drumset Notation (1998).
_DRUMS = {
    35: "E4", 36: "F4", 37: "C5x", 38: "C5", 39: "C5x", 40: "C5", 41: "G4", 42: "G5x", 43: "A4", 44: "D4x", 45: "B4",
    46: "G5x", 47: "D5", 48: "E5", 49: "A5x", 50: "F5", 51: "F5x", 52: "B5x", 53: "F5x", 55: "B5x", 57: "A5x",
    59: "F5x",
}  # fmt: skip
_OTHER_DRUM = "B4x"

_lock = threading.Lock()  # verovio's log is one for all threads


def engrave(
    score: Score, path: str | Path | None = None, *, form: str = "svg", width: int = WIDTH, scale: float = 2.0
) -> bytes:
    """Sheet music of a score: one picture on white, as tall as the music, with title, tempo and bar numbers.

    The SVG stands alone: it holds no script and names no other file. The same score gives the same bytes. Notes as they
    were played, as in many MIDI files, are drawn where `mllm.quantization` puts them.

    Args:
        score: what to draw.
        path: also write the picture there; its suffix, .svg or .png, is the form.
        form: "svg" or "png", where there is no path.
        width: of the picture, pixels, 300 to 4000; a wider one has more bars in a line.
        scale: pixels of a PNG for each of `width`.

    Raises:
        ScoreError: nothing to draw, more than 20,000 notes, a PNG of more than 100 million pixels, another suffix, a
            file that cannot be written.
    """
    form = picture_form(path, form)
    svg = _svg(score, width)
    return write_picture(path, _png(svg, scale) if form == "png" else svg.encode())


def picture_form(path: str | Path | None, form: str = "svg") -> str:
    """ "svg" or "png", by the suffix of a path where there is one; ScoreError for another."""
    wanted = Path(path).suffix.lower().removeprefix(".") if path is not None else form
    if wanted not in FORMS:
        raise ScoreError(f"{path or form}: a picture of a score is .svg or .png; name one of these")
    return wanted


def write_picture(path: str | Path | None, data: bytes) -> bytes:
    """The bytes again, written to a path where there is one; ScoreError when that fails."""
    if path is not None:
        try:
            write_whole(Path(path), data)
        except OSError as error:
            raise ScoreError(f"{path}: cannot be written ({error.strerror})") from error
    return data


def check_drawable(score: Score, width: int, most: int) -> None:
    """Raise ScoreError where a score has no notes or more than `most`, or a width in pixels is out of bounds."""
    if not score.notes:
        raise ScoreError("nothing to draw: the score has no notes")
    if len(score.notes) > most:
        raise ScoreError(f"{len(score.notes):,} notes are too many for this picture; at most {most:,} are drawn")
    if not 300 <= width <= 4000:
        raise ScoreError(f"a picture {width} pixels wide: choose 300 to 4000")


def printable(text: str) -> str:
    """A text in one line without the characters that XML cannot hold."""
    return " ".join(_NOT_XML.sub("", text).split())


def _svg(score: Score, width: int) -> str:
    check_drawable(score, width, MOST_NOTES)
    ElementTree.register_namespace("", _SVG)
    ElementTree.register_namespace("xlink", "http://www.w3.org/1999/xlink")
    lines = _title_lines(score.title, width)
    top = 20 + _TITLE_LINE * len(lines) if lines else 0
    pages, place = [], float(top)
    for page in _pages(score, width):
        tall = float(page.get("viewBox", "0 0 0 0").split()[3])
        page.attrib |= {"y": f"{place:g}", "width": f"{width}", "height": f"{tall:g}"}
        pages.append(page)
        place += tall
    whole = ElementTree.Element(
        f"{{{_SVG}}}svg", {"viewBox": f"0 0 {width} {place:g}", "width": f"{width}", "height": f"{place:g}"}
    )
    ElementTree.SubElement(whole, f"{{{_SVG}}}rect", {"width": "100%", "height": "100%", "fill": "white"})
    for number, line in enumerate(lines, 1):
        attributes = {"x": f"{width / 2:g}", "y": f"{10 + _TITLE_LINE * number}", **_TITLE}
        ElementTree.SubElement(whole, f"{{{_SVG}}}text", attributes).text = line
    whole.extend(pages)
    return ElementTree.tostring(whole, encoding="unicode")


def _title_lines(title: str, width: int) -> list[str]:
    return textwrap.wrap(printable(title), width // 14, max_lines=_TITLE_LINES, placeholder=" …")


def _pages(score: Score, width: int) -> Iterator[ElementTree.Element]:
    """Verovio's pages, which are one unless the music is longer than its tallest."""
    import verovio

    options = {
        "inputFrom": "xml", "header": "none", "footer": "none", "scale": _STAFF_SCALE, "svgViewBox": True,
        "pageWidth": width * 100 // _STAFF_SCALE, "pageHeight": _TALLEST, "adjustPageHeight": True,
        "smuflTextFont": "none", "xmlIdSeed": 1, "svgFormatRaw": True,
    }  # fmt: skip
    music = _with_drum_staves(_NOT_XML.sub("", _music(replace(score, title="")).decode()))
    with _lock:
        verovio.enableLog(verovio.LOG_OFF)
        toolkit = verovio.toolkit(False)
        # by default only the thread that imported verovio knows where its fonts are
        toolkit.setResourcePath(str(Path(verovio.__file__).with_name("data")))
        toolkit.setOptions(options)
        pages = [toolkit.renderToSVG(n + 1) for n in range(toolkit.getPageCount() if toolkit.loadData(music) else 0)]
    if not pages:
        raise ScoreError("this score cannot be engraved; look at it with `mllm score show`")
    for text in pages:
        page = ElementTree.fromstring(text)
        for sign in page.iter(f"{{{_SVG}}}tspan"):
            if sign.get("font-family") and sign.text:
                del sign.attrib["font-family"]
                sign.text = sign.text.translate(_SIGNS)
                if sign.text in _ACCIDENTALS and (size := sign.get("font-size", "").removesuffix("px")).isdigit():
                    sign.set("font-size", f"{int(size) * _TEXT // _MUSIC}px")  # as tall as the letters around it
        yield page


def _music(score: Score) -> bytes:
    """MusicXML; of what was played and not written, the nearest that can be read."""
    if score.keys:  # verovio draws a new signature at a bar line only
        lines = {tick / QUARTER for tick in bar_lines(score, end_of(score))} | {moment for moment, _ in score.keys}
        score = replace(score, bars=tuple(sorted(lines)))
    moments = [moment for n in score.notes for moment in (n.onset, n.onset + n.duration)]
    off = sum(all(abs(m * d - round(m * d)) > _NEAR for d in _DIVISIONS) for m in moments)
    return to_musicxml(score if off <= _PLAYED * len(moments) else quantize(score)[0])


def _with_drum_staves(music: str) -> str:
    """Parts of drums on a percussion clef, each drum at its place; the rest as it is."""
    root = ElementTree.fromstring(music)
    names = {part.get("id"): part.findtext("part-name") for part in root.iter("score-part")}
    drums = [part for part in root.iter("part") if names.get(part.get("id")) == DRUMS]
    for part in drums:
        for attributes in part.iter("attributes"):
            for element in [*attributes.findall("key"), *attributes.findall("clef")]:
                attributes.remove(element)
        if (first := part.find("measure/attributes")) is not None:
            clef = ElementTree.SubElement(first, "clef")
            ElementTree.SubElement(clef, "sign").text = "percussion"
        for note in part.iter("note"):
            _put_drum(note)
    return ElementTree.tostring(root, encoding="unicode") if drums else music


def _put_drum(note: ElementTree.Element) -> None:
    pitch, accidental = note.find("pitch"), note.find("accidental")
    if pitch is None:
        return
    letter = SEMITONES[pitch.findtext("step", "C")] + int(float(pitch.findtext("alter", "0")))
    place = _DRUMS.get(12 * (int(pitch.findtext("octave", "4")) + 1) + letter, _OTHER_DRUM)
    pitch.clear()
    pitch.tag = "unpitched"
    ElementTree.SubElement(pitch, "display-step").text = place[0]
    ElementTree.SubElement(pitch, "display-octave").text = place[1]
    if accidental is not None:
        note.remove(accidental)
    if place.endswith("x"):
        # the schema wants the head behind what says the length
        before = [
            i for i, element in enumerate(note) if element.tag in ("duration", "tie", "voice", "type", "dot", "stem")
        ]
        head = ElementTree.Element("notehead")
        head.text = "x"
        note.insert(max(before, default=len(note) - 1) + 1, head)


def _png(svg: str, scale: float) -> bytes:
    import resvg_py

    wide, tall = (float(n) for n in re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)[0])
    if not 0.1 <= scale <= 10:
        raise ScoreError(f"a scale of {scale:g}: choose 0.1 to 10")
    if wide * tall * scale**2 > MOST_PIXELS:
        raise ScoreError(f"a PNG of {wide * scale:.0f} by {tall * scale:.0f} pixels is too large; write .svg")
    files, known = _fonts()
    draw: Callable[..., bytes] = resvg_py.svg_to_bytes
    return draw(
        svg_string=svg,
        zoom=scale,
        font_files=files,
        serif_family="STIXGeneral",
        font_family="STIXGeneral",
        skip_system_fonts=set(svg) <= known,  # then a PNG is the same everywhere
    )


@lru_cache(maxsize=1)
def _fonts() -> tuple[list[str], frozenset[str]]:
    """Font files that come with matplotlib, as wide as the Times that verovio counts with, and their characters."""
    import matplotlib
    from matplotlib.ft2font import FT2Font

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    files = sorted(
        [*folder.glob("STIXGeneral*.ttf"), *folder.glob("DejaVuSerif*.ttf")]
    )  # the others for what is missing
    plain: Any = set(FT2Font(str(folder / "STIXGeneral.ttf")).get_charmap())
    plain |= set(FT2Font(str(folder / "DejaVuSerif.ttf")).get_charmap())
    return [str(file) for file in files], frozenset(map(chr, plain)) | {"\n"}
