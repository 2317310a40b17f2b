"""Synthetic claims with known truth: what an answer may say of a piece, in several wordings and styles of answer."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass

from mllm.eval.verification_pieces import INSTRUMENTS, Piece
from mllm.score import Key

CALLED = {
    "Acoustic Grand Piano": "piano", "Acoustic Guitar (nylon)": "guitar", "Church Organ": "church organ",
    "Alto Sax": "alto saxophone", "Orchestral Harp": "harp",
}  # fmt: skip
METRES = ("2/4", "3/4", "4/4", "6/8", "9/8", "2/2")
TEMPO_ERRORS = (0.5, 0.67, 0.75, 0.8, 0.87, 0.92, 1.09, 1.15, 1.25, 1.33, 1.5, 2.0)
# Sentences around the claims that claim nothing themselves.
NEUTRAL = (
    "Here is what I can make out.", "The melody is well shaped.", "Shall I check whether it is in C major?",
    "If it were in 5/4, it would limp.", "Music of this kind was played at dances.", "Let me know if you need more.",
)  # fmt: skip


@dataclass(frozen=True)
class Statement:
    """One claim, as it can be said. In the wordings {} stands for the value."""

    kind: str
    value: str
    holds: bool  # whether the value is true
    says: tuple[str, ...]
    denies: tuple[str, ...]
    label: str | None = None  # of a list
    field: str | None = None  # of JSON
    question: str | None = None  # that the value alone answers


@dataclass(frozen=True)
class Planted:
    """A claim in an answer: where it stands and whether what the answer says is true."""

    kind: str
    true: bool
    span: tuple[int, int]


@dataclass(frozen=True)
class Answer:
    """An answer about one piece, with the claims in it."""

    piece: Piece
    text: str
    style: str
    question: str
    planted: tuple[Planted, ...]


Maker = Callable[[Piece, random.Random, bool], Statement]


def _key(piece: Piece, draw: random.Random, holds: bool) -> Statement:
    key = piece.score.key
    assert key is not None
    others = [Key.of(pc, mode) for pc in range(12) for mode in ("major", "minor")]
    near = [k for k in others if (k.signature - key.signature) % 12 in (0, 1, 11) or k.pitch_class == key.pitch_class]
    wrong = [k for k in draw.choice((near, others)) if (k.pitch_class, k.mode) != (key.pitch_class, key.mode)]
    name = (key if holds else draw.choice(wrong)).name
    if draw.random() < 0.3:
        name = name.replace("#", "-sharp").replace("b ", "-flat ")
    says = ("It is in {}.", "The piece is in {}, I think.", "The key is {}.", "This dance tune stays in {} throughout.")
    denies = ("It is not in {}.", "The key isn't {}.")
    return Statement("key", name, holds, says, denies, "Key", "key", "What key is it in?")


def _tempo(piece: Piece, draw: random.Random, holds: bool) -> Statement:
    bpm, quarters = piece.bpm, piece.score.tempo or 0.0
    if holds:
        value = draw.choice((bpm, bpm, round(bpm * 1.02), round(bpm * 0.98)))
    else:
        wrong = [round(bpm * error) for error in TEMPO_ERRORS]
        value = draw.choice([w for w in wrong if abs(w / quarters - 1) > 0.06 and abs(w / bpm - 1) > 0.06])
    says = ("The tempo is about {} BPM.", "It goes at {} beats per minute.", "I hear a pulse of around {} bpm.")
    denies = ("The tempo is not {} BPM.",)
    return Statement("tempo", f"{value:g}", holds, says, denies, "Tempo", "tempo", "What is the tempo?")


def _metre(piece: Piece, draw: random.Random, holds: bool) -> Statement:
    assert piece.score.metre is not None
    true = f"{piece.score.metre[0]}/{piece.score.metre[1]}"
    value = true if holds else draw.choice([m for m in METRES if m != true])
    says = ("It is in {}.", "The time signature is {}.", "The metre is {} all along.", "It is written in {} time.")
    denies = ("It is not in {} time.", "The time signature isn't {}.")
    return Statement("metre", value, holds, says, denies, "Time signature", "time_signature", "What is the metre?")


def _spell(piece: Piece, pitch: int) -> str:
    assert piece.score.key is not None
    return piece.score.key.spell(pitch)


def _letter(piece: Piece, pitch: int) -> str:
    return _spell(piece, pitch).rstrip("-0123456789")


def _other_pitch(pitch: int, draw: random.Random) -> int:
    return pitch + draw.choice((-7, -5, -4, -3, -2, -1, 1, 2, 3, 4, 5, 7))


def _first_note(piece: Piece, draw: random.Random, holds: bool) -> Statement:
    pitch = piece.melody[0].pitch
    value = _spell(piece, pitch if holds else _other_pitch(pitch, draw))
    says = ("It starts on {}.", "The melody begins with {}.", "The first note is {}.")
    denies = ("It does not start on {}.",)
    return Statement("note", value, holds, says, denies, "First note", "first_note", "What is the first note?")


def _first_notes(piece: Piece, draw: random.Random, holds: bool) -> Statement:
    pitches = [n.pitch for n in piece.melody[:4]]
    if not holds:
        wrong = draw.sample(range(4), draw.choice((2, 3, 4)))
        pitches = [_other_pitch(p, draw) if i in wrong else p for i, p in enumerate(pitches)]
    names = [_letter(piece, p) for p in pitches]
    value = draw.choice((", ".join(names[:-1]) + " and " + names[-1], " ".join(names), ", ".join(names)))
    says = ("The first four notes are {}.", "It opens with the notes {}.", "The first notes are {}.")
    asked = "What are the first four notes?"
    return Statement("note", value, holds, says, (), None, "first_notes", asked)


def _extreme(what: str) -> Maker:
    def make(piece: Piece, draw: random.Random, holds: bool) -> Statement:
        """A statement about the extreme note, true if `holds`."""
        pick = max if what == "highest" else min
        true = {pick(n.pitch for n in piece.melody), pick(n.pitch for n in piece.score.notes)}
        pitch = pick(n.pitch for n in piece.melody)
        value = pitch
        while not holds and value in true:
            value = _other_pitch(pitch, draw)
        says = (
            f"The {what} note of the melody is {{}}.",
            f"{{}} is the {what} melody note.",
            f"The {what} melody note is {{}}.",
        )
        asked = f"What is the {what} note of the melody?"
        label, field = f"{what.title()} note", f"{what}_note"
        return Statement("note", _spell(piece, value), holds, says, (), label, field, asked)

    return make


def _instrument(piece: Piece, draw: random.Random, holds: bool) -> Statement:
    playing = [CALLED.get(name, name.lower()) for name in piece.score.instruments]
    absent = [called for name in INSTRUMENTS if (called := CALLED.get(name, name.lower())) not in playing] + ["drums"]
    value = draw.choice(playing if holds else absent)
    says = ("It is played by {}.", "I can hear {} here.", "The melody comes with {} in the ensemble.")
    denies = ("There is no {}.", "It is played without {}.", "I do not hear any {}.")
    return Statement("instrument", value, holds, says, denies, "Instruments", "instruments", "Which instrument plays?")


def _bar_count(piece: Piece, draw: random.Random, holds: bool) -> Statement:
    count = len(piece.bars)
    value = count if holds else draw.choice((count - 4, count - 1, count + 1, count + 4, count * 2))
    says = ("It has {} bars.", "The tune is {} bars long.", "There are {} measures in it.")
    denies = ("It does not have {} bars.",)
    return Statement("bar", str(value), holds, says, denies, "Bars", "bars", "How many bars are there?")


def _bar_first(piece: Piece, draw: random.Random, holds: bool) -> Statement:
    inside: list[list[int]] = [
        [n.pitch for n in piece.melody if start - 1e-6 <= n.onset < end - 1e-6] for start, end in piece.bars
    ]
    number = draw.choice([i for i, pitches in enumerate(inside) if pitches])
    pitch = inside[number][0]
    value = _letter(piece, pitch if holds else _other_pitch(pitch, draw))
    bar = number + 1
    says = (f"Bar {bar} starts with {{}}.", f"Measure {bar} begins on {{}}.")
    return Statement("bar", value, holds, says, ())


def _bar_contains(piece: Piece, draw: random.Random, holds: bool) -> Statement:
    number = draw.randrange(len(piece.bars))
    start, end = piece.bars[number]
    classes = {n.pitch % 12 for n in piece.score.notes if start - 1e-6 <= n.onset < end - 1e-6}
    choices = [pc for pc in range(12) if (pc in classes) == holds]
    if not choices:
        return _bar_count(piece, draw, holds)
    value = _letter(piece, 60 + draw.choice(choices))
    says = (f"In bar {number + 1} there is the note {{}}.", f"Bar {number + 1} contains the note {{}}.")
    return Statement("bar", value, holds, says, (f"There is no {{}} in bar {number + 1}.",))


def _wrong_chord(true: set[str], piece: Piece, draw: random.Random) -> str:
    names = [_letter(piece, 60 + pc) + kind for pc in range(12) for kind in ("", "m")]
    return draw.choice([name for name in names if name not in true])


def _first_chord(piece: Piece, draw: random.Random, holds: bool) -> Statement:
    true = piece.score.chords[0].text
    value = _in_words(true if holds else _wrong_chord({true}, piece, draw), draw)
    says = ("The first chord is {}.", "It opens with a {} chord.", "{} is the first chord.")
    return Statement("chord", value, holds, says, (), "First chord", "first_chord", "What is the first chord?")


def _chord_in_bar(piece: Piece, draw: random.Random, holds: bool) -> Statement:
    number = draw.randrange(len(piece.score.chords))
    true = piece.score.chords[number].text
    value = _in_words(true if holds else _wrong_chord({true}, piece, draw), draw)
    says = (f"There is a {{}} chord in bar {number + 1}.", f"The chord in bar {number + 1} is {{}}.")
    return Statement("chord", value, holds, says, (f"There is no {{}} chord in bar {number + 1}.",))


def _has_chord(piece: Piece, draw: random.Random, holds: bool) -> Statement:
    true = {c.text for c in piece.score.chords}
    value = draw.choice(sorted(true)) if holds else _wrong_chord(true, piece, draw)
    says = ("I hear the {} chord in it.", "Among the harmonies there is a {} chord.")
    return Statement("chord", _in_words(value, draw), holds, says, ("There is no {} chord in it.",))


def _in_words(symbol: str, draw: random.Random) -> str:
    root = symbol.rstrip("m")
    return symbol if draw.random() < 0.5 else f"{root} {'minor' if symbol != root else 'major'}"


MAKERS: dict[str, tuple[Maker, ...]] = {
    "key": (_key,),
    "tempo": (_tempo,),
    "metre": (_metre,),
    "note": (_first_note, _first_notes, _extreme("highest"), _extreme("lowest")),
    "instrument": (_instrument,),
    "bar": (_bar_count, _bar_first, _bar_contains),
    "chord": (_first_chord, _chord_in_bar, _has_chord),
}


def make_answers(pieces: list[Piece], claims: int, seed: int) -> list[Answer]:
    """Answers with `claims` claims in all, evenly of each kind and evenly true and false, about pieces in turn.

    A claim is made of a true or a false value and may deny it; chord claims are about the pieces that have chords.
    """
    draw = random.Random(seed)
    kinds = list(MAKERS)
    made: dict[str, list[tuple[Statement, bool]]] = {piece.name: [] for piece in pieces}
    # In an order of its own for each kind: every second piece has chords, and every second claim is true.
    orders = {
        kind: draw.sample(among, len(among))
        for kind in kinds
        if (among := [piece for piece in pieces if kind != "chord" or piece.score.chords])
    }
    for number in range(claims):
        kind = kinds[number % len(kinds)]
        turn = number // len(kinds)
        piece = orders[kind][turn % len(orders[kind])]
        maker = MAKERS[kind][turn // 2 % len(MAKERS[kind])]
        true, denied = turn % 2 == 0, draw.random() < 0.2
        statement = maker(piece, draw, true != denied)
        if denied and not statement.denies:
            denied, statement = False, maker(piece, draw, true)
        made[piece.name].append((statement, denied))
    answers = []
    for piece in pieces:
        rest = made[piece.name]
        draw.shuffle(rest)
        while rest:
            size = draw.choice((1, 2, 3))
            answers.append(_compose(piece, rest[:size], draw))
            rest = rest[size:]
    return answers


def _compose(piece: Piece, statements: list[tuple[Statement, bool]], draw: random.Random) -> Answer:
    """One answer in a style that can say all of these."""
    plain = not any(denied for _, denied in statements)
    distinct = len({s.field for s, _ in statements}) == len(statements)
    styles = ["sentences", "essay"]
    styles += ["list"] * 2 if plain and all(s.label for s, _ in statements) else []
    styles += ["json"] * 2 if plain and distinct and all(s.field for s, _ in statements) else []
    styles += ["bare"] * 2 if plain and len(statements) == 1 and statements[0][0].question else []
    style = draw.choice(styles)
    return _STYLES[style](piece, style, statements, draw)


def _sentences(piece: Piece, style: str, statements: list[tuple[Statement, bool]], draw: random.Random) -> Answer:
    text, planted = "", []
    for s, denied in statements:
        sentence = draw.choice(s.denies if denied else s.says).replace("{}", s.value)
        if style == "essay":
            text += draw.choice(NEUTRAL) + " "
        planted.append(Planted(s.kind, s.holds != denied, (len(text), len(text) + len(sentence))))
        text += sentence + " "
    return Answer(piece, text.strip(), style, "", tuple(planted))


def _list(piece: Piece, style: str, statements: list[tuple[Statement, bool]], draw: random.Random) -> Answer:
    mark = draw.choice(("- {}: {}\n", "* **{}:** {}\n", "| {} | {} |\n", "{}: {}\n"))
    text, planted = "", []
    for s, _ in statements:
        line = mark.format(s.label, s.value)
        planted.append(Planted(s.kind, s.holds, (len(text), len(text) + len(line))))
        text += line
    return Answer(piece, text, style, "", tuple(planted))


def _json(piece: Piece, style: str, statements: list[tuple[Statement, bool]], draw: random.Random) -> Answer:
    text, planted = "{", []
    for s, _ in statements:
        number = s.value.replace(".", "").isdigit() and draw.random() < 0.7
        field = f"{json.dumps(s.field)}: {s.value if number else json.dumps(s.value)}"
        planted.append(Planted(s.kind, s.holds, (len(text), len(text) + len(field))))
        text += field + ", "
    return Answer(piece, text.removesuffix(", ") + "}", style, "", tuple(planted))


def _bare(piece: Piece, style: str, statements: list[tuple[Statement, bool]], draw: random.Random) -> Answer:
    s = statements[0][0]
    text = draw.choice((s.value, s.value + ".", s.value[:1].upper() + s.value[1:]))
    return Answer(piece, text, style, s.question or "", (Planted(s.kind, s.holds, (0, len(text))),))


_STYLES: dict[str, Callable[[Piece, str, list[tuple[Statement, bool]], random.Random], Answer]] = {
    "sentences": _sentences,
    "essay": _sentences,
    "list": _list,
    "json": _json,
    "bare": _bare,
}
