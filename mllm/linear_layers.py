"""Layers that stand for a language model's linear ones while it writes."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn
from transformers import PreTrainedModel


class StandIn(nn.Module):
    """Stands for a linear layer, which it keeps."""

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.linear = linear
        self.in_features, self.out_features = linear.in_features, linear.out_features

    @property
    def weight(self) -> nn.Parameter:
        """The weights of the layer that it stands for."""
        return self.linear.weight


Place = tuple[nn.Module, str, nn.Linear]


def linears(model: PreTrainedModel, through: type[StandIn] | None = None) -> list[Place]:
    """Where the linear layers of a model's decoder and `lm_head` are: parent, name, layer.

    Those that another layer stands for are left out, but for those behind a `through`.
    """
    found: list[Place] = []
    places = [(parent, name) for parent in model.get_decoder().modules() for name, _ in parent.named_children()]
    for parent, name in [*places, (model, "lm_head")]:
        layer = getattr(parent, name)
        if through and isinstance(layer, through):
            layer = layer.linear
        if type(layer) is nn.Linear and not isinstance(parent, StandIn):
            found.append((parent, name, layer))
    return found


def put(places: list[Place], make: Callable[[nn.Linear], StandIn]) -> None:
    """Let what `make` makes of each layer stand in its place."""
    for parent, name, layer in places:
        setattr(parent, name, make(layer))
