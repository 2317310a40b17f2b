"""What Prometheus reads at `/metrics`: requests by route and status, times, and the engine's own counts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from mllm.serve.generation import Engine

SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class _EngineCollector(Collector):
    """`mllm_engine_<name>` for each of an engine's statistics, asked for when somebody looks."""

    def __init__(self, engine: Engine):
        self._engine = engine

    def collect(self) -> Iterator[GaugeMetricFamily]:
        for name, value in sorted(self._engine.statistics().items()):
            name = re.sub(r"\W", "_", name)
            yield GaugeMetricFamily(f"mllm_engine_{name}", f"{name.replace('_', ' ')} of the engine", value)


class Metrics:
    """Counts of one server."""

    def __init__(self, engine: Engine):
        self.registry = CollectorRegistry()
        self.registry.register(_EngineCollector(engine))
        new: dict[str, Any] = {"registry": self.registry}
        self.requests = Counter("mllm_requests", "Requests answered", ["route", "status"], **new)
        self.seconds = Histogram("mllm_request_seconds", "Until the last byte", ["route"], buckets=SECONDS, **new)
        self.first_token = Histogram("mllm_first_token_seconds", "Until the first words", buckets=SECONDS, **new)
        self.open = Gauge("mllm_requests_open", "Requests being answered", **new)
        self.tokens = Counter("mllm_tokens", "Tokens of answered requests", ["kind"], **new)

    def text(self) -> bytes:
        """In Prometheus' format."""
        return generate_latest(self.registry)
