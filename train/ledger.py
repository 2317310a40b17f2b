"""What a training run costs: work, time, memory, FLOPs and energy, over all its parts and all its processes.

Every checkpoint's `provenance.json` holds it as `cost`; a run that goes on from there restores it, so the ledger covers
what led to the weights. Work that was lost after the last checkpoint is not in it.
"""

from __future__ import annotations

import multiprocessing
import os
import platform
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import distributed, nn
from transformers import TrainerCallback

from mllm.train.counts import Counts
from mllm.train.flops import Flops, estimate_flops, gemm_peak, gemm_shapes

POWERCAP = Path("/sys/class/powercap")
LOOKS = 2.0
"""Seconds at least between two looks at the memory of processes that read batches."""
MIB = 2**20


class Rapl:
    """Energy of the processor packages and their memory, of the whole machine, from Linux's powercap interface.

    Zones and units: https://docs.kernel.org/power/powercap/powercap.html. The counters wrap around after minutes to
    hours, so `read` has to be called more often than that; the ledger does it at every step.

    Args:
        root: the folder of the zones, `intel-rapl:0` and so on (AMD's processors have the same names).
    """

    def __init__(self, root: Path = POWERCAP):
        self.joules = 0.0
        self.zones: dict[Path, tuple[int, int]] = {}
        names = []
        for zone in sorted(root.glob("intel-rapl:*")):
            try:
                name = (zone / "name").read_text().strip()
                now, span = int((zone / "energy_uj").read_text()), int((zone / "max_energy_range_uj").read_text())
            except (OSError, ValueError):
                continue  # since 2020 the counter is for root alone: https://nvd.nist.gov/vuln/detail/CVE-2020-8694
            if name.startswith("package") or name == "dram":  # cores are part of a package, psys is more than all of it
                self.zones[zone / "energy_uj"] = (now, span)
                names.append(name)
        self.source = f"RAPL ({', '.join(names)}; the whole machine)"

    def read(self) -> float:
        """Joules since it was made, over all zones."""
        for file, (last, span) in self.zones.items():
            try:
                now = int(file.read_text())
            except (OSError, ValueError):
                continue
            self.joules += (now - last if now >= last else now + span - last) / 1e6
            self.zones[file] = (now, span)
        return self.joules


class Nvml:
    """Energy of one NVIDIA GPU, from the counter that its driver keeps (Volta and later).

    Raises:
        Exception: no package pynvml (of the extra `train`), no driver, or a GPU without the counter.
    """

    def __init__(self, device: torch.device):
        import pynvml

        pynvml.nvmlInit()
        # by its uuid: indices differ under CUDA_VISIBLE_DEVICES
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
        self._millijoules = lambda: pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
        self.first = self._millijoules()
        self.source = "NVML (GPU)"

    def read(self) -> float:
        """Joules since it was made."""
        return (self._millijoules() - self.first) / 1000


def find_meters(device: torch.device, first_on_machine: bool, root: Path = POWERCAP) -> list[Rapl | Nvml]:
    """The meters that this process reads: its GPU's, and the machine's if no other process here does."""
    meters: list[Rapl | Nvml] = []
    if first_on_machine and (rapl := Rapl(root)).zones:
        meters.append(rapl)
    if device.type == "cuda":
        with suppress(Exception):  # pynvml's errors cannot be named where it is missing
            meters.append(Nvml(device))
    return meters


def workers_memory() -> int:
    """Bytes that the processes which read batches for this one have for themselves, beside what they share with it."""
    own = 0
    for worker in multiprocessing.active_children():
        with suppress(psutil.Error):  # it has just ended, or this system keeps it to itself
            own += psutil.Process(worker.pid).memory_full_info().uss
    return own


