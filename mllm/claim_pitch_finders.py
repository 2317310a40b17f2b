"""Finding what one sentence says of bars, notes and chords; see `claim_finders`."""

from __future__ import annotations

from collections.abc import Iterator

from mllm import claim_words as words
from mllm.claim_reading import (
    AN,
    CHORD,
    IS,
    NOTE,
    PITCH,
    SMALL,
    Found,
    Taken,
    any_of,
    bounds,
    number_of,
    pattern,
    read_chord,
    read_list,
    read_note,
    stands_before,
)

# bars
_BAR = r"(?:bar|measure)"
_BAR_COUNT = pattern(
    rf"(?<![\d/.–-])(NUM)[\s-](?:full\s|complete\s|whole\s)?{_BAR}s?\b"
    rf"|\b{_BAR}s\s{{0,3}}[:=|]\s{{0,4}}(NUM)\b|\b{_BAR}s\s(?:is|are)\s(NUM)\b"
)
_BAR_FIRST = pattern(rf"\b{_BAR}\s(\d{{1,4}})\s(?:starts?|begins?|opens?|starting|beginning)\s(?:with|on)\s{SMALL}")
_BAR_HAS = pattern(
    rf"\b{_BAR}\s(\d{{1,4}}),?\s(?:contains?|has|have|includes?|holds?|features?|there\sis|we\shear|you\shear)\s(?:only\s)?{SMALL}"
)
_IN_BAR = pattern(
    rf"[\s,]{{1,2}}(?:(?:appears|occurs|sounds|falls|comes|is\sheard|is\splayed)\s)?in\s{_BAR}\s(\d{{1,4}})\b"
)
_EXTREME_BAR = pattern(rf"\b(highest|lowest)\s(?:melody\s)?{PITCH}\b[^.;]{{0,30}}?\bin\s{_BAR}\s(\d{{1,4}})\b")
_BAR_NUMBER = pattern(rf"\b{_BAR}s?\s(?:no\.?\s|number\s)?(\d{{1,4}})\b")


def find_bars(sentence: str) -> Iterator[Found]:
    """Bars: {"what": "count", "low", "high"}; "first" or "contains" with "bar" and "notes"; "highest" or "lowest" with
    "bar"; "number" with "bar", where all that is said for sure is that there is such a bar.
    """
    taken = Taken(sentence)
    for match in _BAR_COUNT.finditer(sentence):
        after = sentence[match.end() : match.end() + 20].lower().split()
        is_part = stands_before(sentence, match.start(), words.PART_OF_BARS)
        if match[1] and (is_part or (after and {after[0], after[0].strip(".,;)")} & set(words.NOT_A_LENGTH))):
            continue
        taken.take(*match.span())
        count = number_of(next(group for group in match.groups() if group))
        yield {"what": "count"} | bounds(sentence, match.start(), count, count), *match.span()
    for cue, what in ((_BAR_FIRST, "first"), (_BAR_HAS, "contains")):
        for match in cue.finditer(sentence):
            notes, end = read_list(sentence, match.end(), NOTE, read_note)
            if notes and taken.take(match.start(), end):
                yield {"what": what, "bar": int(match[1]), "notes": notes}, match.start(), end
    for match in _EXTREME_BAR.finditer(sentence):
        if taken.take(*match.span()):
            yield {"what": match[1].lower(), "bar": int(match[2])}, *match.span()
    for note in NOTE.finditer(sentence):
        bar = _IN_BAR.match(sentence, note.end())
        if bar and taken.take(note.start(), bar.end()):
            yield {"what": "contains", "bar": int(bar[1]), "notes": [read_note(note)]}, note.start(), bar.end()
    for match in _BAR_NUMBER.finditer(sentence):
        if taken.take(*match.span()):
            yield {"what": "number", "bar": int(match[1])}, *match.span()


