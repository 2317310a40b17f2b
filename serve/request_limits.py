"""What a generation request may ask for, whichever engine answers it."""

from __future__ import annotations

import math

from mllm.errors import PromptError
from mllm.serve.generation import GenerationRequest

MOST_TOP_LOGPROBS = 20
LONGEST_STOP = 1000  # characters


def check_request(request: GenerationRequest, vocabulary: int | None = None, context: int | None = None) -> None:
    """PromptError where an option is out of its range.

    Args:
        request: what is asked.
        vocabulary: tokens that the model has, and `context` those that it holds; None where the engine does not know.
    """
    most = vocabulary or math.inf
    rules = {
        "give either messages or a prompt": bool(request.messages) != (request.prompt is not None),
        "max_tokens must be at least 1": request.max_tokens >= 1,
        "temperature must be a number from 0 on": 0 <= request.temperature < math.inf,
        "top_p must be above 0 and at most 1": 0 < request.top_p <= 1,
        f"stop strings must have 1 to {LONGEST_STOP} characters": all(
            0 < len(stop) <= LONGEST_STOP for stop in request.stop
        ),
        f"logit_bias must map ids of tokens, {f'0 to {most - 1}' if vocabulary else 'from 0 on'}, to numbers": all(
            0 <= token < most and math.isfinite(bias) for token, bias in request.logit_bias.items()
        ),
        f"top_logprobs must be 0 to {MOST_TOP_LOGPROBS}": 0 <= (request.top_logprobs or 0) <= MOST_TOP_LOGPROBS,
        "the deadline must be above 0 seconds": request.seconds > 0,
    }
    for rule, kept in rules.items():
        if not kept:
            raise PromptError(rule)
    if context and request.max_tokens >= context:
        raise PromptError(f"max_tokens is {request.max_tokens}, but this model holds {context} with the prompt")
