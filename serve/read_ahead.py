"""What a follow-up question begins with is read while nobody waits, so that its first word comes sooner.

The last token of an answer was written and not read, and the marks between an answer and the next question are known.
"""

from __future__ import annotations

import numpy as np

from mllm.processing import MusicLMProcessor
from mllm.serve.key_values import Decoder, KeyValues
from mllm.serve.prefix_cache import PrefixCache

ANSWER, QUESTION = "〈answer〉", "〈question〉"


def marks_between(processor: MusicLMProcessor) -> list[int]:
    """Tokens that the template puts between an answer and the next question; none where it has no place for one."""
    turns = zip(("user", "assistant", "user"), ("?", ANSWER, QUESTION), strict=True)
    text = processor.render([{"role": role, "content": words} for role, words in turns])
    if ANSWER not in text or QUESTION not in text:
        return []
    marks = text.split(ANSWER, 1)[1].split(QUESTION, 1)[0]
    return processor.tokenizer(marks, add_special_tokens=False)["input_ids"]


class ReadAhead:
    """Reads on from the answer that ended last. For the generation thread alone.

    Args:
        decoder: the language model.
        prefixes: where what was read is remembered.
        marks: as `marks_between` gives them.

    Attributes:
        times: how often something was read.
    """

    def __init__(self, decoder: Decoder, prefixes: PrefixCache, marks: list[int]):
        self._decoder, self._prefixes, self._marks = decoder, prefixes, marks
        self.times = 0
        self._ended: tuple[np.ndarray, KeyValues, list[int]] | None = None

    def ended(self, keys: np.ndarray, room: KeyValues, unread: list[int]) -> None:
        """An answer has ended: what of it was read, by key and as keys and values, and the tokens behind that."""
        marks = self._marks
        if unread[-1:] == marks[:1]:  # the mark that ends a turn was written
            marks = marks[1:]
        self._ended = (keys, room, [*unread, *marks]) if marks else None

    def advance(self) -> bool:
        """Read and remember; whether there was anything to read."""
        if self._ended is None:
            return False
        (keys, room, tokens), self._ended = self._ended, None
        longer = self._decoder.room(room.lengths[0] + len(tokens))
        longer.add(room, room.lengths[0])
        self._decoder.read(longer, self._decoder.embed(tokens))
        self._prefixes.keep(np.concatenate([keys, np.array(tokens, dtype=np.int64)]), longer)
        self.times += 1
        return True
