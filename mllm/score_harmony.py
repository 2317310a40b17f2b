"""Harmony of a score: the key by analysis, chord symbols with their Roman numerals, analyses by others, cadences."""

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import groupby
from typing import Any, NamedTuple, TypedDict

from mllm.chord_symbols import to_music21
from mllm.errors import ScoreError
from mllm.score_bars import NEAR, bar_at, bars_of_score, pitched
from mllm.score_form import section_ends
from mllm.score_types import Key, Score

_LONGEST_ANALYSIS = 300_000  # letters: an opera's
_MOST_COPIED = 1000  # bars
_STEPS = "CDEFGAB"
_NUMERALS = ("I", "II", "III", "IV", "V", "VI", "VII")
# music21's kind of chord -> upper or lower case, mark of quality, whether it has a seventh
_KINDS = {
    "major": (True, "", False),
    "minor": (False, "", False),
    "augmented": (True, "+", False),
    "diminished": (False, "o", False),
    "dominant-seventh": (True, "", True),
    "major-seventh": (True, "maj", True),
    "minor-seventh": (False, "", True),
    "minor-major-seventh": (False, "maj", True),
    "half-diminished-seventh": (False, "ø", True),
    "diminished-seventh": (False, "o", True),
}
_FIGURES = {False: ("", "6", "64"), True: ("7", "65", "43", "42")}  # by inversion
_CADENCES = {("V", "I"): "authentic", ("IV", "I"): "plagal", ("V", "VI"): "deceptive"}
_DEGREE = re.compile(r"(?:V|I|i|IV|iv|VI|vi)(?![IViv])")  # of chords that cadences are made of; "v" is no dominant
_HALF_DIMINISHED = re.compile(r"m(?:in)?7\(?b5\)?(?=/|$)")  # music21 reads this as a chord with a note added
_APPLIED = re.compile(r"/[#b]*[IViv]")  # V7/IV, and not the figures of V6/5


class AnalysedKey(NamedTuple):
    """What key analysis says."""

    key: Key
    correlation: float  # of the notes with the profile of this key, -1 to 1


class WrittenChord(TypedDict):
    """A chord symbol of the score; see `chord_symbols`."""

    bar: int | None
    beat: float | None
    symbol: str
    roman: str | None


class Chord(NamedTuple):
    """A chord as a Roman-numeral analysis has it."""

    moment: float  # when it starts, in quarters or any other measure of time
    bar: int | None
    roman: str | None
    key: str | None  # "F# minor"


class Numeral(TypedDict):
    """A chord of a Roman-numeral analysis; see `read_analysis`."""

    bar: int
    beat: float
    roman: str
    key: str | None


class Cadence(TypedDict):
    """A cadence; see `cadences`."""

    bar: int | None
    kind: str
    chords: list[str]
    key: str


class Analysis(NamedTuple):
    """A Roman-numeral analysis: its chords, and after how many of them each phrase ends."""

    numerals: list[Numeral]
    phrase_ends: list[int]

    def cadences(self) -> list[Cadence]:
        """See `cadences`."""
        chords = [Chord(place, one["bar"], one["roman"], one["key"]) for place, one in enumerate(self.numerals)]
        return cadences(chords, self.phrase_ends)


def analysed_key(score: Score) -> AnalysedKey | None:
    """The key whose profile correlates best with how long each pitch class sounds: an estimate, not what is written.

    music21's `TemperleyKostkaPayne` (Temperley, "Music and Probability", 2007: how often each scale degree occurs in
    the examples of Kostka and Payne's harmony book), by the method of Krumhansl and Schmuckler. Major and minor alone.
    All voices but drums count, over the whole score. The tonic is spelled as in the key the score states where that is
    the same note, else as usual. None where every pitch class sounds equally long, or nothing does.
    """
    from music21 import note, stream
    from music21.analysis.discrete import DiscreteAnalysisException, TemperleyKostkaPayne

    durations = [0.0] * 12
    for n in pitched(score):
        durations[n.pitch % 12] += n.duration
    if max(durations) - min(durations) < NEAR:
        return None
    # The analysis looks at durations alone: a note a pitch class is as good as thousands, and much quicker.
    sums = stream.Stream()
    for pitch_class, duration in enumerate(durations):
        if duration:
            sums.append(note.Note(60 + pitch_class, quarterLength=round(duration, 4)))
    try:
        (tonic, mode, correlation), _ = TemperleyKostkaPayne().process(sums)
    except DiscreteAnalysisException:
        return None
    found = Key.of(tonic.pitchClass, str(mode))
    if score.key and score.key.pitch_class == found.pitch_class:
        found = Key(score.key.tonic, found.mode)
    return AnalysedKey(found, round(float(correlation), 3))


