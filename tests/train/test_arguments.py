"""What a config may say of transformers' TrainingArguments; the rest is refused before anything is read."""

from __future__ import annotations

import pytest

from mllm.train.arguments import arguments_of
from mllm.train.config import ConfigError, TrainConfig


@pytest.mark.parametrize(
    ("training", "words"),
    [
        ({"max_stepz": 3}, "unknown key 'training.max_stepz': did you mean 'max_steps'"),
        ({"output_dir": "x"}, "training.output_dir is not said here"),
        ({"max_steps": "ten"}, "training.max_steps: .*integer.*not 'ten'"),
        ({"learning_rate": "fast"}, "training.learning_rate: .*number.*not 'fast'"),
        ({"per_device_train_batch_size": 0}, "above 0, not 0"),
        ({"max_steps": 0}, "0 steps learns nothing"),
        ({"num_train_epochs": 0}, "0 steps learns nothing"),
        ({"metric_for_best_model": "accuracy"}, "'accuracy' is not measured"),
        ({"optim": "adam"}, "training: adam is not"),
        ({"load_best_model_at_end": True}, "save and eval strategy to match"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_wrong_argument_is_refused_by_name(tmp_path, training, words):
    with pytest.raises(ConfigError, match=words):
        arguments_of(TrainConfig(training=training), tmp_path)


def test_what_yaml_makes_of_words_and_what_one_choice_brings_along(tmp_path):
    training = {"eval_strategy": False, "learning_rate": "2e-4", "save_steps": 7, "use_cpu": True}
    arguments = arguments_of(TrainConfig(training=training), tmp_path)
    assert (arguments.eval_strategy, arguments.learning_rate, arguments.save_steps) == ("no", 2e-4, 7)
    half = arguments_of(TrainConfig(training={"fp16": True, "use_cpu": True}), tmp_path)
    assert half.fp16 and not half.bf16
