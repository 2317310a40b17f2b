"""What is written beside the weights of every checkpoint, so that each can be asked and is accounted for."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from accelerate import PartialState

from mllm.configuration import MusicLMConfig
from mllm.processing import MusicLMProcessor
from mllm.provenance import describe_bases, describe_data, describe_parent, read_provenance
from mllm.train.config import ConfigError, TrainConfig
from mllm.train.faults import step_of
from mllm.train.report import flatten
from mllm.train.tuned_model import adapter_file
from mllm.whole_files import write_whole

log = logging.getLogger(__name__)
RESULT = {".safetensors", ".json", ".jinja", ".txt", ".model", ".md"}
"""Kinds of files that a run leaves; a checkpoint holds others besides, to go on from."""
ANOTHER_RUN = ("method", "lora.", "model.audio_tower", "model.language_model", "model.projector.")
"""Settings without which the weights of a checkpoint are none of this run."""


class RunRecord:
    """Writes `config.json` and `provenance.json` (and the processor, where the checkpoint is a whole model).

    Args:
        config: the run.
        model_config: of the model that is trained.
        processor: of the model that is trained.
        rows: what it learns from, in numbers.
        cost: gives the ledger's present state.
    """

    def __init__(
        self,
        config: TrainConfig,
        model_config: MusicLMConfig,
        processor: MusicLMProcessor,
        rows: dict[str, Any],
        cost: Callable[[], dict[str, Any]],
    ):
        self.config, self.rows, self.cost = config, rows, cost
        self.model_config, self.processor = model_config, processor
        self.data = describe_data(config.data.path)
        parts = config.model
        self.bases = describe_bases(parts.audio_tower, parts.language_model, parts.projector)
        self.parent = describe_parent(adapter_file(parts.adapter)) if parts.adapter else None

    def write(self, folder: Path) -> None:
        """Write everything into `folder`."""
        provenance = {
            "bases": self.bases,
            "data": self.data,
            **({"goes_on_from": self.parent} if self.parent else {}),
            "config": self.config.model_dump(),
            "command": "accelerate launch -m mllm.train.sft CONFIG.yaml --output_dir DIR",
            "rows": self.rows,
            "cost": self.cost(),
        }
        self.model_config.save_pretrained(folder)
        if self.config.method == "full":
            self.processor.save_pretrained(folder)
        write_whole(folder / "provenance.json", json.dumps(provenance, indent=1, ensure_ascii=False) + "\n")


def publish(last: str, folder: Path, best: bool = False) -> None:
    """Copy what a run leaves from its last (or its best) checkpoint to its folder, unless it was written there."""
    if read_provenance(folder).get("cost", {}).get("steps") == step_of(last):  # it is written behind the weights
        return
    state = json.loads(Path(last, "trainer_state.json").read_text())
    source = Path(last)
    if best and state["best_model_checkpoint"]:  # beside the last, wherever the run was moved to
        source = source.with_name(Path(state["best_model_checkpoint"]).name)
    for file in sorted(source.iterdir(), key=lambda file: file.name == "provenance.json"):
        if file.suffix in RESULT and not file.name.startswith(("trainer_state", "stream-")):
            write_whole(folder / file.name, file.read_bytes())


def refuse_another_run(config: TrainConfig, checkpoint: str) -> None:
    """Hold the settings against those of the checkpoint that a run goes on from; what may differ is told.

    Raises:
        ConfigError: another model, or another way to train it.
    """
    made_with = read_provenance(Path(checkpoint)).get("config")
    if made_with is None:
        raise ConfigError(f"{checkpoint} does not say which run it is of (provenance.json): give another --output_dir")
    then = dict(flatten(made_with))
    now = dict(flatten(config.model_dump(mode="json")))
    changed = {
        name: f"{name} was {then.get(name)!r}, is {now.get(name)!r}"
        for name in then | now
        if then.get(name) != now.get(name)
    }
    if other := [line for name, line in changed.items() if name.startswith(ANOTHER_RUN)]:
        raise ConfigError(f"{checkpoint} is of another run ({'; '.join(other)}): give another --output_dir")
    if changed and PartialState().is_main_process:
        log.warning("going on from %s with other settings: %s", checkpoint, "; ".join(changed.values()))
