"""The bench asks what an evaluation asks, and compares the answers with those of one `generate` each."""

from __future__ import annotations

from tiny_checkpoint import tiny_folder

from mllm.eval.throughput_bench import measure


def test_every_prompt_is_asked_both_ways(data, same_bits):
    found = measure(str(tiny_folder()), data, limit=2, tasks=["key", "tempo"])
    assert found["prompts"] >= 8  # two items, two tasks, with and without their recordings
    assert min(found["same"], found["same_alone"]) >= (1 if same_bits else 0.8) * found["prompts"]
    assert found["tokens"] > 0
    assert found["times"] == found["one_by_one"] / found["batched"]
    assert found["questions"] > found["prompts"]  # what is asked about silence is asked once
    assert found["times_of_questions"] == found["times"] * found["questions"] / found["prompts"]


def test_one_by_one_may_go_some_prompts_only(data):
    found = measure(str(tiny_folder()), data, limit=2, tasks=["key", "tempo"], every=3)
    assert found["compared"] == -(-found["prompts"] // 3) and found["times"] == found["one_by_one"] / found["batched"]
