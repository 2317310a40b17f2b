"""ABC tunes inside other text, such as the answer of a language model."""

from __future__ import annotations

import re

_MOST = 100_000  # characters that are searched
_FENCES = ("```", "~~~")
_FIELD = re.compile(r"[A-Za-z+]:(?![|:])|%")
_NOT_NOTES = re.compile(r'"[^"]*"|![^!\s]*!|\[[A-Za-z]:[^\[\]]*\]|%.*')
_NOTE = re.compile(r"[A-Ga-g]")
_BARS_ONLY = re.compile(r"[|:\[\]\d\s().zZxXy/-]+")
# A word with a letter that is neither a note, a rest nor one of ABC's usual decorations.
_PROSE = re.compile(r"(?<![A-Za-z])(?=[A-Za-z]{2})[A-Za-z]*[h-twI-KNQRU-WY]")


def find_abc(text: str) -> list[str]:
    """The ABC tunes in a text, in their order: each has a K: field and notes in a later line.

    A tune begins with the first of its fields (X: may be missing) at the start of a line. It ends before prose, before
    the next X:, before a blank line behind its notes, and with the ``` that it stands in, where blank lines do not end
    it. Whether it can be read, `mllm.score.read_score` tells. Of long texts the first 100,000 characters are searched.

    Returns:
        texts without blank lines that end in a newline; [] where there is none.
    """
    tunes: list[str] = []
    lines: list[str] = []  # of the tune that is being read
    in_body = has_notes = fenced = False
    for line in [*map(str.strip, text[:_MOST].splitlines()), "X:"]:
        is_field = bool(_FIELD.match(line))
        fence = line.startswith(_FENCES)
        goes_on = not fence and not line.startswith("X:") and (is_field or (in_body and _is_music(line)))
        if not line and (fenced or not has_notes):
            continue
        if not goes_on:
            if has_notes:
                tunes.append("\n".join(lines) + "\n")
            lines, in_body, has_notes = [], False, False
            fenced ^= fence
        if is_field or goes_on:
            lines.append(line)
            in_body = in_body or line.startswith("K:")
            has_notes = has_notes or (in_body and not is_field and bool(_NOTE.search(_NOT_NOTES.sub(" ", line))))
    return tunes


def _is_music(line: str) -> bool:
    bare = _NOT_NOTES.sub(" ", line)
    return bool(_BARS_ONLY.fullmatch(bare)) or bool(_NOTE.search(bare)) and not _PROSE.search(bare)
