"""Packing and prefix sharing: nothing lost, nothing seen twice, and the very loss of examples that stand alone."""

from __future__ import annotations

from typing import Any

import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import clicks, save_tiny_text_model

from mllm.train.collator import META, Collator
from mllm.train.config import ModelConfig, PackingSettings, TrainConfig
from mllm.train.dataset import InstructionDataset, describe_packing
from mllm.train.feature_cache import FeatureCache
from mllm.train.packing import best_fit, pack, shared_prefix
from mllm.train.tuned_model import attention_of, build_model, sliding_window

ABC = "X:1\nT:Scale\nM:4/4\nL:1/8\nK:G\n" + "GABc dedB|dedB dedB|c2ec B2dB|A2A2 A2 BA|" * 2


@pytest.fixture(scope="module", params=["llama", "gemma3"])
def parts(request, tmp_path_factory) -> dict[str, Any]:
    """A tiny model, and rows about two recordings (one of three windows), a score, several audios, and words alone."""
    folder = tmp_path_factory.mktemp("packing")
    soundfile.write(folder / "short.wav", clicks(90, 6.0), 22050)
    soundfile.write(folder / "long.wav", clicks(120, 25.0), 22050)

    def row(number: int, parts: list, *talk: str) -> dict[str, Any]:
        first = {"role": "user", "content": [*parts, {"type": "text", "text": talk[0]}]}
        roles = ("assistant", "user")
        rest = [{"role": roles[i % 2], "content": text} for i, text in enumerate(talk[1:])]
        return {"id": f"r{number}", "task": f"task{number % 2}", "messages": [first, *rest]}

    short, long = ({"type": "audio", "audio": str(folder / f"{name}.wav")} for name in ("short", "long"))
    score = {"type": "text", "text": ABC}
    talks = [
        ([short], ("How fast?", "90")),
        ([short], ("How fast is it?", "90 beats a minute", "Sure?", "Yes.")),
        ([long], ("How fast?", "120")),
        ([long], ("Which metre?", "It is in 4/4.")),
        ([score], ("Key?", "G major")),
        ([score], ("Metre?", "4/4")),
        ([short, long], ("Which is faster?", "the second")),
        ([short, {"type": "text", "text": "against"}, long], ("Which is slower?", "the first")),
        ([], ("What is a fifth?", "Seven semitones.")),
        ([short], ("How fast?", "90")),
    ]
    rows = [row(i, list(given), *talk) for i, (given, talk) in enumerate(talks)]
    config = TrainConfig(
        model=ModelConfig(
            audio_tower="tempogram",
            language_model=str(save_tiny_text_model(folder / "text", request.param)),
            projector={"projector_hidden_size": 64, "projector_layers": 1, "projector_dropout": 0.0},
        ),
        method="full",
    )
    model, processor = build_model(config, bf16=False)
    if request.param == "gemma3":
        model.config.text_config.sliding_window = 64  # shorter than a recording, so that it matters
    cache = FeatureCache(model.model.audio_tower, processor.feature_extractor, folder / "features")
    kernels = ["sdpa"] if sliding_window(model.config.text_config) else ["sdpa", "grouped"]
    assert attention_of(model) == kernels[-1], "the better one is chosen where it can be"
    return {"rows": rows, "model": model, "processor": processor, "cache": cache, "kernels": kernels}


def per_row(
    parts: dict[str, Any], packing: PackingSettings | None, size: int, kernel: str = "sdpa", **how: Any
) -> dict[str, Any]:
    """Loss sum by row and the gradient of the projector, over all rows in batches of `size`."""
    model = parts["model"].train()
    model.get_decoder().set_attn_implementation(kernel)
    model.zero_grad()
    dataset = InstructionDataset(parts["rows"], parts["processor"], packing=packing)
    how = {"attention": kernel, "window": sliding_window(parts["model"].config.text_config)} | how
    collate = Collator(parts["processor"], parts["cache"], **how)
    losses: dict[str, float] = {}
    for start in range(0, len(dataset), size):
        batch = collate([dataset[i] for i in range(start, min(start + size, len(dataset)))])
        meta = batch.pop(META)
        out = model(**batch, num_items_in_batch=100)
        out.loss.backward()
        learned = batch["labels"][:, 1:] != -100
        owners = meta.owners[:, 1:][learned]
        assert len(owners) == len(out.token_losses) and (owners >= 0).all()
        for owner, loss in zip(owners.tolist(), out.token_losses.tolist(), strict=True):
            losses[meta.rows[owner][0]] = losses.get(meta.rows[owner][0], 0.0) + loss
    gradient = torch.cat([p.grad.flatten() for p in model.model.projector.parameters() if p.grad is not None])
    return {"losses": losses, "gradient": gradient.clone()}


@pytest.fixture(scope="module")
def alone(parts) -> dict[str, Any]:
    """Every row in a batch of its own."""
    return per_row(parts, None, 1)


@pytest.mark.parametrize(("tokens", "share"), [(220, True), (5000, True), (400, False)])
def test_packed_rows_have_the_loss_and_gradient_of_rows_alone(parts, alone, tokens, share):
    for kernel in parts["kernels"]:
        packed = per_row(parts, PackingSettings(tokens=tokens, share_prefixes=share), 2, kernel)
        assert packed["losses"] == pytest.approx(alone["losses"], rel=1e-4)
        assert torch.allclose(packed["gradient"], alone["gradient"], atol=1e-5, rtol=1e-3)


