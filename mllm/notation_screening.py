"""What can be seen of MusicXML and kern before music21 builds its tree: bombs are refused in about a second.

music21 takes some 0.5 ms and 10 kB for a note, and time that grows with the square of a chord or of a note's parts.
"""

from __future__ import annotations

from xml.parsers import expat

from mllm.errors import ScoreError

MAX_DEPTH = 64  # elements inside of one another; MusicXML 4.0 has about fifteen
MAX_PARTS = 256  # parts of MusicXML, spines of kern
MAX_READ_NOTES = 60_000  # notes and rests: a movement for orchestra; Beethoven's op. 133 has 12,970 of them
MAX_MEASURES = 30_000  # of all parts together; op. 133 has 2,968
MAX_WORDS = 120_000  # of kern: notes, rests and the "." of a spine in which nothing starts
MAX_CHORD = 128  # notes: there are no more pitches
MAX_IN_NOTE = 1000  # elements inside of one note, with its lyrics and ornaments
MAX_LINE = 20_000  # letters of a line of kern


def screen(text: str, kind: str) -> None:
    """Refuse what is no score that anybody wrote.

    Args:
        text: of the file.
        kind: "musicxml" or "kern".

    Raises:
        ScoreError: malformed XML; entities; too deep; more parts, notes or measures than can be read. The message
            goes on from the name of the file and a colon.
    """
    SCREENS[kind](text)


def _limit(count: int, most: int, what: str) -> None:
    if count > most:
        raise ScoreError(f"more than {most:,} {what}; cut the score into parts")


class _MusicXML:
    """Counts the elements that a reader's time and memory grow with."""

    def __init__(self) -> None:
        self.depth = self.parts = self.notes = self.measures = self.in_note = self.chord = 0
        self.is_note = self.is_in_chord = False

    def start(self, name: str, attributes: list[str]) -> None:
        """An element begins (expat's StartElementHandler); ScoreError where that is too much."""
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise ScoreError(f"elements more than {MAX_DEPTH} deep inside of one another; export it again")
        if self.is_note:
            self.in_note += 1
            _limit(self.in_note, MAX_IN_NOTE, "elements in one note")
            if name == "chord":
                self.is_in_chord = True
                self.chord += 1
                _limit(self.chord, MAX_CHORD, "notes in one chord")
        elif name == "note":
            self.is_note, self.is_in_chord, self.in_note = True, False, 0
            self.notes += 1
            _limit(self.notes, MAX_READ_NOTES, "notes")
        elif name == "score-part":
            self.parts += 1
            _limit(self.parts, MAX_PARTS, "parts")
        elif name == "measure":
            self.measures += 1
            _limit(self.measures, MAX_MEASURES, "measures")

    def end(self, name: str) -> None:
        self.depth -= 1
        if name == "note":
            self.is_note = False
            if not self.is_in_chord:
                self.chord = 0

    @staticmethod
    def entity(name: str, *_: object) -> None:
        raise ScoreError(f"declares the entity {name!r}, which no score needs; export it again")


def _screen_musicxml(text: str) -> None:
    seen = _MusicXML()
    parser = expat.ParserCreate()
    parser.ordered_attributes = True  # faster, and nothing reads them
    parser.StartElementHandler, parser.EndElementHandler = seen.start, seen.end
    parser.EntityDeclHandler = seen.entity
    try:
        parser.Parse(text, True)
    except expat.ExpatError as error:
        raise ScoreError(f"malformed musicxml ({error}); export it again") from error


def _screen_kern(text: str) -> None:
    notes = words = 0
    for line in text.splitlines():
        if line.startswith("!"):
            continue
        _limit(len(line), MAX_LINE, "letters in one line")
        spines = line.count("\t") + 1
        _limit(spines, MAX_PARTS, "spines")
        if line and line[0] not in "*=":
            words += spines
            notes += spines - line.split("\t").count(".")
            _limit(notes, MAX_READ_NOTES, "notes")
            _limit(words, MAX_WORDS, "words of kern")


SCREENS = {"musicxml": _screen_musicxml, "kern": _screen_kern}
