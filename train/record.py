"""What is written beside the weights of every checkpoint, so that each can be asked and is accounted for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mllm.configuration import MusicLMConfig
from mllm.processing import MusicLMProcessor
from mllm.provenance import describe_bases, describe_data, describe_parent
from mllm.train.config import TrainConfig
from mllm.train.tuned_model import adapter_file
from mllm.whole_files import write_whole


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
