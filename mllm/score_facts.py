"""What is exactly true of a score. Nothing here is estimated: what the score does not say is None."""

from typing import TypedDict

from mllm.score_types import DRUMS, Key, Note, Score

FIRST_NOTES = 8
_STEP = 1.0  # semitones that two thirds of a melody must differ by to count as higher or lower


class Facts(TypedDict):
    """The facts of a score; see `facts` for what each one means."""

    title: str
    key: str | None
    metre: str | None
    tempo: float | None
    bars: int | None
    notes: int
    lowest: str | None
    highest: str | None
    range: int | None
    contour: str | None
    first_notes: list[str]
    pickup: bool
    voices: int
    instruments: list[str]
    changes: list[str]


def facts(score: Score) -> Facts:
    """The facts of a score.

    - `title`, `instruments` (a name a voice, "" where none is given), `voices` (how many).
    - `key`: as written at the start, "F# minor"; None where the source gives none, or a signature without a mode.
    - `metre`: as written at the start, "6/8". `tempo`: quarter notes a minute at the start.
    - `bars`: full bars, the pickup not counted; a bar broken up around a repeat counts once. Repeats count as the
      score has them. None without a metre, or where the metre changes.
    - `notes`: sounding notes; tied notes are one, grace notes and drums none.
    - `lowest`, `highest`: names with octave, "D5" (C4 is middle C), spelled by the key; `range`: semitones between.
    - `contour`: of the melody, see `contour`. `first_notes`: letter names of its first eight notes, "F#".
    - `pickup`: whether it starts before the first full bar. `changes`: which of key, metre, tempo change later on.

    The melody is the highest note at each onset of the first voice that is not drums.
    """
    pitched = [n for n in score.notes if not _is_drum(score, n)]
    melody = _melody(pitched)
    key = score.key or Key.from_signature(score.signature or 0)
    low, high = min((n.pitch for n in pitched), default=None), max((n.pitch for n in pitched), default=None)
    bars = None
    if score.bar_length and "metre" not in score.changes:
        bars = -int(-(score.length - score.pickup - 1e-6) // score.bar_length)
    return Facts(
        title=score.title,
        key=score.key.name if score.key else None,
        metre=f"{score.metre[0]}/{score.metre[1]}" if score.metre else None,
        tempo=score.tempo,
        bars=bars,
        notes=len(pitched),
        lowest=None if low is None else key.spell(low),
        highest=None if high is None else key.spell(high),
        range=None if low is None or high is None else high - low,
        contour=contour(melody),
        first_notes=[key.spell(n.pitch).rstrip("-0123456789") for n in melody[:FIRST_NOTES]],
        pickup=score.pickup > 0,
        voices=len({n.voice for n in score.notes}),
        instruments=list(score.instruments),
        changes=sorted(score.changes),
    )


def contour(melody: list[Note]) -> str | None:
    """The shape of a melody by the mean pitch of its first, middle and last third of time.

    Each mean is weighted by duration; a note belongs to the third it starts in. From third to third the melody goes up
    or down when the means differ by a semitone or more, else it stays:
    "ascending" (up, or up and stay), "descending", "arch" (up, then down), "valley" (down, then up), "level".
    None for fewer than three notes or where a third holds no note's start.
    """
    if len(melody) < 3:
        return None
    start = melody[0].onset
    third = (max(n.onset + n.duration for n in melody) - start) / 3
    sums, weights = [0.0] * 3, [0.0] * 3
    for n in melody:
        part = min(int((n.onset - start) / third + 1e-9), 2)
        sums[part] += n.pitch * n.duration
        weights[part] += n.duration
    if not all(weights):
        return None
    first, middle, last = (s / w for s, w in zip(sums, weights, strict=True))
    steps = [(b - a >= _STEP) - (a - b >= _STEP) for a, b in ((first, middle), (middle, last))]
    if steps == [1, -1]:
        return "arch"
    if steps == [-1, 1]:
        return "valley"
    return {1: "ascending", -1: "descending", 0: "level"}[max(-1, min(1, sum(steps)))]


def _is_drum(score: Score, note: Note) -> bool:
    return note.voice < len(score.instruments) and score.instruments[note.voice] == DRUMS


def _melody(pitched: list[Note]) -> list[Note]:
    first = min((n.voice for n in pitched), default=0)
    highest: dict[float, Note] = {}
    for n in pitched:
        if n.voice == first and (n.onset not in highest or n.pitch > highest[n.onset].pitch):
            highest[n.onset] = n
    return [highest[onset] for onset in sorted(highest)]