def chord_symbols(score: Score) -> list[WrittenChord] | None:
    """The chord symbols written above the notes, in order; None where there are none.

    `bar` and `beat`: where each stands (see `score_bars.Bar`), None without a metre. `symbol`: as written. `roman`: its
    numeral in the key in force, see `roman_numeral`; None where the score gives no key there, only a signature or
    nothing: the key is never guessed.
    """
    bars = bars_of_score(score)
    found: list[WrittenChord] = []
    for chord in score.chords:
        bar, key = bar_at(bars, chord.onset), score.key_at(chord.onset)
        found.append(
            WrittenChord(
                bar=bar.number if bar else None,
                beat=bar.beat(chord.onset) if bar else None,
                symbol=chord.text,
                roman=roman_numeral(chord.text, key) if isinstance(key, Key) else None,
            )
        )
    return found or None


@lru_cache(maxsize=4096)
def roman_numeral(symbol: str, key: Key) -> str | None:
    """The Roman numeral of a chord symbol in a key: "A7/C#" in D major is "V65". None for what has no such numeral.

    Letters and figures as in RomanText (Tymoczko, Gotham, Cuthbert, Ariza, "The RomanText format", ISMIR 2019): upper
    case with a major third, lower case with a minor one, "o" diminished, "ø" half-diminished, "+" augmented; figures
    of inversion. Degrees are those of the key's own scale, a minor one being natural, with "b" or "#" before a root
    outside of it; as there, raised sixths and sevenths of minor take no "#" under a minor or diminished chord ("viio").
    Two things differ: a 7 is always a minor seventh (with "o": diminished), a major one is "maj7"; and a chord is
    named by its own root, never as the dominant of another degree (E7 in D major is "II7", not "V7/V").

    Triads and chords of the seventh alone have a numeral; suspended, added, altered and larger chords are None.
    """
    try:
        chord = to_music21(_HALF_DIMINISHED.sub("ø7", symbol))
        kind, inversion, bass = _KINDS.get(chord.chordKind), chord.inversion(), chord.bass()
    except Exception:  # music21 raises almost anything on symbols that it does not know
        return None
    if kind is None or chord.chordStepModifications or bass is None:
        return None
    upper, quality, seventh = kind
    tones = {p.pitchClass for p in chord.pitches}
    if len(tones) != 3 + seventh or not 0 <= inversion < 3 + seventh:
        return None  # a bass that is no note of the chord
    root = str(chord.root().name).replace("-", "b")
    degree = (_STEPS.index(root[0]) - _STEPS.index(key.tonic[0])) % 7
    raised = root.count("#") - root.count("b", 1) - key.alteration(root[0])
    if key.mode == "minor" and degree in (5, 6) and not upper:
        raised -= 1
    numeral = _NUMERALS[degree] if upper else _NUMERALS[degree].lower()
    return ("#" * raised if raised > 0 else "b" * -raised) + numeral + quality + _FIGURES[seventh][inversion]


