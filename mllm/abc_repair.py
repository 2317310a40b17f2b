"""One pass over a tune that a model wrote, after which it is whole by `mllm.abc_validation`, or refused."""

from __future__ import annotations

import re
from dataclasses import replace
from fractions import Fraction

from mllm.abc_fields import default_unit, read_unit
from mllm.abc_grammar import separator
from mllm.abc_validation import (
    ELEMENT,
    Bar,
    Element,
    Tune,
    bar_problems,
    field_problem,
    length_of,
    loose_ties,
    parse_tune,
    split_header,
    stated_metre,
    tuplet_sounds,
    validate_abc,
)
from mllm.abc_writing import note_length
from mllm.errors import ScoreError
from mllm.score_types import SEMITONES

_NOTE = re.compile(r"([A-Ga-g])([,']*)")
_KEPT_FIELDS = "ABCDFGHNORSZ"  # words about the tune


def repair_abc(
    text: str,
    *,
    metre: tuple[int, int] | None = None,
    key: str = "C",
    bars: int | None = None,
    lowest: int | None = None,
    highest: int | None = None,
) -> str:
    """One pass that makes a tune whole; a whole one comes back as it is.

    Prose and what is no notation go; so do changes of key and metre, repeats, slurs, and words under the notes. A bar
    too long is cut, one too short filled with rests (the first one in front); tuplets and ties that lead nowhere lose
    their mark; notes out of range move by octaves; bars too many go, missing ones become rests.

    Args:
        text: what a model wrote.
        metre, bars, lowest, highest: as in `validate_abc`; without a metre that of the header, or 4/4.
        key: the K: field where the text has none that can be read.

    Raises:
        ScoreError: there are no notes in it, or something is left that one pass does not mend.
    """
    problems = validate_abc(text, metre=metre, bars=bars, lowest=lowest, highest=highest)
    if not problems:
        return text
    header = _header(parse_tune(text), metre, key)
    try:
        body = split_header(text)[1]
    except ScoreError:
        body = text  # no header: all of it may be music
    tune = parse_tune(header + body)
    stated = stated_metre(tune.header["M"])
    if not tune.voices or stated is None:
        raise ScoreError("nothing to repair: there are no notes in the text")
    full = Fraction(4 * stated[0], stated[1])
    written = {name: _voice(voice, full, lowest, highest) for name, voice in tune.voices.items()}
    count = bars or max(map(len, written.values()))
    lines = [header]
    rest = "z" + note_length(full / unit_of(tune))
    for name, of_voice in written.items():
        whole = (of_voice + [rest] * count)[:count]
        if len(written) > 1:
            lines.append(tune.labels.get(name, f"V:{name}") + "\n")
        lines.append(_joined(_tied(header, whole)))
    repaired = "".join(lines)
    left = validate_abc(repaired, metre=metre, bars=bars, lowest=lowest, highest=highest)
    if left:
        raise ScoreError(f"one pass of repair leaves: {'; '.join(map(str, left[:3]))}")
    return repaired


def _header(tune: Tune, metre: tuple[int, int] | None, key: str) -> str:
    kept = {letter: value for letter, value in tune.header.items() if not field_problem(letter, value)}
    stated = metre or stated_metre(kept.get("M", "")) or (4, 4)
    fields = {"X": kept["X"] if kept.get("X", "").isdigit() else "1"}
    fields |= {letter: kept[letter] for letter in ("T", *_KEPT_FIELDS) if letter in kept}
    fields |= {"M": f"{stated[0]}/{stated[1]}", "L": kept.get("L", "1/8")}
    fields |= {"Q": kept["Q"]} if "Q" in kept else {}
    fields["K"] = kept.get("K", key)
    return "".join(f"{letter}:{value}\n" for letter, value in fields.items())


def unit_of(tune: Tune) -> Fraction:
    """Quarters of a note without a length."""
    return read_unit(tune.header["L"]) if "L" in tune.header else default_unit(stated_metre(tune.header["M"]))


