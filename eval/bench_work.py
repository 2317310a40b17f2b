"""What `mllm.eval.bench` measures, one measurement a fresh process: `python -m mllm.eval.bench_work '{"kind": …}'`.

The last line it prints is a JSON object.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

QUESTIONS = (
    "What key is this in?", "What is the tempo?", "What is the metre?", "Which instrument is playing?",
    "What is the range of the melody?", "What is the contour of the melody?",
)  # fmt: skip
SHORT = 16  # tokens: a short answer is cut here, so that an untrained model is measured on the same work


def peak_rss() -> float:
    """GiB of memory that this process had at most."""
    status = Path("/proc/self/status")
    if status.exists():  # unlike ru_maxrss, not inherited from the process that started this one
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 2**20
    maximum = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return maximum / 2 ** (30 if sys.platform == "darwin" else 20)


def music(number: int, sampling_rate: int, seconds: float = 10.0) -> np.ndarray:
    """Float32 mono waveform [samples] of a random tune, rendered; another `number`, another tune, key and tempo."""
    from mllm.score import Note, Score, to_midi
    from mllm.synthesis import render

    rng = np.random.default_rng(number)
    scale, tonic = np.array([0, 2, 4, 5, 7, 9, 11, 12, 14, 16]), 55 + number % 12
    tune = [Note(float(i), 1.0, int(tonic + rng.choice(scale))) for i in range(64)]
    bass = [Note(float(i), 2.0, int(tonic - 12 + rng.choice(scale[:5])), 1) for i in range(0, 64, 2)]
    score = Score(notes=sorted(tune + bass), metre=(4, 4), tempo=80.0 + 7 * (number % 9))
    wave = render(to_midi(score, programs=[number % 8 * 8, 0]), sampling_rate=sampling_rate).mean(axis=1)
    return np.resize(wave, round(seconds * sampling_rate)).astype(np.float32)


def towers(repeats: int, windows: int = 4, **_: Any) -> dict[str, Any]:
    """The stack as models use it (fused, bf16) and plain, on the same windows by turns: one at a time, and a batch."""
    import torch

    from mllm.towers import load_tower

    stacks: dict[str, Any] = {
        "plain": load_tower("stack", fused=False), "fused": load_tower("stack", dtype=torch.bfloat16)
    }  # fmt: skip
    config = stacks["fused"].config
    seconds = config.window_seconds * windows
    batch = torch.from_numpy(np.stack([music(i, config.sampling_rate, config.window_seconds) for i in range(windows)]))
    ways = {"one_by_one": list(batch[:, None]), "batch": [batch]}
    heard = {name: stack(batch).last_hidden_state.float() for name, stack in stacks.items()}
    out: dict[str, Any] = {
        "threads": torch.get_num_threads(), "windows": windows, "window_seconds": config.window_seconds,
        "max_difference": float((heard["plain"] - heard["fused"]).abs().max()),
    }  # fmt: skip
    for way, pieces in ways.items():
        took: dict[str, list[float]] = {name: [] for name in stacks}
        worked: dict[str, list[float]] = {name: [] for name in stacks}
        for _i in range(repeats):
            for name, stack in stacks.items():
                _hear(stack, pieces[:1])  # untimed: the other stack has just filled the caches with its own
                before = time.process_time()
                took[name].append(_timed(_hear, stack, pieces)[0])
                worked[name].append(time.process_time() - before)
        times = {name: median(values) for name, values in took.items()}
        out[way] = {
            "plain_seconds": times["plain"], "fused_seconds": times["fused"],
            "ratio": times["plain"] / times["fused"], "real_time_factor": times["fused"] / seconds,
            "plain_real_time_factor": times["plain"] / seconds,
            # over all threads: what stays comparable when something else runs on the machine
            "cpu_ratio": median(worked["plain"]) / median(worked["fused"]),
            "fused_cpu_seconds": median(worked["fused"]),
        }  # fmt: skip
    return out | {"peak_rss_gib": peak_rss()}


def ask(model: str, repeats: int, started: float, **_: Any) -> dict[str, Any]:
    """A short answer about 10-s clips, each new to the model; then further questions about the last of them."""
    from mllm.chat import load

    talker = load(model)
    start_up = time.time() - started
    clips = [music(i, talker.sampling_rate) for i in range(repeats + 1)]
    first, _answer = _timed(talker.ask, clips[0], QUESTIONS[0], max_new_tokens=SHORT)
    fresh = [_timed(talker.ask, c, QUESTIONS[0], max_new_tokens=SHORT) for c in clips[1:]]
    others = [QUESTIONS[1 + i % (len(QUESTIONS) - 1)] for i in range(repeats)]
    again = [_timed(talker.ask, clips[-1], q, max_new_tokens=SHORT) for q in others]
    return {
        "start_up_seconds": start_up, "first_seconds": first, "seconds": median(t for t, _ in fresh),
        "answer_tokens": median(a.answer_tokens for _, a in fresh), "answer": str(fresh[-1][1]),
        "follow_up_seconds": median(t for t, _ in again), "follow_up_tokens": median(a.answer_tokens for _, a in again),
        "peak_rss_gib": peak_rss(),
    }  # fmt: skip


def long(model: str, path: str, started: float, **_: Any) -> dict[str, Any]:
    """One question about a long recording."""
    from mllm.chat import load

    talker = load(model)
    start_up = time.time() - started
    loaded = peak_rss()
    seconds, answer = _timed(talker.ask, path, QUESTIONS[0], max_new_tokens=SHORT)
    follow_up, _answer = _timed(talker.ask, path, QUESTIONS[1], max_new_tokens=SHORT)
    return {
        "start_up_seconds": start_up, "seconds": seconds, "audio_seconds": answer.audio_seconds,
        "audio_tokens": answer.audio_tokens, "answer": str(answer), "follow_up_seconds": follow_up,
        "loaded_rss_gib": loaded, "peak_rss_gib": peak_rss(),
    }  # fmt: skip


def record(path: str, minutes: float, **_: Any) -> dict[str, Any]:
    """Write an mp3 that repeats eight rendered clips; a second short of `minutes`, for the encoder pads the end."""
    import soundfile as sf

    rate, wanted = 44_100, minutes * 60 - 1
    clips = [music(i, rate) for i in range(8)]
    with sf.SoundFile(path, "w", rate, 1, format="MP3") as file:
        written = 0
        for i in range(int(wanted // 10) + 1):
            piece = clips[i % 8][: max(0, round(wanted * rate) - written)]
            file.write(piece)
            written += len(piece)
    return {"bytes": Path(path).stat().st_size, "audio_seconds": written / rate}


def _hear(stack: Any, pieces: list[Any]) -> None:
    for piece in pieces:
        stack(piece)


def _timed(work: Callable[..., Any], *arguments: Any, **options: Any) -> tuple[float, Any]:
    begun = time.perf_counter()
    result = work(*arguments, **options)
    return time.perf_counter() - begun, result


KINDS: dict[str, Callable[..., dict[str, Any]]] = {"towers": towers, "ask": ask, "long": long, "record": record}

if __name__ == "__main__":
    job = json.loads(sys.argv[1])
    print(json.dumps(KINDS[job.pop("kind")](**job), ensure_ascii=False))
