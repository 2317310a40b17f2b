"""What a training step was made of, counted where the loss is computed, for the ledger, the tracker and the report."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field, fields
from typing import Any


@dataclass
class TaskLoss:
    """Cross-entropy of one task's supervised tokens: sum (nats) and count."""

    total: float = 0.0
    tokens: int = 0


@dataclass
class Counts:
    """Work of this process since it began; the ledger adds an earlier part of a resumed run."""

    rows: int = 0
    """Instruction rows, each as often as it was learned from."""
    tokens: int = 0
    """Positions that went through the language model, padding not counted; a shared prefix counts once."""
    padding: int = 0
    """Positions that were padding."""
    supervised: int = 0
    """Positions whose next token was learned."""
    audio_seconds: float = 0.0
    """Length of the recordings, each as often as its features were given."""
    tasks: dict[str, TaskLoss] = field(default_factory=lambda: defaultdict(TaskLoss))
    """Losses by task since they were last taken."""

    def take_tasks(self) -> dict[str, TaskLoss]:
        """Losses by task since the last call, which begins anew."""
        taken, self.tasks = dict(self.tasks), defaultdict(TaskLoss)
        return taken

    def totals(self) -> dict[str, Any]:
        """All counts but the losses by task."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "tasks"}
