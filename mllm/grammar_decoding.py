"""Keep what a language model writes inside of a grammar: xgrammar masks, at each token, what the grammar forbids."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import torch
from transformers import LogitsProcessor, PreTrainedTokenizerBase

from mllm.errors import PromptError

CACHED_BYTES = 64 << 20  # of compiled grammars: their texts come from anybody
LONGEST = 64 << 10  # characters of a grammar or schema


class GrammarCompiler:
    """Compiles grammars for one tokenizer, and remembers them.

    Args:
        tokenizer: the model's.
        vocabulary: how many logits the model gives, which may be more than the tokenizer has tokens.
        stops: ids of the tokens that end an answer; they are let through where the grammar is complete.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, vocabulary: int, stops: Sequence[int]):
        import xgrammar

        info = xgrammar.TokenizerInfo.from_huggingface(tokenizer, vocab_size=vocabulary, stop_token_ids=list(stops))
        self._compiler = xgrammar.GrammarCompiler(info, max_threads=2, cache_limit_bytes=CACHED_BYTES)

    def compile(self, grammar: str | dict[str, Any]) -> Any:
        """A grammar as `xgrammar.CompiledGrammar`.

        Args:
            grammar: EBNF of xgrammar with a rule `root`, or a JSON schema. JSON is written on one line, and an object
                has the properties that its schema names and no others, unless the schema says `additionalProperties`
                or names none.

        Raises:
            PromptError: the grammar cannot be read, or is longer than `LONGEST`.
        """
        text = grammar if isinstance(grammar, str) else json.dumps(grammar)
        kind = "grammar" if isinstance(grammar, str) else "JSON schema"
        if len(text) > LONGEST:
            raise PromptError(f"the {kind} has {len(text)} characters, at most {LONGEST} are read: make it shorter")
        try:
            if isinstance(grammar, str):
                return self._compiler.compile_grammar(text)
            strict = _names_properties(grammar)
            return self._compiler.compile_json_schema(text, any_whitespace=False, strict_mode=strict)
        except (RuntimeError, ValueError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
            hint = "it is EBNF with a rule named root" if isinstance(grammar, str) else "see json-schema.org"
            raise PromptError(f"the {kind} cannot be read ({reason}): {hint}") from error


def _names_properties(schema: Any) -> bool:
    """Whether a schema says anything of what stands in its object: a bare `{"type": "object"}` lets everything in."""
    return not isinstance(schema, dict) or bool(set(schema) - {"type", "title", "description", "$schema"})


class Path:
    """One answer's way through a compiled grammar, token by token. Not to be shared among threads."""

    def __init__(self, grammar: Any):
        import xgrammar

        self._matcher = xgrammar.GrammarMatcher(grammar)
        self._mask = xgrammar.allocate_token_bitmask(1, grammar.tokenizer_info.vocab_size)
        self._apply = xgrammar.apply_token_bitmask_inplace

    def mask(self, logits: torch.Tensor) -> None:
        """Put -inf in `logits` [vocabulary], float32 on the CPU, wherever the grammar forbids the next token."""
        if not self._matcher.is_terminated():
            self._matcher.fill_next_token_bitmask(self._mask)
            self._apply(logits.unsqueeze(0), self._mask)

    def accept(self, token: int) -> None:
        """Go on with this token, which the mask let through."""
        if not self._matcher.is_terminated() and not self._matcher.accept_token(token):
            raise RuntimeError(f"the grammar does not take token {token}")


def masks(grammars: Sequence[Any]) -> LogitsProcessor:
    """What `generate` takes as a logits processor: one compiled grammar an answer of the batch. For one call only."""
    from xgrammar.contrib.hf import LogitsProcessor as Masks

    return Masks(list(grammars))