def test_padded_batches_have_the_loss_of_rows_alone(parts, alone):
    padded = per_row(parts, None, len(parts["rows"]))
    assert padded["losses"] == pytest.approx(alone["losses"], rel=1e-4)
    assert torch.allclose(padded["gradient"], alone["gradient"], atol=1e-5, rtol=1e-3)


def test_a_flat_row_that_restarts_has_the_loss_of_rows_alone(parts, alone):
    packing = PackingSettings(tokens=400, share_prefixes=False)
    flat = per_row(parts, packing, 3, attention="flash_attention_2")
    assert flat["losses"] == pytest.approx(alone["losses"], rel=1e-4)


def test_packs_in_one_row_have_no_padding(parts):
    dataset = InstructionDataset(parts["rows"], parts["processor"], packing=PackingSettings(tokens=220))
    batch = Collator(parts["processor"], parts["cache"], "grouped")([dataset[i] for i in range(len(dataset))])
    assert len(dataset) > 1 and batch["input_ids"].shape == (1, batch[META].tokens)


def test_logits_everywhere_give_the_same_loss(parts):
    dataset = InstructionDataset(parts["rows"], parts["processor"])
    batch = Collator(parts["processor"], parts["cache"])(list(dataset.examples))
    batch.pop(META)
    model = parts["model"].eval()
    with torch.no_grad():
        few, all_of_them = model(**batch), model(**batch, supervised_logits=False)
    assert few.loss.item() == pytest.approx(all_of_them.loss.item(), rel=1e-6)
    assert few.logits.shape[0] == (batch["labels"][:, 1:] != -100).sum() and all_of_them.logits.ndim == 3


def test_without_a_cache_the_tower_hears_the_same(parts):
    dataset = InstructionDataset(parts["rows"], parts["processor"], packing=PackingSettings(tokens=400))
    model = parts["model"].eval()
    losses = []
    for cache in (parts["cache"], None):
        batch = Collator(parts["processor"], cache)([dataset[i] for i in range(len(dataset))])
        batch.pop(META)
        assert ("tower_features" in batch) == (cache is not None)
        with torch.no_grad():
            losses.append(model(**batch).loss.item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-3), "features are kept in half precision"


def test_a_recording_stands_once_in_a_row_of_the_batch(parts):
    dataset = InstructionDataset(parts["rows"], parts["processor"], packing=PackingSettings(tokens=5000))
    batch = Collator(parts["processor"], parts["cache"])([dataset[0]])
    heard = batch["input_features_mask"].sum().item()
    assert len(dataset) == 1
    assert heard == (batch["input_ids"] == parts["processor"].audio_token_id).sum().item()
    short, long = ({e["audios"][0]: int(e["masks"][0].sum()) for e in dataset.examples if e["audios"]}).values()
    assert heard == short + long + short + 2 * long, (
        "three rows share the short clip, two the long one; a pair the first"
    )
    saved = describe_packing(dataset, 5000)["saved"]
    assert 0 < saved < 1 and batch[META].tokens == round(sum(e["length"] for e in dataset.examples) * (1 - saved))


@settings(max_examples=60, deadline=None)
@given(lengths=st.lists(st.integers(1, 120), min_size=1, max_size=60), tokens=st.integers(50, 200))
def test_best_fit_holds_everything_once_and_leaves_little_room(lengths, tokens):
    rows = best_fit(lengths, tokens, list(range(len(lengths))))  # type: ignore[arg-type]
    assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
    sizes = [sum(lengths[i] for i in row) for row in rows]
    assert all(size <= tokens or len(row) == 1 for size, row in zip(sizes, rows, strict=True))
    least = max(-(-sum(min(length, tokens) for length in lengths) // tokens), sum(2 * n > tokens for n in lengths))
    assert len(rows) <= 11 / 9 * least + 2, "best fit decreasing needs at most 11/9 of the best plus a constant"


@settings(max_examples=40, deadline=None)
@given(data=st.data(), tokens=st.integers(20, 80))
def test_every_example_is_in_one_pack_whatever_they_share(data, tokens):
    examples = []
    for i in range(data.draw(st.integers(1, 20))):
        stem = data.draw(st.sampled_from([[1, 2, 3], [1, 2, 4, 5, 6], [9]]))
        ids = stem + data.draw(st.lists(st.integers(20, 25), min_size=2, max_size=10))
        learned = data.draw(st.integers(1, len(ids) - 1))
        labels = [-100] * learned + ids[learned:]
        examples.append(
            {"input_ids": torch.tensor(ids), "labels": torch.tensor(labels), "audios": [str(stem)], "id": i}
        )
    packs = pack(examples, tokens)
    assert sorted(e["id"] for one in packs for group in one for e in group.examples) == list(range(len(examples)))
    for one in packs:
        for group in one:
            first = group.examples[0]["input_ids"][: group.prefix].tolist()
            for e in group.examples:
                assert e["input_ids"][: group.prefix].tolist() == first
                assert (e["labels"][: group.prefix + 1] == -100).all(), "nothing is learned in or right behind a prefix"
        assert sum(g.length for g in one) <= tokens or sum(len(g.examples) for g in one) == 1


def test_what_two_examples_share_ends_before_what_is_learned():
    same = {"input_ids": torch.arange(10), "labels": torch.cat([torch.full((6,), -100), torch.arange(6, 10)])}
    assert shared_prefix([same, same]) == 5
