"""The bench asks what an evaluation asks, and compares the answers with those of one `generate` each."""

from __future__ import annotations

from tiny_checkpoint import tiny_folder

from mllm.eval.throughput_bench import measure


def test_every_prompt_is_asked_both_ways(data):
    found = measure(str(tiny_folder()), data, limit=2, tasks=["key", "tempo"])
    assert found["prompts"] >= 8  # two items, two tasks, with and without their recordings
    assert found["same"] >= 0.9 * found["prompts"] and found["tokens"] > 0
    assert found["times"] == found["one_by_one"] / found["batched"]
