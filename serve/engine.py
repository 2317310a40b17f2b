"""Answers many at once: one generation thread over transformers, in which requests join and leave between steps.

A request waits in a fair queue, is prepared by a small pool of threads (decoding, resampling, tokens, grammar), then
heard and read bit by bit between the steps of the answers that are being written, and written along with them.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar
from weakref import WeakValueDictionary

import torch

from mllm.chat import MusicLM
from mllm.errors import MllmError, PromptError
from mllm.hearing import Hearing
from mllm.packed_weights import pack_weights
from mllm.serve.batch import Batch
from mllm.serve.engine_int8 import use_int8
from mllm.serve.engine_queue import FairQueue
from mllm.serve.engine_reply import Reply
from mllm.serve.engine_text import Spelling, Writer
from mllm.serve.engine_work import Work
from mllm.serve.generation import BusyError, DeadlineError, EngineError, GenerationRequest, StoppingError
from mllm.serve.key_values import Decoder
from mllm.serve.prefix_cache import LIMIT, PrefixCache
from mllm.serve.process_memory import give_back
from mllm.serve.request_limits import check_request

SLOTS = 32  # a step for so many takes a CPU little longer than one for eight: it reads the same weights
PREPARERS = 2
AHEAD = 2  # requests prepared before there is a slot for them
ROOM_BYTES = 4 << 30
TRIM_EVERY = 32  # answers
MOST_UNITS = 4

log = logging.getLogger(__name__)
T = TypeVar("T")


def aside(work: Callable[..., T], *given: Any, **options: Any) -> T:
    """Do something in a thread that ends with it: what computes before an engine starts, such as loading.

    While more threads have computed than there are cores, OpenMP (libgomp) sends them to sleep between two kernels.
    Those of the main thread would count as long as the process lives: a step took 54 ms instead of 42 on two cores.
    """
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work, *given, **options).result()


class MusicEngine:
    """An `Engine` over a loaded model.

    Args:
        music: the model; nothing else should use it meanwhile, or both get slower.
        slots: answers under way at a time; one more where a single client holds all of them and another waits.
        waiting: requests that may wait for a slot; more are refused with `BusyError`.
        prefix_bytes: memory for the beginnings of conversations; 0 for none.
        room_bytes: memory for keys and values of answers under way; what does not fit waits.
        int8: write with weights rounded to eight bits (`engine_int8`): faster for few answers at a time, no slower for
            `slots` up to 8, and now and then another word. Changes `music` itself.
        share_prefixes: let clients profit from each other's beginnings. Then `cached_tokens` shows a client that
            somebody has asked about the same clip.
    """

    def __init__(
        self,
        music: MusicLM,
        *,
        slots: int = SLOTS,
        waiting: int = 64,
        prefix_bytes: int = LIMIT,
        room_bytes: int = ROOM_BYTES,
        int8: bool = False,
        share_prefixes: bool = False,
    ):
        self.music = music
        self.model_name = music.name
        self.context = music.context
        self.slots, self.room_bytes, self.share_prefixes = slots, room_bytes, share_prefixes
        if int8:
            aside(use_int8, music.model, slots + 1)
        else:
            aside(pack_weights, music.model)
        self._decoder = Decoder(music.model)
        self._prefixes = PrefixCache(prefix_bytes, music.processor.audio_token_id)
        self._batch = Batch(self._decoder, self._prefixes)
        self._spelling = Spelling(music.processor.tokenizer)
        self._queue: FairQueue[Work] = FairQueue(waiting)
        self._preparing: list[Work] = []
        self._ready: list[Work] = []
        self._joining: list[Work] = []
        self._under_way: WeakValueDictionary[str, Hearing] = WeakValueDictionary()
        self._changed = threading.Event()
        self._lock = threading.Lock()  # of the lists that the preparers touch
        self._grammar_lock = threading.Lock()
        self._oldest_next = False
        self._stopping = self._closed = False
        self._pace = 1.0  # seconds from one finished request to the next, while there is work
        self._last_end: float | None = None
        self._counts: dict[str, float] = dict.fromkeys(
            ("requests", "finished", "failed", "refused", "cancelled", "prompt_tokens", "completion_tokens",
             "cached_tokens", "audio_tokens", "steps", "step_seconds", "join_seconds"), 0.0
        )  # fmt: skip
        self._pool = ThreadPoolExecutor(PREPARERS, thread_name_prefix="mllm-prepare")
        self._thread = threading.Thread(target=self._run, name="mllm-engine", daemon=True)
        self._thread.start()

    def submit(self, request: GenerationRequest) -> Reply:
        """Queue a request; returns at once.

        Raises:
            PromptError: an option is out of its range.
            BusyError: too many wait already. A request that waits may also be failed with it later, to make room for a
                client that asks less.
            StoppingError: the engine goes down.
        """
        if self._stopping:
            raise StoppingError("the server is going down and takes nothing new")
        check_request(request, self.music.vocabulary, self.context)
        work = Work(request, Reply(self._changed.set))
        refused = self._queue.put(request.client, work)
        if refused:
            self._counts["refused"] += 1
            seconds = self._retry_after()
            error = BusyError(
                f"{self._queue.limit} requests wait already: try again in {seconds:.0f} s, or ask for less at a time",
                seconds,
            )
            if refused is work:
                raise error
            refused.reply.fail(error)
        self._counts["requests"] += 1
        if self._closed:  # meanwhile: the thread may be past telling it
            work.reply.fail(StoppingError("the server went down before the answer was there"))
        self._changed.set()
        return work.reply

    def statistics(self) -> dict[str, float]:
        """Gauges (running, waiting, bytes) and counters since the start, for /metrics."""
        memory = self.music.memory
        return {
            **self._counts,
            "running": float(len(self._batch)),
            "joining": float(len(self._preparing) + len(self._ready) + len(self._joining)),
            "waiting": float(len(self._queue)),
            "heard_seconds": memory.seconds,
            "heard_hits": float(memory.hits),
            "heard_misses": float(memory.misses),
            "heard_bytes": float(memory.size),
            "prefix_hits": float(self._prefixes.hits),
            "prefix_misses": float(self._prefixes.misses),
            "prefix_bytes": float(self._prefixes.bytes),
        }

    async def drain(self, seconds: float) -> bool:
        """Take nothing new and wait, at most so long, for what is here; whether all of it was answered."""
        self._stopping = True
        until = time.monotonic() + seconds
        while not self._idle() and time.monotonic() < until and self._thread.is_alive():
            await asyncio.sleep(0.02)
        return self._idle()

    def close(self) -> None:
        """End what runs and the generation thread; any number of times."""
        self._stopping = self._closed = True
        self._changed.set()
        if threading.current_thread() is not self._thread:
            self._thread.join()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def __enter__(self) -> MusicEngine:
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()

    def _retry_after(self) -> float:
        """Seconds until about half of the queue has moved on."""
        return min(max(1.0, len(self._queue) / 2 * self._pace), 120.0)

    def _idle(self) -> bool:
        return not (len(self._queue) or self._preparing or self._ready or self._joining or len(self._batch))

    # ---- what follows runs in the generation thread, but for _prepare

    def _run(self) -> None:
        with torch.inference_mode():
            while not self._closed:
                self._changed.clear()
                try:
                    self._sort_out()
                    self._admit()
                    worked = any([self._join() for _ in range(self._units())])
                    worked = self._step() or worked
                except Exception as error:  # a fault in here may fail what runs, never end the engine
                    log.exception("the engine failed")
                    self._fail_all(EngineError(f"the engine failed ({type(error).__name__}): ask again"))
                    worked = True
                if not worked:
                    self._last_end = None
                    self._changed.wait(self._until_deadline())
            self._fail_all(StoppingError("the server went down before the answer was there"))

    def _sort_out(self) -> None:
        """Let go of requests whose reader has left or whose time is over, wherever they are."""
        now = time.monotonic()

        def over(work: Work) -> bool:
            return work.reply.cancelled or work.reply.ended or now >= work.deadline

        gone = self._queue.remove(over)
        for work in [work for work in self._batch.works if over(work)]:
            self._batch.leave(work, keep=work.reply.cancelled)
            gone.append(work)
        with self._lock:
            for place in (self._preparing, self._ready, self._joining):
                gone += [work for work in place if over(work)]
                place[:] = [work for work in place if not over(work)]
        for work in gone:
            if work.reply.cancelled:
                self._ended(work, "cancelled")
                work.reply.end("cancelled", work.usage)
            elif not work.reply.ended:
                self._fail(work, DeadlineError(f"no answer within the {work.request.seconds:g} s that were allowed"))

    def _admit(self) -> None:
        """Have requests prepared, in turn, and let as many join as there are slots and memory for."""
        while len(self._preparing) + len(self._ready) + len(self._joining) + len(self._batch) < self.slots + AHEAD:
            work = self._queue.take()
            if work is None:
                break
            self._start_preparing(work)
        with self._lock:
            clients = {work.request.client for work in (*self._preparing, *self._ready)}
        clients |= {work.request.client for work in (*self._joining, *self._batch.works)}
        if len(clients) == 1 and (newcomer := self._queue.take(but=clients)):
            self._start_preparing(newcomer)
        while work := self._next_ready():
            others = [other.tokens for other in (*self._joining, *self._batch.works)]
            if (len(others) + 1) * max([*others, work.tokens]) * self._decoder.token_bytes > self.room_bytes:
                if others:
                    break
                self._fail(
                    work,
                    PromptError(f"prompt and answer may take {work.tokens} tokens, for which the server has no memory"),
                )
            with self._lock:
                self._ready.remove(work)
            if not work.reply.ended:
                work.share(self._under_way)
                self._joining.append(work)

    def _start_preparing(self, work: Work) -> None:
        with self._lock:
            self._preparing.append(work)
        self._pool.submit(self._prepare, work)

    def _next_ready(self) -> Work | None:
        """The next to join, if there is a slot. Where one client holds all of them, another gets one more."""
        held = [*self._joining, *self._batch.works]
        with self._lock:
            if len(held) < self.slots:
                return next(iter(self._ready), None)
            clients = {work.request.client for work in held}
            if len(held) > self.slots or len(clients) > 1:
                return None
            return next((work for work in self._ready if work.request.client not in clients), None)

    def _prepare(self, work: Work) -> None:
        """In a thread of the pool: all that asks no model."""
        request = work.request
        try:
            if work.reply.ended:
                return
            compiled = None
            if request.grammar is not None:
                with self._grammar_lock:
                    compiled = self.music.grammars.compile(request.grammar)
            if request.prompt is not None:
                draft = self.music.draft_text(request.prompt, request.max_tokens)
            else:
                draft = self.music.draft(request.messages, request.max_tokens, request.begin)
            owner = "" if self.share_prefixes else request.client
            keys = self._prefixes.keys(draft.ids, draft.hearings, owner)
            spelling = self._spelling if request.top_logprobs is not None else None
            writer = Writer(self.music.processor.tokenizer, self.music.stops, request.stop, spelling)
            work.prepare(draft, compiled, keys, writer)
        except MllmError as error:
            self._fail(work, error)
        except Exception as error:
            log.exception("a request could not be prepared")
            self._fail(work, EngineError(f"the request could not be prepared ({type(error).__name__})"))
        finally:
            with self._lock:
                if work in self._preparing:
                    self._preparing.remove(work)
                    if not work.reply.ended:
                        self._ready.append(work)
            self._changed.set()

    def _units(self) -> int:
        """Units of work on the way in between two steps: more, the more wait beside few that are answered.

        A step costs little more for many rows than for few; with one unit a step, half of a crowd's slots stayed empty.
        """
        waiting = len(self._joining)
        return min(MOST_UNITS, max(1, 8 * (waiting - 1) // (len(self._batch) + 1)))

    def _join(self) -> bool:
        """One unit of work for one request on its way in; whether there was any to do.

        In turn the one with the least left, so that short ones are not kept, and the oldest, so that long ones come on.
        """
        if not self._joining:
            return False
        begun = time.perf_counter()
        oldest, shortest = self._joining[0], min(self._joining, key=lambda work: work.left)
        work = oldest if self._oldest_next else shortest
        self._oldest_next = not self._oldest_next
        try:
            hidden = work.advance(self.music, self._decoder, self._prefixes, alone=not len(self._batch))
            if hidden is not None:
                self._joining.remove(work)
                usage = work.usage
                self._batch.join(work, hidden)
                if usage:
                    self._counts["prompt_tokens"] += usage.prompt_tokens
                    self._counts["audio_tokens"] += usage.audio_tokens or 0
                    self._counts["cached_tokens"] += usage.cached_tokens
                if work.reply.ended:
                    self._ended(work, "finished")
        except Exception as error:
            if work in self._joining:
                self._joining.remove(work)
            self._fail(work, self._explained(error, work))
        self._counts["join_seconds"] += time.perf_counter() - begun
        return True

    def _step(self) -> bool:
        """One token more for every answer; whether there was any."""
        if not len(self._batch):
            return False
        begun = time.perf_counter()
        works = list(self._batch.works)
        try:
            self._batch.step(lambda work, error: self._fail(work, self._explained(error, work)))
        except Exception as error:
            failure = self._explained(error, None)
            self._batch = Batch(self._decoder, self._prefixes)
            for work in works:
                self._fail(work, failure)
            return True
        self._counts["steps"] += 1
        self._counts["step_seconds"] += time.perf_counter() - begun
        for work in works:
            if work.reply.finish:
                self._ended(work, "finished")
        return True

    def _explained(self, error: Exception, work: Work | None) -> MllmError:
        """What a reader is told of an error; the log has the whole of it."""
        if isinstance(error, MllmError):
            return error
        memory = isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(error)
        log.error("generation failed", exc_info=None if memory else error)
        if memory:
            self._prefixes.clear()
            tokens = f" of {work.prompt_tokens} tokens" if work else ""
            return PromptError(f"there is not enough memory for a prompt{tokens}: give it shorter recordings")
        return EngineError(f"the generation failed ({type(error).__name__}): ask again")

    def _fail(self, work: Work, error: MllmError) -> None:
        if not work.reply.ended:
            self._ended(work, "failed")
            work.reply.fail(error)

    def _fail_all(self, error: MllmError) -> None:
        works = [*self._queue.remove(lambda work: True), *self._batch.works]
        self._batch = Batch(self._decoder, self._prefixes)
        with self._lock:
            for place in (self._preparing, self._ready, self._joining):
                works += place
                place.clear()
        for work in works:
            self._fail(work, error)

    def _ended(self, work: Work, how: str) -> None:
        with self._lock:
            self._counts[how] += 1
            self._counts["completion_tokens"] += len(work.reply.tokens)
        now = time.monotonic()
        if how == "finished":
            if self._counts["finished"] % TRIM_EVERY == 0:
                give_back()
            if self._last_end is not None:
                self._pace += 0.1 * (now - self._last_end - self._pace)
            self._last_end = now

    def _until_deadline(self) -> float | None:
        """Seconds that the thread may sleep when there is nothing to do but wait for preparers."""
        with self._lock:
            deadlines = [work.deadline for work in (*self._preparing, *self._ready)]
        if len(self._queue):
            deadlines.append(time.monotonic() + 1)
        return max(0.0, min(deadlines) - time.monotonic()) if deadlines else None
