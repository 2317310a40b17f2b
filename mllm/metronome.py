"""The marks of a mechanical metronome: the numbers in which answers name a tempo."""

import math

# Neighbours differ by about 4 %, so the nearest mark is within 2.8 % of any tempo in between (Maelzel's scale).
MARKS = (
    *range(40, 60, 2), *range(60, 72, 3), *range(72, 120, 4), *range(120, 144, 6), *range(144, 209, 8),
)  # fmt: skip


def nearest_mark(bpm: float) -> int:
    """The metronome mark nearest to a tempo in beats per minute, on a logarithmic scale."""
    return min(MARKS, key=lambda mark: abs(math.log(mark / bpm)))
