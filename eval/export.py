"""A task's questions as a folder that others can load: `datasets.load_dataset(DIR)`.

`python -m mllm.eval.export theory --data runs/data/mini --output runs/export/theory`

A parquet file a split, with everything inside: prompts in the house format and in words, options, the truth, and the
recordings' bytes under names that say nothing; a README with licences and what each field is. Where answers are words,
also the task as lmms-eval takes it and, where nothing is heard, as lm-evaluation-harness does
(docs/other_harnesses.md).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from mllm.errors import MllmError
from mllm.eval.controls import without_names
from mllm.eval.data import data_hash
from mllm.eval.item import Item
from mllm.eval.sounds import Sound, recording
from mllm.eval.task import EvalError, Task
from mllm.eval.tasks import TASKS
from mllm.rows import iter_rows, row_audios
from mllm.settings import nearest
from mllm.whole_files import write_whole

UNKNOWN = "unknown"
"""Licence of a question whose row names none."""


def export(
    name: str,
    data: str | Path,
    output: str | Path,
    limit: int | None = None,
    *,
    split: str = "test",
    seed: int = 0,
    registry: Mapping[str, Task] = TASKS,
) -> int:
    """Write the questions of a task into the folder `output`; returns how many.

    Args:
        name: of a task in `registry`.
        data, limit, split, seed: as in `mllm.eval.run.evaluate`.

    Raises:
        EvalError: unknown task, nothing to ask, a recording that is not there, or `output` holds something else.
    """
    data, output = Path(data), Path(output)
    if name not in registry:
        raise EvalError(f"unknown task {name}{nearest(name, registry)}")
    task = registry[name]
    items = task.items(data, split, limit, seed)
    if not items:
        raise EvalError(f"{data} has no questions of the split {split!r} for {name}")
    readme = output / "README.md"
    if output.is_dir() and any(output.iterdir()) and not (readme.is_file() and f"mllm task {name}" in _head(readme)):
        raise EvalError(f"{output} holds something else than an export of {name}: choose another --output")
    licences = _licences(data, split)
    rows = [_row(task, item, licences) for item in items]
    write_whole(output / "data" / f"{split}.parquet", _parquet(rows))
    for file, text in _harnesses(task, items, rows, output, split).items():
        write_whole(output / file, text)
    write_whole(readme, _readme(task, rows, data, split))
    return len(rows)


def _head(readme: Path) -> str:
    return readme.read_text(encoding="utf-8", errors="replace")[:2000]


def _licences(data: Path, split: str) -> dict[str, str]:
    """Id of a row, and path of a recording -> licence; of several at one recording all."""
    found: dict[str, set[str]] = {}
    for row in iter_rows(data, split):
        licence = str(row.get("licence") or UNKNOWN)
        found.setdefault(str(row["id"]), set()).add(licence)
        if len(audios := row_audios(row)) == 1:
            found.setdefault(audios[0], set()).add(licence)
    return {key: ", ".join(sorted(licences)) for key, licences in found.items()}


def _row(task: Task, item: Item, licences: Mapping[str, str]) -> dict[str, Any]:
    prompt = task.prompt(item)
    paths = [Path(part["audio"]) for part in _parts(prompt) if part["type"] == "audio"]
    if missing := [path for path in paths if not path.is_file()]:
        raise EvalError(f"{missing[0]} is not there: an export holds the recordings themselves")
    sounds = [{"bytes": path.read_bytes(), "path": f"{recording(path).key[:16]}{path.suffix}"} for path in paths]
    named = [licences[key] for key in (item.id, *map(str, paths)) if key in licences]
    told = [_told(message) for message in without_names(prompt)]
    return {
        "id": item.id, "question": item.question, "options": list(item.options),
        "answer": item.truth if isinstance(item.truth, str) else json.dumps(item.truth, ensure_ascii=False),
        "letter": "ABCDEFGHIJ"[item.options.index(item.truth)] if item.options else "",
        "messages": json.dumps(told, ensure_ascii=False), "prompt": _text(told), "audio": sounds,
        "group": item.group, "strata": json.dumps(dict(item.strata), ensure_ascii=False),
        "licence": named[0] if named else UNKNOWN,
    }  # fmt: skip


def _parts(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [part for m in messages if not isinstance(m["content"], str) for part in m["content"]]


def _told(message: dict[str, Any]) -> dict[str, Any]:
    """A message whose sounds have become places: the next one of `audio`."""
    if isinstance(message["content"], str):
        return message
    return message | {
        "content": [{"type": "audio"} if isinstance(p.get("audio"), Sound) else p for p in message["content"]]
    }


def _text(messages: Sequence[Mapping[str, Any]]) -> str:
    """The words of the last message, which is the whole prompt where nothing is heard and nothing was said before."""
    content = messages[-1]["content"]
    return content if isinstance(content, str) else "\n".join(p["text"] for p in content if p["type"] == "text")


def _parquet(rows: Sequence[dict[str, Any]]) -> bytes:
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq

    sound = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    text = ("id", "question", "answer", "letter", "messages", "prompt", "group", "strata", "licence")
    schema = pa.schema([
        *((name, pa.string()) for name in text), ("options", pa.list_(pa.string())), ("audio", pa.list_(sound)),
    ])  # fmt: skip
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), out)
    return out.getvalue()


def _readme(task: Task, rows: Sequence[dict[str, Any]], data: Path, split: str) -> str:
    licences = Counter(row["licence"] for row in rows)
    single = next(iter(licences)) if len(licences) == 1 else "other"
    head = [
        "---", f"license: {single}", f"pretty_name: {json.dumps(f'mllm task {task.name}')}", "configs:",
        "- config_name: default", "  data_files:", f"  - split: {split}", f"    path: data/{split}.parquet", "---",
    ]  # fmt: skip
    lines = [
        *head, "", f"# {task.title}", "",
        f"{len(rows)} questions of the mllm task {task.name}, version {task.version}, split `{split}`. An answer is "
        f"cut at {task.max_new_tokens} tokens. The scorer is `mllm.eval.tasks.TASKS[{task.name!r}].score`.", "",
        "```python", "from datasets import load_dataset", "", 'questions = load_dataset("THIS_FOLDER")', "```", "",
        "| field | what |", "|---|---|",
        "| id | unique; results of two models are paired by it |",
        "| question, options | what is asked; texts of a multiple choice, [] for an open question |",
        "| prompt | the words of the last message as they are asked, options and scores included |",
        "| messages | the whole conversation as JSON; a part `{\"type\": \"audio\"}` is the next one of `audio` |",
        "| audio | recordings in that order: `bytes` of the file, `path` a name that tells nothing |",
        "| answer, letter | the truth (JSON where it is no text); the right option's letter |",
        "| group | what is resampled together for intervals: questions about one work |",
        "| strata | classes by which results are also shown, JSON |",
        "| licence | of the recording or score that is asked about |", "",
        f"Licences: {', '.join(f'{name} ({count})' for name, count in licences.most_common())}.", "",
        f"Made by `python -m mllm.eval.export {task.name}` from data with sha256 `{data_hash(data)}`.", "",
    ]  # fmt: skip
    return "\n".join(lines)


def _harnesses(
    task: Task, items: Sequence[Item], rows: Sequence[dict[str, Any]], output: Path, split: str
) -> dict[str, str]:
    """Name -> text of the files by which other harnesses read this folder, at the place where it stands now."""
    if not all(isinstance(item.truth, str) for item in items):
        return {}
    name = f"mllm_{task.name}"
    shared: dict[str, Any] = {
        "task": name,
        "dataset_path": "parquet",
        "dataset_kwargs": {"data_files": {split: str((output / "data" / f"{split}.parquet").resolve())}},
        "test_split": split,
        "output_type": "generate_until",
        "doc_to_text": "{{prompt}}",
        "doc_to_target": "{{letter}}" if all(row["letter"] for row in rows) else "{{answer}}",
    }
    metadata = {"version": task.version}
    ask = shared | {
        "generation_kwargs": {"max_new_tokens": task.max_new_tokens, "temperature": 0},
        "metric_list": [{"metric": "right", "aggregation": "mean", "higher_is_better": True}],
        "metadata": [metadata],
    }
    functions = "".join(
        f"{field}: !function lmms_questions.{function}\n"
        for field, function in (
            ("doc_to_visual", "sounds"),
            ("doc_to_messages", "messages"),
            ("process_results", "judge"),
        )
    )
    files = {
        f"lmms_eval/{name}.yaml": yaml.safe_dump(ask, sort_keys=False, allow_unicode=True) + functions,
        "lmms_eval/lmms_questions.py": Path(__file__).with_name("lmms_questions.py").read_text(encoding="utf-8"),
    }
    if not any(row["audio"] for row in rows) and all(len(json.loads(row["messages"])) == 1 for row in rows):
        match = {"metric": "exact_match", "aggregation": "mean", "higher_is_better": True, "ignore_case": True,
                 "ignore_punctuation": False, "regexes_to_ignore": [r"[.\s]+$", r"^\s+"]}  # fmt: skip
        written = shared | {
            "generation_kwargs": {"until": [], "do_sample": False, "max_gen_toks": task.max_new_tokens},
            "metric_list": [match],
            "metadata": metadata,
        }
        files[f"lm_eval/{name}.yaml"] = yaml.safe_dump(written, sort_keys=False, allow_unicode=True)
    return files


def main(
    task: Annotated[str, typer.Argument(help="A name in `mllm eval --tasks`.")],
    data: Annotated[Path, typer.Option(help="Folder that `mllm data build` made.")] = Path("runs/data/mini"),
    output: Annotated[Path, typer.Option(help="Folder that is made.")] = Path("runs/export"),
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many questions.")] = None,
    split: Annotated[str, typer.Option(help="Whose questions.")] = "test",
) -> None:
    """Write a task's questions as a folder for `datasets.load_dataset`."""
    try:
        count = export(task, data, output, limit, split=split)
    except MllmError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error
    typer.echo(f"{output}: {count} questions")


if __name__ == "__main__":
    typer.run(main)
