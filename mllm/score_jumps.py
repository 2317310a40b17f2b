"""Jumps in words and signs: D.C., D.S., Fine and Coda of a score, and the way they lead through it."""

from __future__ import annotations

import re
from collections.abc import Iterable

FINE, SEGNO, CODA, TO_CODA, DA_CAPO, DAL_SEGNO = "fine", "segno", "coda", "to coda", "D.C.", "D.S."
# The marks of `Score.jumps`. Whether a D.C. is "al Fine" or "al Coda" follows from the marks that it leads to.
AT_START = (SEGNO, CODA)  # these stand where a bar begins, the others where one ends

_NEAR = 1e-6  # quarters: what lies closer is the same moment
_WORDS = {
    DA_CAPO: r"(?:d\.? ?c\.?|da ?capo)(?: ?al(?:la)? ?(?:fine|coda|segno).{0,20})?",
    DAL_SEGNO: r"(?:d\.? ?s\.?|dal ?segno)(?: ?al(?:la)? ?(?:fine|coda).{0,20})?",
    FINE: r"fine",
    SEGNO: r"segno",
    TO_CODA: r"(?:to ?coda|da ?coda|al coda)",
    CODA: r"coda",
}
_PATTERNS = {mark: re.compile(rf"{words}[.!]?", re.IGNORECASE) for mark, words in _WORDS.items()}
Stretch = tuple[float, float]  # from, to: written quarters


def jump_of(text: str) -> str | None:
    """The mark that some words are: "D.C." of "D.C. al Fine"; None for any other words."""
    text = " ".join(text[:60].split()).lstrip("^_<>@ ")
    return next((mark for mark, pattern in _PATTERNS.items() if pattern.fullmatch(text)), None)


def in_order(jumps: Iterable[tuple[float, str]]) -> tuple[tuple[float, str], ...]:
    """Marks as `Score.jumps` has them: of two codas, where nothing says "to coda", the first leads to the second."""
    marks = sorted(set(jumps))
    codas = [mark for mark in marks if mark[1] == CODA]
    if len(codas) > 1 and all(mark != TO_CODA for _, mark in marks):
        marks[marks.index(codas[0])] = (codas[0][0], TO_CODA)
    return tuple(marks)


def with_jumps(order: list[Stretch], jumps: Iterable[tuple[float, str]]) -> list[Stretch]:
    """Stretches of written time in the order of their playing, with the first D.C. or D.S. followed.

    It goes back to the start, or to the segno before it, once what is written up to it has been played with all its
    repeats. From there each bar comes once, as is the custom, with the last of its endings: up to Fine; or up to the
    "to coda" and on from the coda; or, where there is neither, up to the jump and on behind it. A Fine and a coda that
    no jump leads to have no effect, nor has a D.S. without a segno.

    Args:
        order: of the same, with the repeats played out (`score_repeats.play_order`).
        jumps: as in `Score.jumps`.
    """
    marks = sorted(jumps)
    for moment, mark in marks:
        segnos = [at for at, other in marks if other == SEGNO and at < moment - _NEAR]
        if mark == DA_CAPO or (mark == DAL_SEGNO and segnos):
            back = 0.0 if mark == DA_CAPO else segnos[-1]
            break
    else:
        return order
    last = max((i for i, (start, end) in enumerate(order) if start < moment - _NEAR <= end), default=None)
    if last is None:
        return order
    played = [*order[:last], (order[last][0], min(moment, order[last][1]))]
    behind = [(moment, order[last][1]), *order[last + 1 :]]
    once = _each_once(order)
    fine = next((at for at, other in marks if other == FINE and back < at <= moment + _NEAR), None)
    leave = next((at for at, other in marks if other == TO_CODA and back < at <= moment + _NEAR), None)
    coda = next((at for at, other in marks if other == CODA and leave is not None and at > leave + _NEAR), None)
    if leave is not None and coda is not None:
        way = [*_between(once, back, leave), *_between(once, coda, max(end for _, end in order))]
    elif fine is not None:
        way = _between(once, back, fine)
    else:
        way = [*_between(once, back, moment), *behind]
    return [(start, end) for start, end in [*played, *way] if end > start + _NEAR]


def _each_once(order: list[Stretch]) -> list[Stretch]:
    """What comes last of what comes several times: no bar twice, and of endings the last."""
    kept: list[Stretch] = []
    for start, end in reversed(order):
        if not kept or end <= kept[-1][0] + _NEAR:
            kept.append((start, end))
    return kept[::-1]


def _between(order: list[Stretch], first: float, last: float) -> list[Stretch]:
    return [(max(start, first), min(end, last)) for start, end in order if start < last and end > first]