# notes
_HAS_AN = r"(?:an?|no)(?=\s[A-G](?:#|b|\d|\s(?:sharp|flat|in\s(?:the|it)|note)))"
_BARE = (
    r"(?:\s(?:is|was|being)\b|\s?[:=|])?\s{0,4}(?=[A-G](?:#|b)?\d)"  # no word "note": its octave says that it is one
)
_NOTE_CUES = {
    "first": pattern(
        rf"\b(?:starts?|begins?|opens?|starting|beginning|opening)\s(?:(?:on|with|at|from)\s|:\s?){SMALL}"
        rf"|\b(?:first|opening|initial|starting)\s(?:NUM\s)?(?:melody\s)?{PITCH}{IS}{SMALL}"
    ),
    "last": pattern(
        rf"\b(?:ends?|finish(?:es)?|closes?|concludes?|ending)\s(?:on|with|at)\s{SMALL}"
        rf"|\b(?:last|final|closing)\s(?:melody\s)?{PITCH}{IS}{SMALL}"
    ),
    "highest": pattern(
        rf"\b(?:highest|top)\s(?:melody\s)?{PITCH}{IS}{SMALL}|\b(?:peaks|climaxes)\s(?:at|on)\s{SMALL}"
        rf"|\bhighest{_BARE}"
    ),
    "lowest": pattern(
        rf"\b(?:lowest|bottom)\s(?:melody\s)?{PITCH}{IS}{SMALL}"
        rf"|\blowest{_BARE}"
    ),
    "range": pattern(
        r"\b(?:range|ranges|compass|ambitus|spans|spanning|ranging|moves|extends|goes)\b"
        r"(?:\sof\sthe\s\w{1,12})?[\s|:=]{0,3}(?:(?:is|runs|goes|from|between)\s){0,3}"
    ),
    "contains": pattern(
        rf"\b(?:contains?|includes?|uses?|features?|has|have|hear|there\sis|there's)\s(?:the\s(?:notes?|pitch(?:es)?)|{_HAS_AN})\s"
    ),
}
_NOTE_IS = pattern(
    rf"\s(?:is|was|as|being)\s(?:the|its)\s(?:(highest|lowest|first|last|top|final|bottom)\s(?:melody\s)?{PITCH}\b"
    r"|(highest|lowest)(?=\s?(?:[.,;!)]|$)|\sand\b))"
)
_SAME = {"top": "highest", "bottom": "lowest", "final": "last"}
_SEMITONES = pattern(r"\b(?:range|compass|ambitus|spans)\b[^.;]{0,20}?\b(NUM)\s(?:semitones|half\ssteps)")
_NOT_A_COUNT = r"(?!\s(?:per|a|in\sbar|above|below|each|higher|lower|long|chord)\b)"
_NOTE_COUNT = pattern(rf"(?<![\w/.])(NUM)\s(?:sounding\s|melody\s)?{PITCH}\b{_NOT_A_COUNT}")


def find_notes(sentence: str) -> Iterator[Found]:
    """Notes: {"what": "first" | "last" | "highest" | "lowest" | "range" | "contains", "notes": ["D5"]}; "count", and
    "range" in semitones, with "low" and "high" and no notes.
    """
    taken = Taken(sentence)
    for what, cue in _NOTE_CUES.items():
        for match in cue.finditer(sentence):
            notes, end = read_list(sentence, match.end(), NOTE, read_note)
            enough = len(notes) == 2 if what == "range" else bool(notes)
            if enough and taken.take(match.start(), end):
                kept = notes if what in ("first", "range", "contains") else notes[:1]
                yield {"what": what, "notes": kept}, match.start(), end
    for note in NOTE.finditer(sentence):
        match_is = _NOTE_IS.match(sentence, note.end())
        if match_is and taken.take(note.start(), match_is.end()):
            what = (match_is[1] or match_is[2]).lower()
            yield {"what": _SAME.get(what, what), "notes": [read_note(note)]}, note.start(), match_is.end()
    for match in _SEMITONES.finditer(sentence):
        count = number_of(match[1])
        yield {"what": "range", "notes": []} | bounds(sentence, match.start(1), count, count), *match.span()
    for match in _NOTE_COUNT.finditer(sentence):
        count = number_of(match[1])
        if count > 2 and not stands_before(sentence, match.start(), words.PART_OF_NOTES):
            yield {"what": "count", "notes": []} | bounds(sentence, match.start(), count, count), *match.span()


