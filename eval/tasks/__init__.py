"""The tasks: one small file each, found here by name. A new one needs a file and a line."""

from mllm.eval.task import Task
from mllm.eval.tasks import instrument, key, metre, tempo

TASKS: dict[str, Task] = {module.TASK.name: module.TASK for module in (instrument, key, tempo, metre)}