class CostLedger(TrainerCallback):
    """Keeps the cost of a run; add it before every callback that reads `cost()` in `on_save`.

    The Trainer calls its callbacks on every process at the same points, without asking for the rank, so the sums over
    processes are made there: before and after a save, at the end, and wherever `gather` is called.

    Args:
        counts: of this process, for this part of the run: from zero, also after a resume.
        model: what is trained, as for `estimate_flops`; None leaves FLOPs out.
        window: a window as the tower takes it, where the tower runs in every step.
        peak_seconds: how long the GEMM peak is measured when training begins; 0 leaves it out.
        powercap: where Linux shows RAPL's counters.
    """

    def __init__(
        self,
        counts: Counts,
        model: nn.Module | None,
        window: torch.Tensor | None = None,
        peak_seconds: float = 0.5,
        powercap: Path = POWERCAP,
    ) -> None:
        self.counts, self.peak_seconds, self.powercap = counts, peak_seconds, powercap
        self.flops: Flops | None = estimate_flops(model, window) if model is not None else None
        self.config: Any = getattr(model, "config", None)
        self.before: dict[str, Any] = {}
        self.steps, self.device, self.dtype = 0, torch.device("cpu"), torch.float32
        self.peak: float | None = None
        self.meters: list[Rapl | Nvml] = []
        self._began = self._ended = self._step_ended = None  # type: float | None
        self._gap_is_aside, self._aside, self._mark = False, 0.0, (0.0, 0.0)
        self._records: list[dict[str, Any]] = []
        self._waited, self._workers, self._looked = 0.0, 0, -LOOKS
        self.encoding_seconds = 0.0
        """What the tower took before the run, for features that were not in the cache."""

    def restore(self, cost: dict[str, Any]) -> None:
        """Count on from `cost`, which an earlier checkpoint's `provenance.json` holds. Call it on every process."""
        self.before = cost
        self.steps = cost.get("steps", 0)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure the GEMM peak and start the clock and the meters."""
        self.device, self.steps = args.device, state.global_step
        self.dtype = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else torch.float32
        if self.peak_seconds:
            text = self.config.get_text_config() if self.config is not None else None
            hidden, inner = getattr(text, "hidden_size", 576), getattr(text, "intermediate_size", 1536)
            shapes = gemm_shapes(hidden, inner, self.device)
            self.peak = gemm_peak(self.dtype, self.device, self.peak_seconds, shapes)
        self.meters = find_meters(self.device, args.local_process_index == 0, self.powercap)
        # a resumed run first skips the batches it knows: that, too, is a gap
        self._began = self._step_ended = time.monotonic()
        self._ended, self._gap_is_aside, self._aside, self._mark = None, True, 0.0, (0.0, 0.0)
        self._waited = 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """What lay between two steps is over."""
        self._close_gap()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Count the step; sum over processes before a save."""
        self.steps = state.global_step
        now = time.monotonic()
        self._step_ended, self._gap_is_aside = now, False
        for meter in self.meters:
            meter.read()
        if now - self._looked >= LOOKS:
            self._workers, self._looked = max(self._workers, workers_memory()), now
        if control.should_save:
            self.gather()  # for whatever is written with the weights, before `on_save`

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Sum over processes before a save that ends an epoch."""
        if control.should_save:
            self.gather()

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """What has passed since the step was no training."""
        self._gap_is_aside = True

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """What has passed since the step was no training."""
        self._gap_is_aside = True
        self.gather()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stop the clock."""
        self._close_gap()
        self._ended = time.monotonic()
        self.gather()

    @contextmanager
    def aside(self) -> Iterator[None]:
        """What is done inside belongs to the run's seconds but not to its speed, like evaluations and saves."""
        began = time.monotonic()
        yield
        spent = time.monotonic() - began
        self._aside += spent
        if self._step_ended is not None:
            self._step_ended += spent  # else the gap until the next step would count it once more

    def waiting(self, batches: Iterator[Any]) -> Iterator[Any]:
        """The same batches; what the loop waits for them is counted.

        But for the first one, and the first behind an evaluation or a save: that time is counted as theirs.
        """
        while True:
            began = time.monotonic()
            try:
                batch = next(batches)
            except StopIteration:
                return
            finally:
                if not self._gap_is_aside:
                    self._waited += time.monotonic() - began
            yield batch

    def _gap(self) -> float:
        # an evaluation and a save are told of when they are over; they lie between two steps
        return time.monotonic() - self._step_ended if self._gap_is_aside and self._step_ended is not None else 0.0

    def _close_gap(self) -> None:
        self._aside += self._gap()
        self._gap_is_aside, self._step_ended = False, None

    def gather(self, tasks: dict[str, tuple[float, int]] | None = None) -> list[dict[str, Any]]:
        """The records of all processes, this one's included; every process has to call it at the same point.

        Args:
            tasks: sum (nats) and count of the losses by task, to send along.
        """
        record = self._record(tasks)
        self._records = [record]
        if (world := _world_size()) > 1:
            self._records = [{}] * world
            distributed.all_gather_object(self._records, record)
        return self._records

    def speed(self) -> float | None:
        """Tokens a second, of all processes, since the last call; None where no time has passed. After a `gather`."""
        then_tokens, then_seconds = self._mark
        tokens, seconds = self._sum("tokens"), self._seconds() - self._aside
        self._mark = (tokens, seconds)
        return (tokens - then_tokens) / (seconds - then_seconds) if seconds > then_seconds else None

    def cost(self) -> dict[str, Any]:
        """The ledger. With several processes: as of the last `gather`, on any of them. Units stand in the names.

        Speeds leave out `seconds_evaluating_and_saving`, to which the way to a run's first step belongs, but not
        `seconds_waiting_for_data`, which are those of the process that waits longest. `peak_memory_mib` is the largest
        process's, with what those that read its batches have for themselves. `share_of_gemm_peak` relates the FLOPs a
        second to the sum of the peaks that the processes measured; what this platform does not tell is None.
        """
        if _world_size() == 1 or not self._records:
            self._records = [self._record()]  # no gather: whoever asks may be one process of several
        before = self.before
        totals = {name: before.get(name, 0) + self._sum(name) for name in self.counts.totals()}
        seconds = before.get("seconds", 0) + self._seconds()
        aside = before.get("seconds_evaluating_and_saving", 0) + self._aside + self._gap()
        active = seconds - aside
        flops = self._flops()
        peaks = [record["peak"] for record in self._records if record["peak"]]
        flops_a_second = flops / active if flops is not None and active > 0 else None
        places = totals["tokens"] + totals["padding"]
        return {
            "steps": self.steps,
            "seconds": round(seconds, 3),
            "seconds_evaluating_and_saving": round(aside, 3),
            "seconds_encoding_before": round(before.get("seconds_encoding_before", 0) + self.encoding_seconds, 3),
            "seconds_waiting_for_data": round(before.get("seconds_waiting_for_data", 0) + max(self._told("waited")), 3),
            **{name: round(total, 3) for name, total in totals.items()},
            "padding_share": round(totals["padding"] / places, 4) if places else 0.0,
            "rows_a_second": round(totals["rows"] / active, 3) if active > 0 else None,
            "tokens_a_second": round(totals["tokens"] / active, 1) if active > 0 else None,
            "peak_memory_mib": self._peak("memory", "peak_memory_mib"),
            "peak_gpu_memory_mib": self._peak("gpu_memory", "peak_gpu_memory_mib"),
            "flops_estimated": flops,
            "flops_a_second": flops_a_second,
            "gemm_peak_flops_a_second": sum(peaks) if peaks else None,
            "gemm_dtype": str(self.dtype).removeprefix("torch."),
            "share_of_gemm_peak": round(flops_a_second / sum(peaks), 4) if flops_a_second and peaks else None,
            **self._energy(),
            "device": describe_device(self.device),
            "processes": len(self._records),
        }

    def _record(self, tasks: dict[str, tuple[float, int]] | None = None) -> dict[str, Any]:
        rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (MIB if sys.platform == "darwin" else 1024)
        cuda = self.device.type == "cuda"
        return {
            **self.counts.totals(),
            "memory": rss + self._workers / MIB,
            "waited": self._waited,
            "gpu_memory": torch.cuda.max_memory_allocated(self.device) / MIB if cuda else None,
            "joules": sum(meter.read() for meter in self.meters) if self.meters else None,
            "meters": [meter.source for meter in self.meters],
            "peak": self.peak,
            "tasks": tasks or {},
        }

    def _seconds(self) -> float:
        return (self._ended or time.monotonic()) - self._began if self._began is not None else 0.0

    def _sum(self, name: str) -> Any:
        return sum(record[name] for record in self._records)

    def _told(self, name: str) -> list[float]:
        return [record[name] for record in self._records if record[name] is not None]

    def _peak(self, name: str, key: str) -> int | None:
        told = [*self._told(name), *filter(None, [self.before.get(key)])]
        return round(max(told)) if told else None

    def _flops(self) -> float | None:
        before = self.before.get("flops_estimated")
        if self.flops is None or (self.before.get("steps") and before is None):
            return None  # a part of the run is not known
        tokens, rows = self._sum("tokens"), self._sum("rows")
        audio = getattr(self.config, "audio_config", None)
        windows = self._sum("audio_seconds") / audio.window_seconds if audio is not None else 0.0
        return (before or 0.0) + self.flops.total(tokens, self._sum("supervised"), windows, tokens / max(rows, 1))

    def _energy(self) -> dict[str, Any]:
        told, before = self._told("joules"), self.before.get("energy_joules")
        if not told or (self.before.get("steps") and before is None):
            return {"energy_joules": None, "energy_source": None}
        sources = sorted({source for record in self._records for source in record["meters"]})
        return {"energy_joules": round((before or 0.0) + sum(told), 1), "energy_source": ", ".join(sources)}


def _world_size() -> int:
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def describe_device(device: torch.device) -> str:
    """The name of the GPU, or of the processor with its cores."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    name = platform.processor() or platform.machine()
    if (listing := Path("/proc/cpuinfo")).is_file():
        models = [line.partition(":")[2].strip() for line in listing.read_text().splitlines() if "model name" in line]
        name = models[0] if models else name
    return f"{name}, {os.cpu_count()} cores"
