"""`mllm.train.sft` with FSDP on processors, where accelerate would take DDP though torch shards on any device."""

from __future__ import annotations

import sys

from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType
from torch.distributed.fsdp import FSDPModule

from mllm.train import sft
from mllm.train.trainer import MusicTrainer

begin, step = AcceleratorState.__init__, MusicTrainer.training_step


def begin_as_on_gpus(self, *args, **kwargs) -> None:
    shared = PartialState._shared_state
    if shared.get("distributed_type") == DistributedType.MULTI_CPU:
        shared["distributed_type"] = DistributedType.MULTI_GPU
    begin(self, *args, **kwargs)


def step_in_shards(self, *args, **kwargs):
    wrapped = [module for module in self.model_wrapped.modules() if isinstance(module, FSDPModule)]
    layers = self.model.config.get_text_config().num_hidden_layers
    assert len(wrapped) > layers, "every decoder layer is sharded by itself"
    return step(self, *args, **kwargs)


AcceleratorState.__init__, MusicTrainer.training_step = begin_as_on_gpus, step_in_shards
sft.main(sys.argv[1:])
