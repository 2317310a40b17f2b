"""The errors a user can meet. Each message says what is wrong, with which file, and what to do about it."""


class MllmError(Exception):
    """Base of all errors that `mllm` raises on purpose; the CLI prints its message as one line and exits 1."""


class AudioError(MllmError):
    """A recording cannot be used: unreadable, empty, too short, too long, NaN samples."""


class ScoreError(MllmError):
    """A score cannot be used: malformed ABC, corrupt MIDI, unsupported format."""


class WeightsError(MllmError):
    """Weights cannot be had: unknown name, wrong hash, interrupted download, no room on the disk."""


class PromptError(MllmError):
    """A conversation cannot be rendered: wrong message format, too long for the model, reserved tokens in text."""
