"""Lists in a temporary file say what lists in memory would, and hold next to none of it."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from mllm.data_recipes.on_disk import Known, Lists, Texts

ODD = ["", "a", "A", "a ", "\0", "a\0b", "é", "e\u0301", "\ud800", "🎻", "x" * 5000]


@given(st.lists(st.sampled_from(ODD) | st.text(max_size=5), max_size=30))
def test_they_say_what_lists_in_memory_say(texts):
    kept, known, lists = Texts(), Known(), Lists()
    kept.extend(texts[:5])
    numbers: dict[str, int] = {}
    times: Counter[str] = Counter()
    for text in texts[5:]:
        kept.append(text)
    for row, text in enumerate(texts):
        times[text] += 1
        number = numbers.setdefault(text, len(numbers))
        assert known.add(text) == (number, times[text])
        lists.add(number, row, row / 2)
    assert list(kept) == texts == [kept[i] for i in range(len(kept))]
    for text, number in numbers.items():
        rows = [row for row, other in enumerate(texts) if other == text]
        assert lists[number] == rows and lists.pairs(number) == [(row, row / 2) for row in rows]
    assert lists[len(numbers)] == []


GROW = """
import resource, sys
from mllm.data_recipes.on_disk import Known, Lists, Texts
kept, known, lists = Texts(), Known(), Lists()
def add(first, last):
    for row in range(first, last, 1000):
        kept.extend(f"{i:0100d}" for i in range(row, row + 1000))
    for i in range(first, last):
        known.add(f"{i:0100d}"); lists.add(i, i)
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
add(0, 100_000); before = peak()
add(100_000, 400_000)
print(peak() - before)
"""


def test_memory_does_not_grow_with_them():
    done = subprocess.run([sys.executable, "-c", GROW], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 40_000, "KiB for 300,000 more, which would be 100,000 in memory"
