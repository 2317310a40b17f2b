"""Is this the score of that recording? Answered by how well the recording explains the notes: `match(music, …)`.

A model that can write down what it hears finds the right notes likelier with the recording than without. So a score is
weighed by the log-likelihood of its bars as the model's own transcription, less that of the same bars where it hears
silence of the same length: what is likely of any tune counts for nothing. The sum over all notes tells more than one
word of an answer does. (Pointwise mutual information; used like this in speech recognition and retrieval, e.g. Li et
al., "A Diversity-Promoting Objective Function", 2016, for text.)
"""

from __future__ import annotations

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


@dataclass(frozen=True)
class Match:
    """How well a recording explains a score.

    Attributes:
        gain: nats by which the recording makes the bars likelier than silence does, a note on average.
        notes: how many there are.
        share: of the scores that were compared, how likely this one is (they sum to 1): by the whole gain of each.
    """

    gain: float
    notes: int
    share: float


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
    gains, counts = [], []
    for number, given in enumerate(scores, 1):
        score = _read(given)
        if not score.notes:
            raise ScoreError(f"score {number}: has no note to weigh")
        head, body = (part.rstrip("\n") for part in split_header(to_abc(score, title=False)))
        question = {"type": "text", "text": QUESTION.format(head=head)}
        heard, unheard = (
            loglikelihood(music, [{"role": "user", "content": [{"type": "audio", "audio": sound}, question]}], body)
            for sound in (waveform, silence)
        )
        gains.append(heard - unheard)
        counts.append(len(score.notes))
    shares = torch.tensor(gains, dtype=torch.float64).softmax(0).tolist()
    return [Match(g / n, n, s) for g, n, s in zip(gains, counts, shares, strict=True)]


@torch.inference_mode()
def loglikelihood(music: MusicLM, messages: Sequence[dict[str, Any]], answer: str) -> float:
    """Natural logarithm of the probability that the model's whole answer to `messages` is this text.

    Raises as `MusicLM.chat`.
    """
    ids = music.processor.tokenizer(answer, add_special_tokens=False, return_tensors="pt")["input_ids"]
    ids = torch.cat([ids, torch.tensor([[music.stops[0]]])], 1).to(music.model.device)
    prompt = music.prepare(messages, ids.shape[1]).embeddings
    words = music.model.get_input_embeddings()(ids[:, :-1])
    out = music.model(inputs_embeds=torch.cat([prompt, words], 1), logits_to_keep=ids.shape[1])
    return float(out.logits[0].float().log_softmax(-1).gather(1, ids[0, :, None]).sum())


def _read(given: str | Path | Score) -> Score:
    if isinstance(given, Score):
        return given
    return read_abc(given) if isinstance(given, str) and "\n" in given.strip() else read_score(given)
