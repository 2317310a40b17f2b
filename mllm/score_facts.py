"""What is exactly true of a score. What the score does not say is None.

`facts` is quick and reads what is written. `all_facts` adds what is counted, compared and analysed, and needs music21.
"""

from typing import TypedDict

from mllm.errors import ScoreError
from mllm.score_bars import bars_of_score, pitched, spelling_key
from mllm.score_form import UNITS, Form, form
from mllm.score_harmony import (
    Cadence,
    Numeral,
    WrittenChord,
    analysed_key,
    chord_symbols,
    read_analysis,
    written_cadences,
)
from mllm.score_melody import Motion, contour, intervals, largest_leap, melody_of, motion
from mllm.score_rhythm import commonest_value, note_values, polyphony
from mllm.score_types import Score

FIRST_NOTES = 8


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


class AllFacts(Facts):
    """The facts of a score, all of them; see `all_facts`."""

    key_analysed: str | None
    key_correlation: float | None
    intervals: dict[str, int]
    largest_leap: str | None
    motion: Motion | None
    rhythm: dict[str, int]
    commonest_value: str | None
    polyphony: int
    mean_polyphony: float | None
    chord_symbols: list[WrittenChord] | None
    roman_numerals: list[Numeral] | None
    cadences: list[Cadence] | None
    form: list[Form] | None


def facts(score: Score) -> Facts:
    """The facts of a score that it states, and what can be read off it at once; `all_facts` has the others.

    - `title`, `instruments` (a name a voice, "" where none is given), `voices` (how many).
    - `key`: as written at the start, "F# minor"; None where the source gives none, or a signature without a mode.
    - `metre`: as written at the start, "6/8". `tempo`: quarter notes a minute at the start.
    - `bars`: full bars, the pickup not counted; a bar broken up around a repeat counts once (see
      `score_bars.bars_of_score`). Repeats count as the score has them. None without a metre.
    - `notes`: sounding notes; tied notes are one, grace notes and drums none.
    - `lowest`, `highest`: names with octave, "D5" (C4 is middle C), spelled by the key; `range`: semitones between.
    - `contour`: of the melody, see `score_melody.contour`. `first_notes`: letter names of its first eight notes, "F#".
    - `pickup`: whether it starts before the first full bar. `changes`: which of key, metre, tempo change later on.

    The melody is the highest note at each onset of the first voice that is not drums.
    """
    notes = pitched(score)
    melody = melody_of(notes)
    key = spelling_key(score, 0.0)
    low, high = min((n.pitch for n in notes), default=None), max((n.pitch for n in notes), default=None)
    return Facts(
        title=score.title,
        key=score.key.name if score.key else None,
        metre=f"{score.metre[0]}/{score.metre[1]}" if score.metre else None,
        tempo=score.tempo,
        bars=sum(bar.number > 0 for bar in bars_of_score(score)) if score.metre else None,
        notes=len(notes),
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


def all_facts(score: Score, analysis: str | None = None) -> AllFacts:
    """The facts of a score: those of `facts`, and what is counted, compared or analysed. It loads music21.

    Args:
        score: what is asked about.
        analysis: a Roman-numeral analysis of it by somebody, as RomanText, which says what chord symbols do not: each
            chord in its key, and where phrases end.

    Each is defined where it is made, with its source:

    - `key_analysed`, `key_correlation`: by the profile of Temperley, Kostka and Payne; the one fact that is an
      estimate. See `score_harmony.analysed_key`.
    - `intervals`: of the melody, {"M2": 12}; see `score_melody.intervals`. `largest_leap`: the widest, "P8".
      `motion`: which part are repeated notes, steps and leaps; see `score_melody.motion`.
    - `rhythm`: notes of each length in quarters, {"1/2": 20}; see `score_rhythm.note_values`. `commonest_value`.
    - `polyphony`: the most notes that sound at once; `mean_polyphony`: the mean while any does; see
      `score_rhythm.polyphony`.
    - `chord_symbols`: those written, with bar, beat and Roman numeral; see `score_harmony.chord_symbols`.
    - `roman_numerals`: those of the analysis, with bar, beat and key; see `score_harmony.read_analysis`. None without.
    - `cadences`: of the analysis, where its phrases end; see `score_harmony.cadences`. Without one, of the chord
      symbols, where sections end; see `score_harmony.written_cadences`. None without either.
    - `form`: in letters, by units of 4 and of 8 bars, repeats played out; see `score_form.form`. None where there are
      not two units of either.

    What stands in each bar is longer than all of these: `score_bars.bar_contents`.

    Raises:
        ScoreError: `analysis` is not RomanText, or has bars that the score does not have.
    """
    read = None
    if analysis is not None:
        read = read_analysis(analysis)
        if beyond := {one["bar"] for one in read.numerals} - {bar.number for bar in bars_of_score(score)}:
            what = f"the analysis has a bar {min(beyond)}, the score has none"
            raise ScoreError(f"{what}: it is of another piece or edition")
    key = analysed_key(score)
    most, mean = polyphony(score)
    forms = [found for unit_bars in UNITS if (found := form(score, unit_bars))]
    return AllFacts(
        **facts(score),
        key_analysed=key.key.name if key else None,
        key_correlation=key.correlation if key else None,
        intervals=dict(intervals(score)),
        largest_leap=largest_leap(score),
        motion=motion(score),
        rhythm=dict(note_values(score)),
        commonest_value=commonest_value(score),
        polyphony=most,
        mean_polyphony=mean,
        chord_symbols=chord_symbols(score),
        roman_numerals=read.numerals if read else None,
        cadences=read.cadences() if read else written_cadences(score),
        form=forms or None,
    )
