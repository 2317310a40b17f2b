"""Tokens -> pieces of text: whole characters, ended at stop strings, each with the tokens that are in it."""

from __future__ import annotations

from collections import deque

from tokenizers.decoders import DecodeStream
from transformers import PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import bytes_to_unicode

from mllm.serve.generation import FinishReason, Piece, TokenLogprob
from mllm.serve.sampling import Choice


class Spelling:
    """The bytes of single tokens, which may be half a character."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self._tokenizer = tokenizer
        self._added = {token.content for token in tokenizer.added_tokens_decoder.values()}
        by_bytes = "ByteLevel" in repr(tokenizer.backend_tokenizer.decoder)
        self._bytes = {char: value for value, char in bytes_to_unicode().items()} if by_bytes else {}

    def __call__(self, token: int) -> bytes:
        text = self._tokenizer.convert_ids_to_tokens(token)
        if text is None:  # the vocabulary is padded
            return b""
        if text in self._added:
            return text.encode()
        if self._bytes:
            return bytes(self._bytes[char] for char in text)
        if len(text) == 6 and text.startswith("<0x"):  # sentencepiece's way to write a byte
            return bytes([int(text[3:5], 16)])
        return text.replace("\u2581", " ").encode()

    def named(self, choice: Choice) -> TokenLogprob:
        """A choice with its bytes and text."""
        spelled = self(choice.token)
        top = [(self(token), logprob) for token, logprob in choice.top]
        return TokenLogprob(
            _text(spelled), spelled, choice.logprob, tuple((_text(data), data, logprob) for data, logprob in top)
        )


def _text(data: bytes) -> str:
    return data.decode("utf-8", errors="replace")


class Writer:
    """Puts the tokens of one answer together.

    Args:
        tokenizer: the model's.
        ends: ids of tokens that end an answer.
        stops: strings that end it. They and all behind them are not given out; what may be the beginning of one is held
            back until it is known not to be.
        spelling: how tokens are spelled, where log-probabilities are wanted.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, ends: list[int], stops: tuple[str, ...], spelling: Spelling | None
    ):
        self._tokenizer = tokenizer.backend_tokenizer
        self._stream = DecodeStream(skip_special_tokens=True)
        self._ends, self._stops, self._spelling = ends, stops, spelling
        self._held = ""
        self._written = 0  # characters given out
        self._tokens: deque[tuple[int, TokenLogprob]] = deque()  # where in the answer each token ends
        self._half: list[TokenLogprob] = []  # tokens whose last character is not whole

    def write(self, choice: Choice) -> tuple[Piece | None, FinishReason | None]:
        """Take one token more; what can be given out now, and whether the answer has ended."""
        if choice.token in self._ends:
            return self.flush(), "stop"
        if self._spelling:
            self._half.append(self._spelling.named(choice))
        new = self._stream.step(self._tokenizer, choice.token)
        if not new:
            return None, None
        self._held += new
        end = self._written + len(self._held)
        self._tokens.extend((end, token) for token in self._half)
        self._half = []
        found = [at for at in (self._held.find(stop) for stop in self._stops) if at >= 0]
        if found:
            return self._give(min(found)), "stop"
        return self._give(len(self._held) - self._beginning()), None

    def flush(self) -> Piece | None:
        """What was held back, as nothing more comes. Half a character is left out."""
        self._tokens.extend((self._written, token) for token in self._half)
        return self._give(len(self._held))

    def _beginning(self) -> int:
        """Length of the longest end of the text that may be the beginning of a stop string."""
        return max(
            (
                length
                for stop in self._stops
                for length in range(1, min(len(stop), len(self._held) + 1))
                if self._held.endswith(stop[:length])
            ),
            default=0,
        )

    def _give(self, length: int) -> Piece | None:
        text, self._held = self._held[:length], self._held[length:]
        self._written += length
        tokens = []
        while self._tokens and self._tokens[0][0] <= self._written:
            tokens.append(self._tokens.popleft()[1])
        return Piece(text, tuple(tokens)) if text or tokens else None
