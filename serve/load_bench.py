"""Load on a running server, ours or any other that speaks OpenAI's protocol, through the official client.

    mllm serve --model mini --port 8000 & python -m mllm.serve.load_bench --pid $! --minutes 10
    python -m mllm.serve.load_bench --follow-ups 20

Every request streams and brings a clip of its own, so nothing but the prompt's first words was heard before. Ends in
one line of JSON: throughput, times to the first token, errors, and the memory of the server's process.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import json
import statistics
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import openai
import psutil
import soundfile

from mllm.serve.engine_bench import clip, quantile

RATE = 22_050
EVERY = 5.0  # seconds between two looks at the memory
SETTLED = 120.0  # seconds after which memory should not grow any more
NEW = 5_000  # number of the first clip of follow-ups, which no load has sent before
PATIENCE = 120.0  # seconds that a server may take to load its model


def message(number: int, seconds: float = 10.0) -> list[dict[str, Any]]:
    """A question about a clip that no other number has."""
    out = io.BytesIO()
    samples = np.resize(clip(number, RATE), round(seconds * RATE)) * (1 - 1e-5 * (number % 10_000))
    soundfile.write(out, samples, RATE, format="FLAC")
    data = base64.b64encode(out.getvalue()).decode()
    part = {"type": "input_audio", "input_audio": {"data": data, "format": "flac"}}
    return [{"role": "user", "content": [part, {"type": "text", "text": "Describe this music."}]}]


@dataclass
class Seen:
    """What the clients saw; times in seconds."""

    firsts: list[float] = field(default_factory=list)
    wholes: list[float] = field(default_factory=list)
    tokens: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    memory: list[tuple[float, float]] = field(default_factory=list)  # (seconds since the start, MiB)


@dataclass
class Heard:
    """One answer as its client got it."""

    first: float | None = None  # seconds to the first words
    words: str = ""
    tokens: int = 0


async def ready(server: openai.AsyncOpenAI) -> None:
    """Return once a server that may still be loading lists its models. Raises openai.APIConnectionError."""
    until = time.monotonic() + PATIENCE
    while True:
        try:
            await server.models.list()
            return
        except openai.APIConnectionError:
            if time.monotonic() > until:
                raise
            await asyncio.sleep(0.5)


async def ask(server: openai.AsyncOpenAI, options: argparse.Namespace, messages: list[dict[str, Any]]) -> Heard:
    """Ask in a stream. Raises openai.OpenAIError."""
    begun, heard = time.monotonic(), Heard()
    stream: Any = await server.chat.completions.create(  # type: ignore[call-overload]
        model=options.model,
        messages=messages,
        max_tokens=options.tokens,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
        extra_body=json.loads(options.extra),
    )
    async for event in stream:
        if event.choices and event.choices[0].delta.content:
            heard.first = heard.first or time.monotonic() - begun
            heard.words += event.choices[0].delta.content
        if event.usage:
            heard.tokens = event.usage.completion_tokens
    return heard


async def client(
    number: int, server: openai.AsyncOpenAI, options: argparse.Namespace, until: float, seen: Seen
) -> None:
    """One user who asks again as soon as she is answered."""
    while time.monotonic() < until:
        question = await asyncio.to_thread(message, number, options.seconds)
        number += options.clients
        begun = time.monotonic()
        try:
            heard = await ask(server, options, question)
        except openai.OpenAIError as error:
            seen.errors[f"{type(error).__name__}: {error}"[:200]] += 1
            continue
        seen.tokens += heard.tokens
        if heard.first is None:
            seen.errors["an answer without words"] += 1
            continue
        seen.firsts.append(heard.first)
        seen.wholes.append(time.monotonic() - begun)


async def watch(process: psutil.Process, begun: float, until: float, seen: Seen) -> None:
    """Note the memory of a server and its children, and tell how it goes."""
    while time.monotonic() < until:
        members = [process, *process.children(recursive=True)]
        mib = sum(member.memory_info().rss for member in members) / 2**20
        seen.memory.append((time.monotonic() - begun, mib))
        print(f"\r{time.monotonic() - begun:5.0f} s, {len(seen.wholes)} answers, {sum(seen.errors.values())} errors, "
              f"{mib:.0f} MiB", end="", file=sys.stderr, flush=True)  # fmt: skip
        await asyncio.sleep(EVERY)
    print(file=sys.stderr)


def growth(memory: list[tuple[float, float]]) -> dict[str, float]:
    """Memory in MiB once settled and at the end (medians of half a minute), and by what share it grew between."""
    last = memory[-1][0]
    settled = min(SETTLED, last / 2)
    early = statistics.median(mib for at, mib in memory if settled <= at <= settled + 30)
    late = statistics.median(mib for at, mib in memory if at >= last - 30)
    peak = max(mib for _, mib in memory)
    return {"memory_settled_mib": early, "memory_end_mib": late, "memory_peak_mib": peak, "growth": late / early - 1}


async def follow_ups(options: argparse.Namespace) -> dict[str, Any]:
    """One client: seconds to the first word of an answer about a new clip, and of one to a second question about it."""
    firsts, seconds = [], []
    async with openai.AsyncOpenAI(base_url=options.url, api_key=options.api_key, max_retries=0, timeout=600) as server:
        await ready(server)
        await ask(server, options, message(9999, options.seconds))  # warm
        for number in range(options.follow_ups):
            messages = message(NEW + number, options.seconds)
            heard = await ask(server, options, messages)
            firsts.append(heard.first or 0.0)
            messages += [{"role": "assistant", "content": heard.words}, {"role": "user", "content": "And the tempo?"}]
            seconds.append((await ask(server, options, messages)).first or 0.0)
    first, second = statistics.median(firsts), statistics.median(seconds)
    return {"answers": 2 * len(firsts), "errors": {}, "ttft_first": first, "ttft_follow_up": second,
            "follow_up_share": second / first}  # fmt: skip


async def load(options: argparse.Namespace) -> dict[str, Any]:
    """Put a server under load; all figures."""
    seen = Seen()
    async with openai.AsyncOpenAI(base_url=options.url, api_key=options.api_key, max_retries=0, timeout=600) as server:
        await ready(server)
        begun = time.monotonic()
        until = begun + 60 * options.minutes
        jobs = [client(number, server, options, until, seen) for number in range(options.clients)]
        if options.pid:
            jobs.append(watch(psutil.Process(options.pid), begun, until, seen))
        await asyncio.gather(*jobs)
    seconds = time.monotonic() - begun
    if not seen.wholes:
        return {"answers": 0, "errors": dict(seen.errors)}
    return {
        "seconds": seconds,
        "answers": len(seen.wholes),
        "errors": dict(seen.errors),
        "answers_per_second": len(seen.wholes) / seconds,
        "tokens_per_second": seen.tokens / seconds,
        "ttft_median": statistics.median(seen.firsts),
        "ttft_p95": quantile(seen.firsts, 0.95),
        "whole_p95": quantile(seen.wholes, 0.95),
        **(growth(seen.memory) if len(seen.memory) > 2 else {}),
    }


def main() -> None:
    """Put a server under load and print a table and a line of JSON; status 1 after an error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000/v1", help="of the server, ending in /v1")
    parser.add_argument("--model", default="mini", help="id that the server lists")
    parser.add_argument("--api-key", default="none")
    parser.add_argument("--clients", type=int, default=32, help="that ask at the same time")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each clip")
    parser.add_argument("--tokens", type=int, default=32, help="of each answer, at most")
    parser.add_argument("--extra", default="{}", help="JSON that goes into every request, such as a logit_bias")
    parser.add_argument(
        "--follow-ups", type=int, default=0, help="instead: one client, so many questions and follow-ups"
    )
    parser.add_argument("--pid", type=int, help="of the server's process, to watch its memory")
    options = parser.parse_args()
    try:
        result = asyncio.run(follow_ups(options) if options.follow_ups else load(options))
    except openai.OpenAIError as error:
        print(f"error: {options.url}: {error}", file=sys.stderr)
        sys.exit(1)
    for name, value in result.items():
        print(f"{name:24s} {value:.4g}" if isinstance(value, float) else f"{name:24s} {value}")
    settings = {name: vars(options)[name] for name in ("model", "clients", "minutes", "tokens")}
    print(json.dumps({**settings, **result}))
    sys.exit(bool(result["errors"] or not result["answers"]))


if __name__ == "__main__":
    main()
