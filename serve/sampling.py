"""Which token comes next: each answer by its own temperature, bias, grammar and dice."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mllm.grammar_decoding import Path
from mllm.serve.generation import GenerationRequest


@dataclass(frozen=True)
class Choice:
    """A token, its natural logarithm of probability, and the likeliest tokens with theirs."""

    token: int
    logprob: float = 0.0
    top: tuple[tuple[int, float], ...] = ()


class Sampler:
    """Chooses the tokens of one answer.

    Log-probabilities are those of the model itself: before bias, temperature, top_p and grammar, over all that it may
    ever write. So they say how sure it is, and stay comparable between requests.
    """

    def __init__(self, request: GenerationRequest, grammar: Path | None = None):
        self._request = request
        self._grammar = grammar
        self._tokens = torch.tensor(list(request.logit_bias), dtype=torch.long)
        self._bias = torch.tensor(list(request.logit_bias.values()), dtype=torch.float32)
        self._dice = torch.Generator()
        if request.seed is None:
            self._dice.seed()
        else:
            self._dice.manual_seed(request.seed % 2**63)

    @property
    def plain(self) -> bool:
        """Whether it takes the likeliest token and says nothing of it, so that a batch can be answered at once."""
        request = self._request
        return not (request.temperature or request.logit_bias or self._grammar or request.top_logprobs is not None)

    def choose(self, logits: torch.Tensor) -> Choice:
        """The next token from `logits` [vocabulary], float32 on the CPU; they are not changed."""
        request, scores = self._request, logits
        if len(self._tokens):
            scores = scores.index_add(0, self._tokens, self._bias)
        if self._grammar:
            scores = scores.clone() if scores is logits else scores
            self._grammar.mask(scores)
        token = self._draw(scores) if request.temperature else int(scores.argmax())
        if self._grammar:
            self._grammar.accept(token)
        if request.top_logprobs is None:
            return Choice(token)
        natural = logits.log_softmax(-1)
        values, ids = natural.topk(request.top_logprobs)
        return Choice(token, float(natural[token]), tuple(zip(ids.tolist(), values.tolist(), strict=True)))

    def _draw(self, scores: torch.Tensor) -> int:
        probabilities = (scores / self._request.temperature).softmax(-1)
        if self._request.top_p < 1:
            values, order = probabilities.sort(descending=True)
            # a token stays where those before it hold less than top_p: the likeliest one always does
            values[values.cumsum(-1) - values >= self._request.top_p] = 0
            probabilities = torch.zeros_like(probabilities).scatter_(0, order, values)
        return int(torch.multinomial(probabilities, 1, generator=self._dice))