def read_analysis(text: str) -> Analysis:
    """A Roman-numeral analysis in the RomanText format (see `roman_numeral`), as the scholar wrote it.

    Bars, beats (those that the analyst counts: two in 6/8), figures and keys are the text's own; a key holds until the
    next one. A phrase ends at `||` and `:||`, and the last with the text. Bars given as others again (`m5-6 = m1-2`)
    have the figures of those, in the key in force. Second readings (`m5var1`) are left out.

    Raises ScoreError for what is not RomanText.
    """
    from music21.romanText import rtObjects

    if len(text) > _LONGEST_ANALYSIS:
        raise ScoreError(f"an analysis of {len(text):,} letters; at most {_LONGEST_ANALYSIS:,} are read")
    try:
        tokens = rtObjects.RTFile().readstr(text).tokens
    except Exception as error:  # music21 raises its own kinds and those of what it trips over
        raise ScoreError(f"the analysis is not RomanText ({str(error).splitlines()[0][:200]})") from error
    written: dict[int, list[Any]] = {}  # bar -> what stands in it
    found = Analysis([], [])
    key: str | None = None
    for token in tokens:
        if not token.isMeasure() or token.variantNumber or token.variantLetter:
            continue
        first, last = token.number[0], token.number[-1]
        bars = {first: token.atoms}
        if token.isCopyDefinition:
            again = token.getCopyTarget()[0][0] - first
            if last - first > _MOST_COPIED:
                raise ScoreError(f"the analysis gives {last - first:,} bars as others again")
            bars = {bar: written.get(bar + again, []) for bar in range(first, last + 1)}
        written |= bars
        for bar, atoms in bars.items():
            beat = 1.0
            for atom in atoms:
                if isinstance(atom, rtObjects.RTBeat):
                    beat = round(float(atom.getBeatFloatOrFrac()), 3)
                elif isinstance(atom, rtObjects.RTKey | rtObjects.RTAnalyticKey):
                    here = atom.getKey()
                    key = f"{here.tonic.name.replace('-', 'b')} {here.mode}"
                elif isinstance(atom, rtObjects.RTChord):
                    found.numerals.append(Numeral(bar=bar, beat=beat, roman=atom.src, key=key))
                    if len(found.numerals) > _LONGEST_ANALYSIS:  # a long bar, copied many times
                        raise ScoreError(f"the analysis has more than {_LONGEST_ANALYSIS:,} chords")
                elif isinstance(atom, rtObjects.RTPhraseBoundary | rtObjects.RTRepeatStop):
                    found.phrase_ends.append(len(found.numerals))
    if not found.numerals:
        raise ScoreError("the analysis has no chords: RomanText has lines such as 'm1 C: I b3 V6'")
    found.phrase_ends.append(len(found.numerals))
    return found


def cadences(chords: Sequence[Chord], phrase_ends: Iterable[float]) -> list[Cadence]:
    """The cadences among chords, by what the last two chords of each phrase are.

    As "Open Music Theory" defines them (Gotham and others, 2nd edition, 2021, on cadences), inversions not told apart:
    "authentic" V to I, "half" on V, "plagal" IV to I, "deceptive" V to VI; with or without a seventh, in minor i, iv,
    and VI likewise. A phrase that ends otherwise, in two keys at once, on I64, or with an applied chord as one of the
    two, has none.

    Args:
        chords: in order of time. A chord of the same degree as the one before (V, V7) is the same one going on.
        phrase_ends: moments at which a phrase ends: the chord in force just before is its last. In a RomanText file,
            what follows `||`, and the end.

    Returns:
        A dict for each cadence: `bar` of its last chord, `kind`, `chords` (both numerals) and `key`.
    """
    found: list[Cadence] = []
    begin = float("-inf")
    for end in phrase_ends:
        phrase = [c for c in chords if begin - NEAR <= c.moment < end - NEAR]
        begin = end
        # one chord a degree: the last of each run, and the moment at which the run starts
        runs = [list(run) for _, run in groupby(phrase, key=lambda c: (_degree(c.roman), c.key))]
        if not runs or runs[-1][-1].key is None:
            continue
        last = runs[-1]
        before = runs[-2] if len(runs) > 1 and runs[-2][-1].key == last[-1].key else None
        kind = _CADENCES.get((_degree(before[-1].roman), _degree(last[-1].roman))) if before else None
        if kind is None and before and _degree(last[-1].roman) == "V":
            kind = "half"
        if kind and before and "64" not in (last[-1].roman or "").replace("/", ""):
            romans = [run.roman or "" for run in (before[-1], last[-1])]
            found.append(Cadence(bar=last[0].bar, kind=kind, chords=romans, key=last[-1].key or ""))
    return found


def written_cadences(score: Score) -> list[Cadence] | None:
    """The cadences of the chord symbols of a score (see `cadences`) at the ends that it marks; None without symbols.

    Chord symbols do not say where a phrase ends. The ends taken are those of sections (`score_form.section_ends`):
    repeat signs and the end of the score.
    """
    bars = bars_of_score(score)
    chords = []
    for chord in score.chords:
        bar, key = bar_at(bars, chord.onset), score.key_at(chord.onset)
        roman = roman_numeral(chord.text, key) if isinstance(key, Key) else None
        name = key.name if isinstance(key, Key) else None
        chords.append(Chord(chord.onset, bar.number if bar else None, roman, name))
    return cadences(chords, section_ends(score)) if chords else None


def _degree(roman: str | None) -> str:
    """The degree of a numeral in upper case, "V" of "V65"; any other chord's whole figure, "" of none."""
    roman = roman or ""
    match = None if _APPLIED.search(roman) else _DEGREE.match(roman)
    return match[0].upper() if match else roman
