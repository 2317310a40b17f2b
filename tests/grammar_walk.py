"""Random walks through a grammar, character by character: what a model without any taste would write."""

from __future__ import annotations

import random
from typing import Any

import pytest

xgrammar = pytest.importorskip("xgrammar", reason="xgrammar is not installed (extra `grammar`)")

_SIGNS = [*map(chr, range(32, 127)), "\n", "</s>"]
_END = len(_SIGNS) - 1
_compiler = xgrammar.GrammarCompiler(
    xgrammar.TokenizerInfo(_SIGNS, vocab_type=xgrammar.VocabType.RAW, stop_token_ids=[_END])
)


def compiled(grammar: str) -> Any:
    return _compiler.compile_grammar(grammar)


def allowed(matcher: Any) -> list[int]:
    mask = xgrammar.allocate_token_bitmask(1, len(_SIGNS))
    matcher.fill_next_token_bitmask(mask)
    words = mask[0].tolist()
    return [i for i in range(len(_SIGNS)) if words[i // 32] >> (i % 32) & 1]


def walk(grammar: str, seed: int) -> str:
    """A text that the grammar lets through to its end."""
    draw, matcher, text = random.Random(seed), xgrammar.GrammarMatcher(compiled(grammar)), ""
    for _ in range(20_000):
        sign = draw.choice(allowed(matcher))  # IndexError: the grammar has a dead end
        assert matcher.accept_token(sign)
        if sign == _END:
            return text
        text += _SIGNS[sign]
    raise AssertionError("the grammar does not end")


def accepts(grammar: str, text: str) -> bool:
    """Whether this and nothing more is a text of the grammar."""
    matcher = xgrammar.GrammarMatcher(compiled(grammar))
    return all(matcher.accept_token(_SIGNS.index(sign)) for sign in text) and _END in allowed(matcher)
