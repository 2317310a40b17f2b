"""Bar lines, repeats and endings of an ABC tune: which stretch of what is written sounds when."""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction


@dataclass
class Sounding:
    """A note being read; exact time."""

    onset: Fraction
    duration: Fraction
    pitch: int
    step: int  # staff position: octave * 7 + letter

    @property
    def end(self) -> Fraction:
        """When it stops, in quarters."""
        return self.onset + self.duration


@dataclass
class Bar:
    """A bar line: where it stands and what it does."""

    time: Fraction
    text: str
    ending: str | None


def play_order(bars: list[Bar], end: Fraction) -> list[tuple[Fraction, Fraction]]:
    """Stretches of written time in the order of their playing: repeats twice, first and second endings each once."""
    order: list[tuple[Fraction, Fraction]] = []
    start, first_ending = Fraction(0), None
    for bar in [*bars, Bar(end, "|]", None)]:
        closes = bar.text.startswith(":") and bar.time > start
        if closes:
            order += [(start, bar.time), (start, first_ending if first_ending is not None else bar.time)]
        if closes or (bar.text.endswith(":") and bar.time > start):
            if not closes:
                order.append((start, bar.time))
            start, first_ending = bar.time, None
        if bar.ending and bar.ending[0] == "1":
            first_ending = bar.time
    if end > start:
        order.append((start, end))
    return [(a, b) for a, b in order if b > a]


def played(notes: list[Sounding], order: list[tuple[Fraction, Fraction]]) -> Iterator[Sounding]:
    """Notes in the order of `play_order`, at the times they then sound."""
    now = Fraction(0)
    for start, end in order:
        for n in notes:
            if start <= n.onset < end:
                yield Sounding(now + n.onset - start, n.duration, n.pitch, n.step)
        now += end - start


def played_bars(bars: list[Bar], order: list[tuple[Fraction, Fraction]]) -> tuple[float, ...]:
    """Where the bar lines stand when the stretches are played in order, in quarters."""
    now, lines = Fraction(0), set()
    for start, end in order:
        lines |= {float(now + b.time - start) for b in bars if start < b.time <= end and b.text}
        now += end - start
    return tuple(sorted(lines))
