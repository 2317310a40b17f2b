"""Licences by one canonical name each, and which a mixture lets in; an unknown licence is refused, never guessed."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from mllm.errors import MllmError


class DataError(MllmError):
    """A mixture, recipe or source cannot be used; the message says which and what to do."""


@dataclass(frozen=True)
class Licence:
    """A family of licences; versions of one family differ in wording, not in what they let us do."""

    title: str
    commercial: bool = True
    derivatives: bool = True


LICENCES: dict[str, Licence] = {
    "public-domain": Licence("in the public domain"),
    "cc0": Licence("Creative Commons Zero"),
    "cc-by": Licence("Creative Commons Attribution"),
    "cc-by-sa": Licence("Creative Commons Attribution-ShareAlike"),
    "cc-by-nc": Licence("Creative Commons Attribution-NonCommercial", commercial=False),
    "cc-by-nc-sa": Licence("Creative Commons Attribution-NonCommercial-ShareAlike", commercial=False),
    "cc-by-nd": Licence("Creative Commons Attribution-NoDerivatives", derivatives=False),
    "cc-by-nc-nd": Licence("Creative Commons Attribution-NonCommercial-NoDerivatives", False, False),
    "mit": Licence("MIT"),
    "apache": Licence("Apache"),
    "bsd": Licence("BSD"),
    "gpl": Licence("GNU General Public License"),
    "non-commercial": Licence("non-commercial terms of its own", commercial=False),
    "research-only": Licence("research use only", commercial=False),
}
OURS = "apache-2.0"
"""Licence of what this project writes itself, such as the rows of music theory."""
PER_TRACK = "per-track"
"""What a recipe says whose every item names its own licence."""
SHIPPABLE = ("public-domain", "cc0", "cc-by", "cc-by-sa", "mit", "apache", "bsd")
"""Licences under which trained weights may ship; what a mixture allows unless it says otherwise."""

# Refused by name wherever a name, title, loader, licence text or address of a source says so.
FORBIDDEN = {
    "thesession": "its terms prohibit training language models (2025-10) and any LLM use (2026-06)",
    "irishman": "derived from TheSession, whose terms prohibit training language models",
    "folkrnn": "derived from TheSession, whose terms prohibit training language models",
}

_NAME = re.compile(r"^([a-z][a-z0-9-]*?)(?:-(\d+(?:\.\d+)*))?$")
_CC_ADDRESS = re.compile(r"creativecommons\.org/(?:licenses/(by[a-z-]*)/(\d\.\d)|publicdomain/(zero|mark)/(\d\.\d))")
_CC_TEXT = re.compile(
    r"(?:(?:cc|creative commons)[\s_-]*|^)((?:by|nc|sa|nd)(?:[\s_-]+(?:by|nc|sa|nd))*)(?![a-z])"
    r"[\s_-]*(?:v?(\d(?:\.\d)?))?"
)
_WORDS = {
    "attribution": "by",
    "noncommercial": "nc",
    "non-commercial": "nc",
    "non commercial": "nc",
    "sharealike": "sa",
    "share-alike": "sa",
    "share alike": "sa",
    "noderivatives": "nd",
    "noderivs": "nd",
    "no derivatives": "nd",
    "no derivative works": "nd",
}
_CONDITION = re.compile(
    r"\b(no|non|not|nc|nd|sa|only|except|unless|without|deriv\w*|shar\w*|commercial\w*|personal|research|academic)\b"
)
"""Words that, after a licence's name, could say more than the name."""


def family(licence: str) -> str:
    """`cc-by-sa-3.0` -> `cc-by-sa`. Raises DataError for a name that is not in LICENCES."""
    match = _NAME.match(licence)
    if match and match[1] in LICENCES:
        return match[1]
    raise DataError(f"unknown licence {licence!r}: known are {', '.join(LICENCES)}, each with or without a version")


def normalise(text: str) -> str:
    """The canonical name in an address or text, for example `http://creativecommons.org/licenses/by-nc/3.0/us/`.

    Raises DataError where the text does not say clearly which licence it is: a guess would be somebody's right.
    """
    plain = " ".join(text.lower().split())
    if (match := _NAME.match(plain)) and match[1] in LICENCES:
        return plain
    if match := _CC_ADDRESS.search(plain):
        if match[1]:
            return f"{_ordered(match[1])}-{match[2]}"
        return f"cc0-{match[4]}" if match[3] == "zero" else "public-domain"
    if plain in ("cc0", "cc-0", "cc zero") or plain.startswith(("cc0 ", "cc0-", "creative commons zero")):
        return "cc0"
    for word, short in _WORDS.items():
        plain = plain.replace(word, short)
    match = _CC_TEXT.search(plain)
    # A word that hangs on the name by a hyphen ("cc-by-noncom") is a condition that we do not know.
    hangs = match and not match[2] and re.match(r"[-_][a-z]", plain[match.end(1) :])
    if match and not hangs and not _CONDITION.search(plain[match.end() :]):
        return _ordered(match[1]) + (f"-{match[2]}" if match[2] else "")
    if re.fullmatch(r"pd|public domain( mark)?( \d\.\d)?", plain):
        return "public-domain"
    for start, name in (("apache", "apache"), ("mit", "mit"), ("bsd", "bsd")):
        if re.fullmatch(rf"{start}([- ]?(licen[cs]e|\d[\w.-]*).*)?", plain):
            return name
    raise DataError(f"licence {text!r} is not one that we know: say it as one of {', '.join(LICENCES)}")


def _ordered(parts: str) -> str:
    found = [p for p in ("by", "nc", "sa", "nd") if p in re.split(r"[\s_-]+", parts)]
    name = "-".join(["cc", *found])
    if name not in LICENCES:
        raise DataError(f"licence {parts!r} is not one of Creative Commons")
    return name


def refusal(licence: str, allow: Iterable[str]) -> str | None:
    """Why an item under `licence` may not enter a mixture that allows `allow`, or None where it may.

    `allow` holds families (`cc-by` lets every version in) or exact names (`cc-by-4.0`).
    """
    try:
        of = family(licence)
    except DataError as error:
        return str(error)
    if licence in allow or of in allow:
        return None
    return f"licence {licence} is not among those allowed ({', '.join(allow)})"


def font_refusal(licence: str, allow: Iterable[str]) -> str | None:
    """Why a soundfont under `licence` may not sound in a mixture that allows `allow`, or None where it may.

    What a licence asks of copies of the soundfont (GPL, share-alike) does not reach the recordings, which are none;
    what it forbids to do with it (sell, change) does, so that has to be allowed.

    Raises:
        DataError: the text names no licence that we know.
    """
    name = normalise(licence)
    of = LICENCES[family(name)]
    return None if of.commercial and of.derivatives else refusal(name, allow)


_ASKS_MORE = ("public-domain", "cc0", "mit", "bsd", "apache", "cc-by", "cc-by-sa")


def strictest(licences: Iterable[str]) -> str:
    """Of several licences the one that asks most: what is made of all of them is under it."""
    return max(licences, key=lambda one: _ASKS_MORE.index(of) if (of := family(one)) in _ASKS_MORE else len(_ASKS_MORE))


def refuse_forbidden(text: str, what: str) -> None:
    """Raise DataError when `text` (names, licence, address) shows a source that nobody may use with an LLM."""
    flat = "".join(c for c in text.lower() if c.isalnum())
    for mark, why in FORBIDDEN.items():
        if mark in flat:
            raise DataError(f"{what} is refused ({mark}): {why}; remove it from the mixture")