# chords
_THEN_CHORD = rf"(?=[A-G][^\s,.;]{{0,8}}(?:\s(?:{any_of(words.CHORD_KINDS)}))?\s(?:chord|triad)\b)"
_CHORD_CUES = {
    "first": pattern(
        rf"\b(?:first|opening|initial)\s(?:chord|harmony){IS}{AN}"
        rf"|\b(?:starts?|begins?|opens?)\s(?:on|with)\s(?-i:an?\s|the\s)?(?:{_THEN_CHORD}|chord\s(?:of\s)?)"
    ),
    "last": pattern(
        rf"\b(?:last|final|closing)\s(?:chord|harmony){IS}{AN}"
        rf"|\b(?:ends?|finish(?:es)?|closes?)\s(?:on|with)\s(?-i:an?\s|the\s)?{_THEN_CHORD}"
    ),
    "sequence": pattern(r"\b(?:chord\s)?progression\b[\s:|]{0,3}(?:(?:is|of|goes|runs)[\s:]{1,2})?"),
    "contains": pattern(
        r"\bchords\b[\s:|]{0,3}(?:(?:used\s)?(?:are|is|of|include|such\sas|like)[\s:]{1,2})?"
        rf"|\b(?:an?|the|no)\s{_THEN_CHORD}|\bchord\s(?:of\s)?(?=[A-G])"
    ),
}
_CHORD_IS = pattern(r"\sis\sthe\s(?:(first|opening|last|final|closing)\s)?chord\b")
_CHORD_BAR = pattern(rf"(?:\s(?:sounds|appears|occurs|stands))?\s(?:in|at|of)\s{_BAR}\s(\d{{1,4}})\b")
_BAR_CHORD = pattern(
    rf"\b{_BAR}\s(\d{{1,4}})[\s,:]{{1,2}}(?:(?:has|is|uses|carries|harmonised\swith|the|chord|harmony|(?-i:an?))\s){{1,4}}"
    rf"|\bchord\s(?:in|of|at)\s{_BAR}\s(\d{{1,4}})\s?(?:is|:)\s{AN}"
)
_CHORD_NOUN = pattern(r"\s?-?(?:chords?|triad)\b")
_PLACES = {"opening": "first", "final": "last", "closing": "last"}


def find_chords(sentence: str) -> Iterator[Found]:
    """Chords: {"what": "first" | "last" | "contains" | "sequence", "chords": ["Am7"], "bar": 3 or None}."""
    lowered = sentence.lower()
    if not any(noun in lowered for noun in words.CHORD_NOUNS):
        return
    taken = Taken(sentence)
    for match in _BAR_CHORD.finditer(sentence):
        chord = CHORD.match(sentence, match.end())
        if chord and "chord" in (match[0] + sentence[chord.end() : chord.end() + 7]).lower():
            noun = _CHORD_NOUN.match(sentence, chord.end())
            end = noun.end() if noun else chord.end()
            if taken.take(match.start(), end):
                yield (
                    {"what": "contains", "chords": [read_chord(chord)], "bar": int(match[1] or match[2])},
                    match.start(),
                    end,
                )
    found: list[tuple[str, list[str], int, int]] = []
    for what, cue in _CHORD_CUES.items():
        for match in cue.finditer(sentence):
            chords, end = read_list(sentence, match.end(), CHORD, read_chord)
            if chords:
                found.append((what, chords[:1] if what in ("first", "last") else chords, match.start(), end))
    for chord in CHORD.finditer(sentence):
        if place := _CHORD_IS.match(sentence, chord.end()):
            what = (place[1] or "contains").lower()
            found.append((_PLACES.get(what, what), [read_chord(chord)], chord.start(), place.end()))
    for what, chords, start, end in found:
        noun = _CHORD_NOUN.match(sentence, end)
        end = noun.end() if noun else end
        bar = _CHORD_BAR.match(sentence, end)
        end = bar.end() if bar else end
        if taken.take(start, end):
            yield {"what": what, "chords": chords, "bar": int(bar[1]) if bar else None}, start, end
