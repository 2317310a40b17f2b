"""Every setting of a training run is explained, and every shipped config lets one see how its run goes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mllm.settings import Settings
from mllm.train.arguments import arguments_of
from mllm.train.config import TrainConfig, load_config

CONFIGS = sorted((Path(__file__).parents[2] / "train" / "configs").glob("*.yaml"))


def parts_of(kind: type[Settings]) -> Iterator[type[Settings]]:
    """A settings class and those of its fields, at any depth."""
    yield kind
    for field in kind.model_fields.values():
        for inner in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(inner, type) and issubclass(inner, Settings):
                yield from parts_of(inner)


def test_every_field_of_a_config_is_documented():
    kinds = list(parts_of(TrainConfig))
    assert len(kinds) >= 9, "packing too, which may be None"
    bare = [f"{kind.__name__}.{name}" for kind in kinds for name, f in kind.model_fields.items() if not f.description]
    assert not bare


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_shipped_config_checks_and_lets_the_model_answer_along_the_way(tmp_path, path):
    config = load_config(path)
    arguments = arguments_of(config.model_copy(update={"training": config.training | {"use_cpu": True}}), tmp_path)
    assert arguments.eval_strategy != "no" and config.samples.rows > 0
    if arguments.eval_strategy == "steps" and arguments.max_steps > 0:
        assert 1 <= arguments.max_steps // arguments.eval_steps <= 12
