"""Is this the score of that recording? Answered by how well the recording explains the notes: `match(music, …)`.

A model that can write down what it hears finds the right notes likelier with the recording than without. So a score is
weighed by the log-likelihood of its bars as the model's own transcription, less that of the same bars where it hears
silence of the same length: what is likely of any tune counts for nothing. The sum over all notes tells more than one
word of an answer does. (Pointwise mutual information; used like this in speech recognition and retrieval, e.g. Li et
al., "A Diversity-Promoting Objective Function", 2016, for text.)

A version of the same tune with a few other bars gains almost as much. It has a bar that is unlikely, though: so `fit`
counts the worst bar as much as the whole.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mllm.abc_validation import split_header
from mllm.chat import MusicLM, Source
from mllm.errors import PromptError, ScoreError
from mllm.score import Score, read_abc, read_score, to_abc

QUESTION = "Transcribe this melody to ABC. Write the bars that follow this header:\n{head}"
"""One of the wordings that transcription is trained with."""
_BAR_LINE = re.compile(r"\|[\]|:\d]*")
_SOUNDING = re.compile(r"[A-Ga-gz]")


@dataclass(frozen=True)
class Match:
    """How well a recording explains a score.

    Attributes:
        gain: nats by which the recording makes the bars likelier than silence does, a note on average.
        notes: how many there are.
        share: of the scores that were compared, how likely this one is (they sum to 1): by the whole gain of each.
        bars: log-likelihood of each bar in nats a token, in the order in which they are written. The least one is where
            recording and score fit worst.
        fit: whether it is this score at all: gain a token, plus the least of `bars`. `mllm.eval.matching_bench` finds
            the threshold for a model on validation rows.
    """

    gain: float
    notes: int
    share: float
    bars: tuple[float, ...]
    fit: float

    @property
    def worst_bar(self) -> int:
        """Number of the bar that fits worst, from 1 on."""
        return 1 + self.bars.index(min(self.bars))


def match(music: MusicLM, recording: Source, scores: Sequence[str | Path | Score]) -> list[Match]:
    """Weigh scores by a recording, in their order.

    Args:
        music: a model that was trained to transcribe.
        recording: what is heard; as in `MusicLM.ask`.
        scores: files, ABC text (it has more than one line), or scores.

    Raises:
        AudioError, ScoreError: the recording or a score cannot be used.
        PromptError: no score, or one too long for the model's context.
    """
    if not scores:
        raise PromptError("no score to match: give at least one")
    waveform = recording if isinstance(recording, np.ndarray) else music.processor.load(recording)
    silence = np.zeros_like(waveform)
    gains, of_bars, fits, counts = [], [], [], []
    for number, given in enumerate(scores, 1):
        score = _read(given)
        if not score.notes:
            raise ScoreError(f"score {number}: has no note to weigh")
        head, body = (part.rstrip("\n") for part in split_header(to_abc(score, title=False)))
        question = {"type": "text", "text": QUESTION.format(head=head)}
        heard, unheard = (
            token_loglikelihoods(
                music, [{"role": "user", "content": [{"type": "audio", "audio": sound}, question]}], body
            )
            for sound in (waveform, silence)
        )
        bars = bar_means(heard, _bars_of(music, body))
        gains.append(float((heard - unheard).sum()))
        of_bars.append(bars)
        fits.append(float((heard - unheard).mean()) + min(bars))
        counts.append(len(score.notes))
    shares = torch.tensor(gains, dtype=torch.float64).softmax(0).tolist()
    return [Match(gain / notes, notes, share, bars, fit)
            for gain, notes, share, bars, fit in zip(gains, counts, shares, of_bars, fits, strict=True)]  # fmt: skip


@torch.inference_mode()
def token_loglikelihoods(music: MusicLM, messages: Sequence[dict[str, Any]], answer: str) -> np.ndarray:
    """Natural logarithms [tokens + 1] of the probability of each token of an answer to `messages`, and of its end.

    Raises as `MusicLM.chat`.
    """
    ids = music.processor.tokenizer(answer, add_special_tokens=False, return_tensors="pt")["input_ids"]
    ids = torch.cat([ids, torch.tensor([[music.stops[0]]])], 1).to(music.model.device)
    prompt = music.prepare(messages, ids.shape[1]).embeddings
    words = music.model.get_input_embeddings()(ids[:, :-1])
    out = music.model(inputs_embeds=torch.cat([prompt, words], 1), logits_to_keep=ids.shape[1])
    return out.logits[0].float().log_softmax(-1).gather(1, ids[0, :, None])[:, 0].double().cpu().numpy()


def bar_means(values: np.ndarray, bars: Sequence[int]) -> tuple[float, ...]:
    """The mean of some values for each bar; `bars`: the number of the bar that each value belongs to, in order."""
    edges = np.flatnonzero(np.diff(bars)) + 1
    return tuple(float(part.mean()) for part in np.split(values, edges))


def _bars_of(music: MusicLM, body: str) -> list[int]:
    """For each token of the bars and for the end: the number of its bar, from 0 on. A bar's line belongs to it."""
    ends, start = [], 0
    for line in _BAR_LINE.finditer(body):
        if _SOUNDING.search(body, start, line.start()):
            ends.append(line.end())
        start = line.end()
    if _SOUNDING.search(body, start) or not ends:
        ends.append(len(body))
    offsets = music.processor.tokenizer(body, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    last = len(ends) - 1
    return [*(min(bisect_left(ends, end), last) for _, end in offsets), last]


def _read(given: str | Path | Score) -> Score:
    if isinstance(given, Score):
        return given
    return read_abc(given) if isinstance(given, str) and "\n" in given.strip() else read_score(given)
