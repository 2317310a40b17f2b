"""Keep what a language model writes inside of a grammar: xgrammar masks, at each token, what the grammar forbids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import LogitsProcessor, PreTrainedTokenizerBase

from mllm.errors import PromptError


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
        self._compiler = xgrammar.GrammarCompiler(info)

    def compile(self, grammar: str) -> Any:
        """The grammar (EBNF of xgrammar, rule `root`) as `xgrammar.CompiledGrammar`; PromptError where it is none."""
        try:
            return self._compiler.compile_grammar(grammar)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise PromptError(f"the grammar cannot be read ({reason}): it is EBNF with a rule named root") from error


def masks(grammars: Sequence[Any]) -> LogitsProcessor:
    """What `generate` takes as a logits processor: one compiled grammar an answer of the batch. For one call only."""
    from xgrammar.contrib.hf import LogitsProcessor as Masks

    return Masks(list(grammars))
