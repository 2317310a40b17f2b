"""How fast the engine answers: `python -m mllm.serve.engine_bench --model mini --clients 8`.

Every answer has the same number of tokens, every client brings clips of its own, and nothing is remembered from one
measurement to the next. Ends in one line of JSON. Run it with nothing else on the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from typing import Any

import numpy as np
import torch

from mllm.chat import MusicLM, load
from mllm.hearing import Memory
from mllm.serve.engine import SLOTS, MusicEngine, aside
from mllm.serve.generation import GenerationRequest

SECONDS = 10.0
# weights while prompts are read, and whether answers are written with int8
PRECISIONS = {"bf16": (torch.bfloat16, False), "int8": (torch.bfloat16, True), "fp32": (torch.float32, False)}


def clip(number: int, rate: int) -> np.ndarray:
    """Float32 mono [samples]: two notes over a pulse, different for each number."""
    time_axis = np.arange(round(SECONDS * rate)) / rate
    pulse = np.exp(-6 * (time_axis % (60 / (60 + number % 120))))
    notes = sum(np.sin(2 * np.pi * 110 * 2 ** (step / 12) * time_axis) for step in (number % 24, number % 24 + 7))
    return (0.2 * notes * pulse).astype(np.float32)


def quantile(values: list[float], share: float) -> float:
    """The smallest of the values that so many lie at or below."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def forget(music: MusicLM) -> None:
    """Start as if nothing had been heard."""
    music.memory = Memory()


def one_by_one(music: MusicLM, questions: list[list[dict[str, Any]]], tokens: int) -> float:
    """Tokens a second of plain `generate`, one question after another."""
    forget(music)
    begun = time.perf_counter()
    for messages in questions:
        draft = music.draft(messages, tokens)
        for hearing in draft.hearings:
            while not hearing.heard:
                hearing.advance(8)
        embeddings = music.embed(draft)
        mask = torch.ones(embeddings.shape[:2], dtype=torch.long)
        music.model.generate(
            inputs_embeds=embeddings, attention_mask=mask, max_new_tokens=tokens, min_new_tokens=tokens
        )
    return len(questions) * tokens / (time.perf_counter() - begun)


class Bench:
    """Measures one engine.

    Args:
        music: the model.
        tokens: of each answer.
    """

    def __init__(self, music: MusicLM, tokens: int):
        self.music, self.tokens = music, tokens
        self.endless = dict.fromkeys(music.stops, -1000.0)  # an answer has as many tokens as it may

    def question(self, number: int) -> list[dict[str, Any]]:
        """One about a clip of its own."""
        return [self.music.question([clip(number, self.music.sampling_rate)], "What key is this in?")]

    async def ask(
        self, engine: MusicEngine, messages: list[dict[str, Any]], client: str, whole: bool = True
    ) -> tuple[list[float], str]:
        """The moments, in seconds after the question, at which pieces came; and the words.

        `whole`: the answer has all of its tokens, however soon the model would end it.
        """
        begun, moments, words = time.perf_counter(), [], ""
        bias = self.endless if whole else {}
        request = GenerationRequest(
            messages=messages, max_tokens=self.tokens, logit_bias=bias, client=client, seconds=3600
        )
        async for piece in engine.submit(request):
            moments.append(time.perf_counter() - begun)
            words += piece.text
        return moments, words

    async def crowd(self, engine: MusicEngine, clients: int, rounds: int) -> dict[str, float]:
        """Many clients, each asking one question after another."""
        forget(self.music)
        firsts: list[float] = []

        async def client(number: int) -> None:
            for turn in range(rounds):
                moments, _ = await self.ask(engine, self.question(1000 + turn * clients + number), str(number))
                firsts.append(moments[0])

        begun = time.perf_counter()
        await asyncio.gather(*[client(number) for number in range(clients)])
        seconds = time.perf_counter() - begun
        return {
            "tokens_per_second": clients * rounds * self.tokens / seconds,
            "ttft_median": statistics.median(firsts),
            "ttft_p95": quantile(firsts, 0.95),
        }

    async def alone(self, engine: MusicEngine, rounds: int) -> dict[str, float]:
        """One client: time to the first token of a first question and of a follow-up, and the pace after it."""
        forget(self.music)
        first, second, pace = [], [], []
        for number in range(rounds):
            messages = self.question(number)
            moments, words = await self.ask(engine, messages, "", whole=False)
            first.append(moments[0])
            messages = [*messages, {"role": "assistant", "content": words}]
            follow_up = [*messages, {"role": "user", "content": "And the tempo?"}]
            moments, _ = await self.ask(engine, follow_up, "", whole=False)
            second.append(moments[0])
            moments, _ = await self.ask(engine, self.question(rounds + number), "")
            pace.append((self.tokens - 1) / (moments[-1] - moments[0]))
        return {
            "ttft_first": statistics.median(first),
            "ttft_follow_up": statistics.median(second),
            "stream_tokens_per_second": statistics.median(pace),
        }


def measure(model: str, precision: str, clients: int, tokens: int, rounds: int, slots: int) -> dict[str, Any]:
    """All figures of one precision."""
    dtype, int8 = PRECISIONS[precision]
    music = aside(load, model, dtype)
    bench = Bench(music, tokens)
    questions = [bench.question(500 + number) for number in range(max(clients, 4))]
    aside(one_by_one, music, [bench.question(9999)], 4)  # warm
    plain = aside(one_by_one, music, questions, tokens)
    with MusicEngine(music, slots=slots, waiting=4 * clients, int8=int8) as engine:
        asyncio.run(bench.ask(engine, bench.question(9998), "warm"))
        alone = asyncio.run(bench.alone(engine, max(3, rounds)))
        crowd = asyncio.run(bench.crowd(engine, clients, rounds))
        counts = engine.statistics()
    return {
        "precision": precision,
        "one_by_one_tokens_per_second": plain,
        **alone,
        **crowd,
        "times_one_by_one": crowd["tokens_per_second"] / plain,
        "follow_up_share": alone["ttft_follow_up"] / alone["ttft_first"],
        "step_milliseconds": 1000 * counts["step_seconds"] / max(1, counts["steps"]),
    }


def main() -> None:
    """Measure each precision and print a table and a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mini", help="name or folder of a model")
    parser.add_argument("--clients", type=int, default=8, help="clients that ask at the same time")
    parser.add_argument("--tokens", type=int, default=32, help="of each answer")
    parser.add_argument("--rounds", type=int, default=3, help="questions of each client")
    parser.add_argument("--slots", type=int, default=SLOTS, help="answers that the engine writes at a time")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch")
    parser.add_argument("--precision", action="append", choices=PRECISIONS, help="again for several; all without it")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    results = [
        measure(options.model, precision, options.clients, options.tokens, options.rounds, options.slots)
        for precision in options.precision or PRECISIONS
    ]
    for name in results[0]:
        cells = [result[name] if isinstance(result[name], str) else f"{result[name]:.3g}" for result in results]
        print(f"{name:32s}" + "".join(f"{cell:>10s}" for cell in cells))
    settings = {name: vars(options)[name] for name in ("model", "clients", "tokens", "rounds", "slots", "threads")}
    print(json.dumps({**settings, "results": results}))


if __name__ == "__main__":
    main()
