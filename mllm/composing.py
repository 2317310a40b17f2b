"""Let a model write a tune: freely, on from a beginning, a variation, or chords to a melody.

Each task becomes a prompt, the words that the answer begins with, and a grammar that what follows keeps to
(`mllm.composing_tasks`). So the tune is whole whatever the model knows of music; how good it is remains the model's
affair. What is written says that a model wrote it, and which.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from mllm.abc_harmony import chord_choices
from mllm.abc_repair import repair_abc
from mllm.abc_validation import Tune, length_of, parse_tune, validate_abc
from mllm.composed_files import with_mark
from mllm.composing_tasks import Plan, Request, plan
from mllm.errors import ScoreError
from mllm.score import facts, read_abc, sounding
from mllm.score_types import Score

if TYPE_CHECKING:
    from mllm.chat import MusicLM


@dataclass(frozen=True)
class Composition:
    """A tune that a model wrote.

    Attributes:
        abc: the text, with the line that says who wrote it.
        score: what was read from it.
        made_by: that line's words.
        obeyed: which controls the facts of the score show to be kept, by name.
        repaired: whether it needed the repair pass.
    """

    abc: str
    score: Score
    made_by: str
    obeyed: dict[str, bool]
    repaired: bool


def compose(
    music: MusicLM,
    request: Request,
    *,
    temperature: float = 1.0,
    top_p: float = 0.95,
    seed: int | None = None,
    progress: Callable[[str], None] | None = None,
) -> Composition:
    """Have a model write a tune.

    Args:
        music: the model, such as `mllm.load("mini")`.
        request: what it shall write.
        temperature, top_p: as in `MusicLM.chat`; with temperature 0 the same request gives the same tune.
        seed: of the sampling; the same seed, request and model give the same tune.
        progress: called with a word on what is being done.

    Raises:
        ScoreError: the request cannot be fulfilled; the message says what can.
        PromptError: prompt and tune do not fit in the model's context.
    """
    import torch

    made = plan(request)
    if progress:
        progress(f"writing up to {made.max_new_tokens} tokens")
    with torch.random.fork_rng(enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        answer = music.chat(
            made.messages,
            max_new_tokens=made.max_new_tokens,
            temperature=temperature,
            top_p=top_p,
            grammar=made.grammar,
            begin=made.begin,
        )
    return finish(made, str(answer), made_by(music, request))


def made_by(music: MusicLM, request: Request) -> str:
    """Who wrote it: the model with its version and the first digits of its provenance's sha256, and what it did."""
    what = {"free": "written"}.get(request.task, request.task)
    of = f" of {' '.join(request.source.title.split())}" if request.source and request.source.title else ""
    mark = hashlib.sha256(json.dumps(music.provenance, sort_keys=True, default=str).encode()).hexdigest()[:16]
    version = importlib.metadata.version("mllm")
    name = music.name or "without a name"
    return f"{what}{of} by the language model {name} (mllm {version}, provenance {mark})"


def finish(made: Plan, answer: str, made_by: str) -> Composition:
    """The tune of a plan and what a model answered to it; ScoreError where it is not whole and cannot be repaired."""
    request = made.request
    text = made.begin + answer.rstrip() + "\n"
    asked: dict[str, Any] = {"metre": request.metre, "bars": request.bars}
    if request.voices == 1:
        asked |= {"lowest": request.lowest, "highest": request.highest}
    repaired = bool(validate_abc(text, **asked))
    if repaired:
        text = repair_abc(text, **asked, key=request.key.name if request.key else "C")
    abc = with_mark(text.encode(), ".abc", made_by).decode()
    score = read_abc(abc)
    if request.task == "harmonization" and request.source:
        if sounding(score.notes) != sounding(request.source.notes):
            raise ScoreError("the melody did not stay as it was: its bars are not whole, so no chords can be set")
    return Composition(abc, score, made_by, obeyed(made, abc, score), repaired)


def obeyed(made: Plan, abc: str, score: Score) -> dict[str, bool]:
    """Which of the controls a score keeps, by its facts; those that were not asked for are not in it."""
    request, found, tune = made.request, facts(score), parse_tune(abc)
    first = [n.pitch for n in score.notes if n.voice == 0]
    checks: dict[str, tuple[Any, Callable[[], bool]]] = {
        "key": (request.key, lambda: score.key == request.key),
        "metre": (request.metre, lambda: score.metre == request.metre),
        "bars": (request.bars, lambda: _bars(tune) == request.bars),
        "range": (
            request.lowest,
            lambda: (request.lowest or 0) <= min(first) <= max(first) <= (request.highest or 127),
        ),
        "tempo": (request.tempo, lambda: score.tempo == request.tempo),
        "voices": (request.voices, lambda: found["voices"] == request.voices),
        "style": (request.style, lambda: tune.header.get("R") == request.style),
        "source": (request.source, lambda: _keeps_source(made, score)),
    }
    return {name: bool(check()) for name, (asked, check) in checks.items() if asked}


def _bars(tune: Tune) -> int:
    """Full bars of the first voice, rests at its end as well, which a score does not tell."""
    first = next(iter(tune.voices.values()))
    lengths = [length_of(bar, bar.elements) for bar in first]
    return len(first) - (len(first) > 1 and lengths[0] < lengths[1])


def _keeps_source(made: Plan, score: Score) -> bool:
    source, task = made.request.source, made.request.task
    assert source is not None and source.bar_length
    if task == "continuation":
        end = source.pickup + (source.length - source.pickup + 1e-6) // source.bar_length * source.bar_length
        return sounding(n for n in score.notes if n.onset < end - 1e-6) == sounding(
            replace(n, duration=min(n.duration, end - n.onset)) for n in source.notes if n.onset < end - 1e-6
        )
    if task == "variation":
        bar, pickup = source.bar_length, source.pickup
        onsets = {(round(n.onset, 6), n.pitch) for n in score.notes}
        starts = [0.0] * bool(pickup) + [pickup + i * bar for i in range(len(made.anchors))]
        return all((round(s, 6), a) in onsets for s, a in zip(starts, made.anchors, strict=False) if a is not None)
    choices = chord_choices(score.key) if score.key else {}
    return sounding(score.notes) == sounding(source.notes) and all(c.text in choices for c in score.chords)
