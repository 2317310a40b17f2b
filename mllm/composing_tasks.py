"""What can be composed: each task turns a request into a prompt, the words an answer begins with, and a grammar."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from mllm.abc_grammar import MAX_BARS, MAX_VOICES, Part, bar_sixteenths, check_part, separator, tune_grammar
from mllm.abc_harmony import harmony_grammar
from mllm.abc_repair import filled_bar, unit_of
from mllm.abc_validation import parse_tune, split_header
from mllm.errors import ScoreError
from mllm.score import facts, to_abc
from mllm.score_types import Key, Note, Score

RANGES = ((60, 81), (48, 65), (43, 60), (36, 55))  # MIDI pitches of the voices, from the first on
_AROUND = 2  # semitones beyond what a given tune uses
_OCTAVE = 12
_TOKENS_A_SIXTEENTH = 5  # of the longest that the grammar lets through, and with room
_WORDS = 60  # characters of a style or title


@dataclass(frozen=True)
class Request:
    """What a tune shall be. What is None is the source's, or of a free tune C major, 4/4, 8 bars, one voice.

    Attributes:
        task: a name in `TASKS`.
        source: the tune that is gone on with, varied or harmonized; None for a free one.
        key, metre, tempo (quarters a minute): as the header will say them.
        bars: full bars of the whole result; a pickup does not count. A continuation is twice its source by default.
        lowest, highest: MIDI pitches of the first voice.
        voices: how many.
        pickup: quarters before the first full bar.
        style: a word or two for R: and the prompt, such as "jig".
        title: for T:.
    """

    task: str = "free"
    source: Score | None = None
    key: Key | None = None
    metre: tuple[int, int] | None = None
    bars: int | None = None
    lowest: int | None = None
    highest: int | None = None
    tempo: float | None = None
    voices: int | None = None
    pickup: float | None = None
    style: str = ""
    title: str = ""


@dataclass(frozen=True)
class Plan:
    """A request made ready for a model: ask `messages`, begin with `begin`, keep to `grammar`; then `finish`."""

    request: Request  # with everything filled in
    messages: list[dict[str, Any]]
    begin: str
    grammar: str
    max_new_tokens: int
    anchors: tuple[int | None, ...] = ()


def plan(request: Request) -> Plan:
    """What to ask a model for; ScoreError where the request cannot be fulfilled."""
    if request.task not in TASKS:
        raise ScoreError(f"task {request.task!r}: possible are {', '.join(TASKS)}")
    if request.task != "free" and request.source is None:
        raise ScoreError(f"a {request.task} needs a tune to start from")
    if request.tempo is not None and not 20 <= request.tempo <= 400:
        raise ScoreError(f"tempo {request.tempo:g}: possible are 20 to 400 quarter notes a minute")
    if request.pickup is not None and request.task != "free":
        raise ScoreError(f"a pickup can be asked for in a free tune; a {request.task} has its source's")
    request = replace(request, style=one_line(request.style, "style"), title=one_line(request.title, "title"))
    return TASKS[request.task](request)


def one_line(words: str, what: str) -> str:
    """Words that fit in a field of ABC; ScoreError for others."""
    words = " ".join(words.split())
    if len(words) > _WORDS or any(c in words for c in '%\\"') or not words.isprintable():
        raise ScoreError(f"{what} {words[:20]!r}…: up to {_WORDS} characters without % \\ and quotes")
    return words


def _header(request: Request, unit: str | None = None) -> str:
    """The header up to K:, as `to_abc` writes it, and R: for the style."""
    example = Score(request.title, [Note(0.0, 0.5, 60)], request.key, request.metre, request.tempo)
    lines = split_header(to_abc(example))[0].splitlines()
    if unit:
        lines = [f"L:{unit}" if line.startswith("L:") else line for line in lines]
    if request.style:
        lines.insert(len(lines) - 1, f"R:{request.style}")
    return "\n".join(lines) + "\n"


def _controls(request: Request, names: dict[str, str]) -> str:
    """The controls in words."""
    c = Key("C") if request.key is None else request.key
    lowest, highest = request.lowest, request.highest
    words = {
        "key": request.key and request.key.name,
        "metre": request.metre and f"{request.metre[0]}/{request.metre[1]}",
        "bars": request.bars,
        "range": None if lowest is None or highest is None else f"{c.spell(lowest)} to {c.spell(highest)}",
        "tempo": request.tempo and f"{request.tempo:g} quarter notes a minute",
        "voices": request.voices if (request.voices or 1) > 1 else None,
        "style": request.style,
    }
    return " ".join(f"{names[name]}: {value}." for name, value in words.items() if value and name in names)


_ALL = {n: n.capitalize() for n in ("key", "metre", "bars", "range", "tempo", "voices", "style")}


def _plan(request: Request, parts: list[Part], begin: str, unit: Fraction, task: str, shown: str = "") -> Plan:
    assert request.key and request.metre and request.bars is not None
    if len(parts) > 1:
        begin += f"{parts[0].label}\n"
    begin += parts[0].given
    grammar = tune_grammar(request.key, request.metre, request.bars, parts, unit=unit, pickup=request.pickup or 0.0)
    prompt = f"{task} in ABC notation. {_controls(request, _ALL)}"
    new = sum(request.bars + 1 - part.bars_given for part in parts) + sum(p.bars_given for p in parts[1:])
    tokens = new * bar_sixteenths(request.metre) * _TOKENS_A_SIXTEENTH
    return Plan(request, _messages(shown, prompt), begin, grammar, tokens, parts[0].anchors)


def _messages(shown: str, prompt: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": f"{shown}\n{prompt}" if shown else prompt}]


def _labels(count: int) -> list[str]:
    return [f"V:{i}" for i in range(1, count + 1)] if count > 1 else [""]


def _voices(request: Request, source: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Lowest and highest pitch of each voice; what is asked for holds for the first."""
    ranges = list(source)
    low, high = ranges[0]
    ranges[0] = (
        low if request.lowest is None else request.lowest,
        high if request.highest is None else request.highest,
    )
    for lowest, highest in ranges:
        check_part(Part(lowest, highest))
    return ranges


