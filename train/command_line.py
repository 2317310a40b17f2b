"""The command line that the training programs share: CONFIG.yaml --output_dir DIR; and the verb `mllm train`."""

from __future__ import annotations

import argparse
import atexit
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mllm.errors import MllmError

if TYPE_CHECKING:  # what brings torch along is imported when a run begins, so that `mllm --help` is instant
    from mllm.train.config import TrainConfig


def train(
    config: Annotated[Path, typer.Argument(help="A training run; see train/configs/.")],
    output_dir: Annotated[
        Path | None,
        typer.Option(
            "--output_dir",
            "--output-dir",
            help="Folder for checkpoints and result.",
            show_default="runs/ and the config's name",
        ),
    ] = None,
) -> None:
    """Train an adapter in this process; run again with the same folder, it goes on where it stopped.

      mllm train train/configs/tiny_cpu.yaml --output_dir runs/tiny

    On several GPUs or machines, launch the same program through accelerate:

      accelerate launch -m mllm.train.sft train/configs/lora.yaml --output_dir runs/lora
    """
    from mllm.train.config import load_config
    from mllm.train.sft import train as run

    settings = load_config(config)
    folder = output_dir or default_folder(config)
    run(settings, str(folder))
    next_step = f'try it with `mllm ask --model {folder} song.mp3 "What key is this in?"`'
    if settings.method == "projector":
        next_step = f"stage two takes it as `model: {{projector_weights: {folder}/projector.safetensors}}`"
    typer.echo(f"{folder}: done; {next_step}")


def default_folder(config: str | Path) -> Path:
    """Where a run lies that was given no folder: its config's name under `runs`, here. Tells the user so."""
    folder = Path("runs", Path(config).stem)
    if os.environ.get("RANK", "0") == "0":
        print(f"output folder: {folder}", file=sys.stderr)
    return folder


def run(
    work: Callable[[TrainConfig, str], Any],
    description: str | None,
    arguments: Sequence[str] | None = None,
    folder_by_name: bool = False,
) -> None:
    """Do `work` with the config and the output folder given; what cannot be ends with one line and status 1.

    `folder_by_name`: `--output_dir` may be left out. Not for a warm-up, which would lie in its run's folder then.
    """
    from mllm.train.config import load_config

    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("config", metavar="CONFIG.yaml", help="a training run; see train/configs/")
    where = "; default: runs/ and the config's name" if folder_by_name else ""
    parser.add_argument(
        "--output_dir", required=not folder_by_name, help=f"folder for checkpoints and the result{where}"
    )
    parsed = parser.parse_args(arguments)
    try:
        config = load_config(parsed.config)
        work(config, parsed.output_dir or str(default_folder(parsed.config)))
    except MllmError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        sys.exit(f"error: {error.filename}: {error.strerror}" if error.filename else f"error: {error}")
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)
    _leave_processes_together()


def _leave_processes_together() -> None:
    """End one process of several once its work is done, without Python's taking itself down.

    A thread of Gloo lets go of its last piece of work when it gets to it, and needs the interpreter for that; once the
    interpreter is going, that aborts the process (torch 2.13, one launch of eight on two cores), and the launcher takes
    the whole run for failed. DDP keeps hold of the process group, so `destroy_process_group` does not end that thread.
    """
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1:
        atexit._run_exitfuncs()  # what trackers leave for the end
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
