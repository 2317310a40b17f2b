"""Grammars (EBNF) that lay chord symbols over a given tune: its notes are fixed, the chords are the model's."""

from __future__ import annotations

from dataclasses import replace

from mllm.abc_grammar import either, quoted, scale_pitches
from mllm.abc_validation import split_header
from mllm.abc_writing import to_abc
from mllm.errors import ScoreError
from mllm.score_types import ChordSymbol, Key, Score

_QUALITIES = {(4, 7): "", (3, 7): "m", (3, 6): "dim"}  # of the triads of the seven modes, by semitones above the root
_SLOT = "@@@"  # stands where a chord symbol may, until the grammar is made


def chord_choices(key: Key) -> dict[str, frozenset[int]]:
    """The chord symbols of a key, each with its pitch classes (0 to 11, C = 0).

    Those are the triads of the scale, the dominant seventh of the tonic (in minor with the raised leading note), and
    the dominant sevenths of the other major and minor triads.
    """
    roots = [p % 12 for p in scale_pitches(key, 60, 71)]
    chords: dict[str, frozenset[int]] = {}
    targets = []
    for i, root in enumerate(roots):
        third, fifth = ((roots[(i + step) % 7] - root) % 12 for step in (2, 4))
        quality = _QUALITIES[third, fifth]
        chords[_root_name(key, root) + quality] = frozenset({root, (root + third) % 12, (root + fifth) % 12})
        if quality != "dim":
            targets.append(root)
    for target in targets:
        root = (target + 7) % 12
        if root in roots:
            chords[_root_name(key, root) + "7"] = frozenset((root + step) % 12 for step in (0, 4, 7, 10))
    return chords


def _root_name(key: Key, pitch_class: int) -> str:
    return key.spell(60 + pitch_class).rstrip("-0123456789")


def harmony_grammar(score: Score) -> tuple[str, str]:
    """EBNF of a tune with chord symbols above it, in which the notes are fixed and the chords are free.

    A chord stands at the start of each bar, and may stand in the middle of a bar where a note begins there. It is one
    of `chord_choices` that holds the note which sounds at its moment, where there is such a one.

    Args:
        score: one tune with key and metre; chord symbols that it has already are left out.

    Returns:
        The grammar of what comes after the K: field, and the header up to it (with line break).

    Raises:
        ScoreError: no key or no metre, changes of them, no bars.
    """
    if score.key is None or score.metre is None or score.bar_length is None:
        raise ScoreError(f"{score.title or 'the tune'}: chords need a key and a metre, and it does not state both")
    choices = chord_choices(score.key)
    moments = _chord_moments(score)
    marked = replace(score, chords=tuple(ChordSymbol(moment, _SLOT) for moment in moments))
    header, body = split_header(to_abc(marked))
    pieces = body.rstrip("\n").split(f'"{_SLOT}"')
    if len(pieces) != len(moments) + 1:
        raise ScoreError(f"{score.title or 'the tune'}: its bars cannot be told apart, so no chords can stand on them")
    rules: dict[str, str] = {}
    text = [quoted(pieces[0])] if pieces[0] else []
    for (moment, needed), piece in zip(moments.items(), pieces[1:], strict=True):
        sounding = {n.pitch % 12 for n in score.notes if n.onset <= moment + 1e-6 < n.onset + n.duration}
        fitting = [name for name, held in choices.items() if sounding & held] or list(choices)
        rule = rules.setdefault(either(quoted(f'"{name}"') for name in fitting), f"chord{len(rules)}")
        text += [rule if needed else f"({rule})?", quoted(piece)]
    made = "".join(f"{name} ::= {body}\n" for body, name in rules.items())
    return f"{made}root ::= {' '.join(text)}\n", header


def _chord_moments(score: Score) -> dict[float, bool]:
    """Quarters where a chord may stand, in order, and whether one must."""
    assert score.bar_length is not None
    onsets = {round(n.onset, 6) for n in score.notes}
    half = score.bar_length / 2 if score.bar_length % 1 == 0 or score.metre in ((6, 8), (12, 8)) else None
    found = {}
    start = score.pickup
    while start < score.length - 1e-6:
        found[round(start, 6)] = True
        if half and round(start + half, 6) in onsets:
            found[round(start + half, 6)] = False
        start += score.bar_length
    return found