def _free(request: Request) -> Plan:
    voices = 1 if request.voices is None else request.voices
    if not 1 <= voices <= MAX_VOICES:
        raise ScoreError(f"{voices} voices: possible are 1 to {MAX_VOICES}")
    ranges = _voices(request, list(RANGES[:voices]))
    request = replace(
        request,
        key=request.key or Key("C"),
        metre=request.metre or (4, 4),
        bars=8 if request.bars is None else request.bars,
        lowest=ranges[0][0],
        highest=ranges[0][1],
        voices=voices,
        pickup=request.pickup or 0.0,
    )
    assert request.metre
    bar_sixteenths(request.metre)
    parts = [Part(low, high, label) for (low, high), label in zip(ranges, _labels(voices), strict=True)]
    return _plan(request, parts, _header(request), Fraction(1, 2), "Write a tune")


def _given(request: Request) -> Score:
    """The source, with nothing in it but notes, key, metre and tempo; ScoreError where it cannot be worked on."""
    source = request.source
    assert source is not None
    name = source.title or "the tune"
    if source.changes & {"key", "metre"}:
        raise ScoreError(
            f"{name}: changes its {' and '.join(sorted(source.changes & {'key', 'metre'}))}: give a part of it"
        )
    plain = replace(source, tempos=(), repeats=(), jumps=(), chords=(), lyrics=(), graces=(), abc=None, bars=())
    key = plain.key or (Key.from_signature(plain.signature) if plain.signature is not None else None)
    if key is None or plain.metre is None:
        raise ScoreError(f"{name}: states no {'key' if key is None else 'metre'}, which a {request.task} needs")
    for what, asked, has in (("key", request.key, key), ("metre", request.metre, plain.metre)):
        if asked is not None and asked != has:
            raise ScoreError(f"a {request.task} keeps the {what} of its source: leave it out, or transpose the source")
    if not plain.notes:
        raise ScoreError(f"{name}: no notes")
    bar_sixteenths(plain.metre)
    return replace(plain, key=key, tempo=request.tempo or plain.tempo)


def _filled_in(request: Request, source: Score, bars: int, title: str) -> Request:
    voices = sorted({n.voice for n in source.notes})
    if request.voices not in (None, len(voices)) or len(voices) > MAX_VOICES:
        raise ScoreError(f"a {request.task} has the voices of its source, {len(voices)} of at most {MAX_VOICES}")
    return replace(
        request, source=source, key=source.key, metre=source.metre, tempo=source.tempo, pickup=source.pickup,
        bars=bars, voices=len(voices), title=request.title or title,
    )  # fmt: skip


def _ranges(source: Score) -> list[tuple[int, int]]:
    """What each voice uses, and a little more; at least an octave."""
    found = []
    for voice in sorted({n.voice for n in source.notes}):
        pitches = [n.pitch for n in source.notes if n.voice == voice]
        low, high = max(min(pitches) - _AROUND, 0), min(max(pitches) + _AROUND, 127)
        found.append((low, max(high, low + _OCTAVE)))
    return found