def _joined(bars: list[str]) -> str:
    return "".join(bar + separator(i) for i, bar in enumerate(bars[:-1])) + bars[-1] + " |]\n"


def _tied(header: str, bars: list[str]) -> list[str]:
    """The bars without ties that lead nowhere."""
    (voice,) = parse_tune(header + _joined(bars)).voices.values()
    for _, element in loose_ties(voice):
        match = ELEMENT.fullmatch(element.text)
        assert match is not None
        element.text = match["before"] + match["what"].replace("-", "") + match["length"]
    return [bar.text.strip() for bar in voice]


def _voice(bars: list[Bar], full: Fraction, lowest: int | None, highest: int | None) -> list[str]:
    return [filled_bar(bar, full, lowest, highest, first=i == 0 and len(bars) > 1) for i, bar in enumerate(bars)]


def filled_bar(
    bar: Bar, full: Fraction, lowest: int | None = None, highest: int | None = None, first: bool = False
) -> str:
    """The notation of a bar, `full` quarters long: cut, or filled with rests; those of the first bar go in front."""
    plain = all(
        e.kind in ("space", "sound", "tuplet", "broken", "mark") and e.text[0] not in "`\\" for e in bar.elements
    )
    if plain and not bar_problems(bar, lowest, highest) and _time(bar, bar.elements) == full:
        return bar.text.strip()
    if len(bar_problems(bar, lowest, highest)) == len(bar_problems(bar, None, None)):
        lowest = highest = None  # its notes are in the range: they stay where they are
    kept: list[Element] = []
    now, taken = Fraction(0), set[int]()
    for i, element in enumerate(bar.elements):
        if i in taken or element.kind not in ("sound", "tuplet") or now >= full:
            continue
        group = [element]
        if element.kind == "tuplet":
            sounds = tuplet_sounds(bar.elements, i)
            group += sounds
            taken |= {k for k, e in enumerate(bar.elements) if any(e is s for s in sounds)}
        group = [replace(e, text=_in_range(e.text, lowest, highest)) for e in group]
        then = _time(bar, kept + group)
        if element.kind == "tuplet" and (len(group) == 1 or then is None or then > full):
            continue
        if then is None:
            continue
        if then > full:
            match = ELEMENT.fullmatch(group[0].text)
            assert match is not None
            what = re.sub(r"[\d/]", "", match["what"])  # inner lengths of a chord would multiply
            group[0].text = match["before"] + what + note_length((full - now) / unit_of(parse_tune(bar.head)))
            then = full
        kept += [*group, Element("space", " ", bar.line)]
        now = then
    text = "".join(e.text for e in kept).strip()
    if now < full:
        rest = "z" + note_length((full - now) / unit_of(parse_tune(bar.head)))
        text = f"{rest} {text}" if first else f"{text} {rest}"
    return text.strip()


def _time(bar: Bar, elements: list[Element]) -> Fraction | None:
    """Quarters that elements take; None where they cannot be read."""
    try:
        return length_of(bar, elements)
    except ScoreError:
        return None


def _in_range(text: str, lowest: int | None, highest: int | None) -> str:
    """A sound with its notes moved into the range by octaves; a semitone is left for accidentals."""
    match = ELEMENT.fullmatch(text)
    if match is None or match["what"] is None or lowest is highest is None:
        return text
    low, high = (lowest if lowest is not None else 0) + 1, (highest if highest is not None else 127) - 1

    def moved(note: re.Match[str]) -> str:
        letter, marks = note[1].upper(), note[2]
        octave = (5 if note[1].islower() else 4) + marks.count("'") - marks.count(",")
        pitch = 12 * (octave + 1) + SEMITONES[letter]
        up, down = -(-(low - pitch) // 12), -(-(pitch - high) // 12)  # octaves, rounded up
        octave += max(up, 0) - max(down, 0)
        return letter.lower() + "'" * (octave - 5) if octave >= 5 else letter + "," * (4 - octave)

    return match["before"] + _NOTE.sub(moved, match["what"]) + match["length"] + match["tie"]
