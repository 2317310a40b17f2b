"""Chords by chroma and templates: the classical way that a model has to beat, and how chords are judged."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from mllm.audio import load_audio
from mllm.estimators import RATE, estimate_chords
from mllm.eval.classical import NOTES
from mllm.eval.item import Item
from mllm.eval.metrics.chords import Chords, chord_scores, harte_label
from mllm.eval.task import Verdict


def judged(item: Item, said: Chords, parsed: list[str] | None) -> Verdict:
    """Share of the time in which major or minor triads are right, and mir_eval's other shares."""
    found = chord_scores(item.truth, said)
    return Verdict(parsed, found["majmin"], {name: found[name] for name in ("root", "triads", "sevenths", "mirex")})


class Templates:
    """Chroma against templates of 24 triads, decoded by Viterbi; nothing fitted, and it is not told the bars."""

    name = "librosa chroma + triad templates"

    def answers(self, train: Sequence[Item], items: Sequence[Item], advance: Callable[[], None]) -> Iterator[Verdict]:
        """See `mllm.eval.task.Tool`."""
        for item in items:
            spans: list[tuple[float, float, str]] = []
            for found in estimate_chords(load_audio(item.audio[0], RATE)):
                before = spans[-1][1] if spans else 0.0
                spans += [(before, found.start, "N")] if found.start > before else []
                spans.append((found.start, found.end, str(harte_label(NOTES[found.root] + found.kind))))
            advance()
            yield judged(item, spans, [label for *_, label in spans])
