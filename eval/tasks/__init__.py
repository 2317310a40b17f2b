"""The tasks: one small file each, found here by name. A new one needs a file and a line."""

from mllm.eval.benchmarks import TASKS as PUBLIC
from mllm.eval.task import Task
from mllm.eval.tasks import (
    abc_writing,
    abstention,
    captions,
    choice,
    chords,
    compare,
    instrument,
    json_fields,
    key,
    melody,
    metre,
    needle,
    properties,
    score_and_sound,
    scores,
    structure,
    tempo,
    theory,
    transcribe,
    verify,
)

_ONE_EACH = (
    instrument, key, tempo, metre, choice, verify, captions, melody, chords, properties, abstention, json_fields,
    structure, needle, compare, transcribe, theory, abc_writing,
)  # fmt: skip
OURS: dict[str, Task] = {module.TASK.name: module.TASK for module in _ONE_EACH} | score_and_sound.TASKS | scores.TASKS
"""Name -> task over a build of `mllm data build`, in the order of the table."""
TASKS: dict[str, Task] = OURS | PUBLIC
"""Name -> task; a run that names none asks ours alone."""
