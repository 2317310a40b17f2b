"""An answer on its way from the generation thread to its reader in an event loop."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable

from mllm.serve.generation import FinishReason, Piece, Usage


class Reply:
    """A `Generation`: the engine gives pieces from its thread, one reader iterates.

    Attributes:
        finish, usage: set after the last piece; None where an error ended the answer.
        tokens: ids that the model wrote so far, with the one that ended the answer.
    """

    def __init__(self, wake: Callable[[], None]):
        self.finish: FinishReason | None = None
        self.usage: Usage | None = None
        self.tokens: list[int] = []
        self.cancelled = False
        self._wake = wake  # the engine, when something is to be done
        self._pieces: deque[Piece] = deque()
        self._error: BaseException | None = None
        self._ended = False
        self._tell: Callable[[], None] | None = None  # the reader, when something is there
        self._lock = threading.Lock()

    async def __aiter__(self) -> AsyncIterator[Piece]:
        """Pieces as they come. A reader that leaves early cancels the generation."""
        loop, event = asyncio.get_running_loop(), asyncio.Event()

        def tell() -> None:
            loop.call_soon_threadsafe(event.set)

        with self._lock:
            self._tell = tell
        try:
            while True:
                event.clear()
                ended = self._ended  # before the pieces are taken: nothing comes after it
                while self._pieces:
                    yield self._pieces.popleft()
                if ended:
                    break
                if not self._ended and not self._pieces:
                    await event.wait()
            if self._error:
                raise self._error
        finally:
            self.cancel()

    def cancel(self) -> None:
        """End the generation; from any thread, any number of times."""
        if not self._ended and not self.cancelled:
            self.cancelled = True
            self._wake()

    @property
    def ended(self) -> bool:
        """Whether nothing more comes."""
        return self._ended

    def give(self, piece: Piece | None) -> None:
        """From the engine: a piece more."""
        if piece:
            self._pieces.append(piece)
            self._notify()

    def end(self, finish: FinishReason, usage: Usage | None) -> None:
        """From the engine: that was the last piece."""
        if not self._ended:
            self.finish, self.usage, self._ended = finish, usage, True
            self._notify()

    def fail(self, error: BaseException) -> None:
        """From the engine: an error instead of more."""
        if not self._ended:
            self._error, self._ended = error, True
            self._notify()

    def _notify(self) -> None:
        with self._lock:
            if self._tell:
                try:
                    self._tell()
                except RuntimeError:  # the reader's loop is closed: nobody reads any more
                    self._tell, self.cancelled = None, True