def _continuation(request: Request) -> Plan:
    """On from the full bars of the source."""
    source = _given(request)
    written = parse_tune(to_abc(source))
    assert source.bar_length and source.metre and source.key
    upbeat = 1 if source.pickup else 0
    whole = int((source.length - source.pickup + 1e-6) // source.bar_length)
    if whole < 1 or len(written.voices) > MAX_VOICES:
        raise ScoreError(f"a continuation needs one full bar to start from, in at most {MAX_VOICES} voices")
    bars = 2 * whole if request.bars is None else request.bars
    if not whole < bars <= MAX_BARS:
        raise ScoreError(f"{bars} bars: the source has {whole}, so possible are {whole + 1} to {MAX_BARS}")
    request = _filled_in(request, source, bars, f"{source.title}, continued" if source.title else "")
    full = Fraction(4 * source.metre[0], source.metre[1])
    ranges = _voices(request, _ranges(source))
    request = replace(request, lowest=ranges[0][0], highest=ranges[0][1])
    # a voice with overlaps is written as several
    by_part = ranges if len(ranges) == len(written.voices) else [ranges[0]] * len(written.voices)
    parts = []
    for (low, high), label, bars_of in zip(by_part, _labels(len(by_part)), written.voices.values(), strict=True):
        texts = [b.text.strip() if i < upbeat else filled_bar(b, full) for i, b in enumerate(bars_of)]
        rest = filled_bar(replace(bars_of[0], elements=[]), full)
        texts = (texts + [rest] * whole)[: whole + upbeat]
        given = "".join(text + separator(i) for i, text in enumerate(texts))[: -len(" ")]
        parts.append(Part(low, high, label, given, len(texts)))
    header = _header(request, written.header["L"])
    return _plan(request, parts, header, unit_of(written), "Continue this tune", to_abc(source))


def _variation(request: Request) -> Plan:
    """As many bars in the same key and metre; each begins with the theme's note, what comes between is new."""
    source = _given(request)
    assert source.bar_length
    bars = facts(source)["bars"] or 1
    if request.bars not in (None, bars):
        raise ScoreError(f"a variation has as many bars as its theme, {bars}")
    request = _filled_in(request, source, bars, f"Variation on {source.title}" if source.title else "")
    ranges = _voices(request, _ranges(source))
    request = replace(request, lowest=ranges[0][0], highest=ranges[0][1])
    first = min(n.voice for n in source.notes)
    tops = {}
    for note in source.notes:
        if note.voice == first and ranges[0][0] <= note.pitch <= ranges[0][1]:
            tops[round(note.onset, 6)] = max(note.pitch, tops.get(round(note.onset, 6), 0))
    starts = [source.pickup + i * source.bar_length for i in range(bars - 1)]  # the last bar closes on the tonic
    anchors = [None] * bool(source.pickup) + [tops.get(round(start, 6)) for start in starts]
    labels = _labels(len(ranges))
    parts = [Part(low, high, label) for (low, high), label in zip(ranges, labels, strict=True)]
    parts[0] = replace(parts[0], anchors=tuple(anchors))
    return _plan(request, parts, _header(request), Fraction(1, 2), "Write a variation on this tune", to_abc(source))


def _harmonization(request: Request) -> Plan:
    """Chord symbols over the source, whose notes stay."""
    source = _given(request)
    bars = facts(source)["bars"] or 1
    if bars > MAX_BARS or request.bars not in (None, bars):
        raise ScoreError(f"a harmonization has the bars of its source, {bars} of at most {MAX_BARS}")
    if request.lowest is not None or request.highest is not None:
        raise ScoreError("a harmonization leaves the notes as they are: no range can be asked for")
    request = _filled_in(request, source, bars, source.title)
    grammar, header = harmony_grammar(source)
    shown = to_abc(source)
    unit = next(line[2:] for line in header.splitlines() if line.startswith("L:"))
    prompt = (
        f"Write chord symbols above this tune in ABC notation. {_controls(request, {'key': 'Key', 'style': 'Style'})}"
    )
    return Plan(request, _messages(shown, prompt), _header(request, unit), grammar, len(shown) + 16 * bars)


TASKS: dict[str, Callable[[Request], Plan]] = {
    "free": _free,
    "continuation": _continuation,
    "variation": _variation,
    "harmonization": _harmonization,
}
