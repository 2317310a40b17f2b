"""Scores weighed by a recording: what the weights are, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import clicks
from tiny_checkpoint import tiny_folder

from mllm import load
from mllm.errors import AudioError, PromptError, ScoreError
from mllm.matching import bar_means, match, token_loglikelihoods
from mllm.score import read_abc

SCALE = "X:1\nM:4/4\nL:1/4\nK:C\nC D E F | G A B c |]\n"
LEAPS = "X:1\nM:4/4\nL:1/4\nK:C\nC G c G | E c C2 |]\n"


@pytest.fixture(scope="module")
def music():
    return load(str(tiny_folder()), dtype=torch.float32)


@pytest.fixture(scope="module")
def sound() -> np.ndarray:
    return clicks(100, 4.0).astype(np.float32)


def test_likelihoods_are_those_of_the_model_word_by_word(music, sound):
    messages = [{"role": "user", "content": [{"type": "audio", "audio": sound}, {"type": "text", "text": "Key?"}]}]
    found = token_loglikelihoods(music, messages, " C D")
    ids = music.processor.tokenizer(" C D", add_special_tokens=False)["input_ids"] + [music.stops[0]]
    embeddings, steps = music.prepare(messages, len(ids)).embeddings, []
    with torch.inference_mode():
        for token in ids:
            logits = music.model(inputs_embeds=embeddings).logits[0, -1].log_softmax(-1)
            steps.append(float(logits[token]))
            embeddings = torch.cat([embeddings, music.model.get_input_embeddings()(torch.tensor([[token]]))], 1)
    assert found.tolist() == pytest.approx(steps, abs=1e-3)


def test_shares_compare_scores_and_forms_of_a_score_are_one(music, sound, tmp_path):
    file = tmp_path / "scale.abc"
    file.write_text(SCALE)
    found = match(music, sound, [SCALE, LEAPS, file, read_abc(SCALE)])
    assert sum(one.share for one in found) == pytest.approx(1)
    assert [one.notes for one in found] == [8, 7, 8, 8]
    assert found[0] == found[2] == found[3] and found[0].gain != found[1].gain
    ratio = found[0].gain * 8 - found[1].gain * 7
    assert np.log(found[0].share / found[1].share) == pytest.approx(ratio, abs=1e-6)


def test_silence_says_nothing_of_a_score(music):
    [found] = match(music, np.zeros(22050, np.float32), [SCALE])
    assert found.gain == 0 and found.share == 1


def test_every_written_bar_is_weighed(music, sound):
    """Bars, not bar lines: what a repeat or a double bar adds is none of its own."""
    body = "|: C D E F |1 G A B c :|2 c B A G || z4 |]"
    [found] = match(music, sound, [f"X:1\nM:4/4\nL:1/4\nK:C\n{body}\n"])
    assert len(found.bars) == 4 and found.bars[found.worst_bar - 1] == min(found.bars)
    assert bar_means(np.array([1.0, 3.0, 5.0]), [0, 0, 1]) == (2.0, 5.0)


def test_what_cannot_be_weighed_is_refused(music, sound, tmp_path):
    rest = replace(read_abc(SCALE), notes=[])
    for scores, error in (([], PromptError), ([rest], ScoreError), ([tmp_path / "none.abc"], ScoreError)):
        with pytest.raises(error):
            match(music, sound, scores)
    with pytest.raises(AudioError):
        match(music, np.full(22050, np.nan, np.float32), [SCALE])
