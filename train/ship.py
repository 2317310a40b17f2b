"""Make a trained adapter fit to ship: bfloat16 tensors, no local paths, hashes and licence in its provenance.

python -m mllm.train.ship runs/mini --warmup runs/warmup --output mllm/mini
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from mllm.errors import WeightsError

LICENCE = "Apache-2.0"
LIMIT_MIB = 16


def ship(run: Path, output: Path, warmup: Path | None = None) -> Path:
    """Write the adapter of a training run to `output`; returns it.

    Raises:
        WeightsError: the run is not finished, or the adapter is larger than what a package should carry.
    """
    source = run / "adapter_model.safetensors"
    if not source.is_file() or not (run / "provenance.json").is_file():
        raise WeightsError(f"{run} holds no finished training run: go on with `mllm train` until it ends")
    tensors = {
        # feature statistics stay float32: rounded means would shift small features
        name: tensor.contiguous() if ".norm." in name else tensor.to(torch.bfloat16).contiguous()
        for name, tensor in load_file(source).items()
    }
    target = output / source.name
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()) / 2**20
    if size > LIMIT_MIB:
        raise WeightsError(f"{size:.1f} MiB, more than {LIMIT_MIB}: lower lora.rank or the projector's size")
    output.mkdir(parents=True, exist_ok=True)
    save_file(tensors, target, metadata={"format": "pt"})
    config = json.loads((run / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = None
    (output / "adapter_config.json").write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")
    provenance = json.loads((run / "provenance.json").read_text())
    provenance["config"]["data"]["path"] = Path(provenance["config"]["data"]["path"]).name
    parts = provenance["config"]["model"]
    if parts.get("projector_weights"):
        parts["projector_weights"] = "made by mllm.train.warmup, see `warmup`"
    if parts.get("adapter"):
        parts["adapter"] = Path(parts["adapter"]).name
    if warmup:
        provenance["warmup"] = json.loads((warmup / "warmup.json").read_text())
    provenance |= {
        "licence": LICENCE,
        "files": {target.name: hashlib.sha256(target.read_bytes()).hexdigest()},
        "trained_parameters": sum(tensor.numel() for tensor in tensors.values()),
    }
    (output / "provenance.json").write_text(json.dumps(provenance, indent=1, ensure_ascii=False) + "\n")
    if (run / "config.json").is_file():
        shipped = _without_paths(json.loads((run / "config.json").read_text()))
        (output / "config.json").write_text(json.dumps(shipped, indent=2, sort_keys=True) + "\n")
    for file in output.iterdir():
        file.chmod(0o644)
    return output


def _without_paths(config: Any) -> Any:
    """A config without the folders on this machine that its parts were loaded from."""
    if isinstance(config, dict):
        return {key: _without_paths(value) for key, value in config.items() if key != "_name_or_path"}
    return [_without_paths(item) for item in config] if isinstance(config, list) else config


def main() -> None:
    """Command line: RUN --output DIR."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="output folder of `mllm train`")
    parser.add_argument("--warmup", type=Path, help="output folder of the warm-up, for its record")
    parser.add_argument("--output", type=Path, required=True)
    given = parser.parse_args()
    try:
        print(ship(given.run, given.output, given.warmup))
    except WeightsError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
