"""The command line that the training programs share: CONFIG.yaml --output_dir DIR."""

from __future__ import annotations

import argparse
import atexit
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from torch import distributed

from mllm.errors import MllmError
from mllm.train.config import TrainConfig, load_config


def run(
    work: Callable[[TrainConfig, str], Any], description: str | None, arguments: Sequence[str] | None = None
) -> None:
    """Do `work` with the config and the output folder given; what cannot be ends with one line and status 1."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("config", metavar="CONFIG.yaml", help="a training run; see train/configs/")
    parser.add_argument("--output_dir", required=True, help="folder for checkpoints and the result")
    parsed = parser.parse_args(arguments)
    try:
        work(load_config(parsed.config), parsed.output_dir)
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
    if distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1:
        atexit._run_exitfuncs()  # what trackers leave for the end
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
