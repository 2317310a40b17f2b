"""Where a run lies that was given no folder, by `python -m mllm.train.sft` and by the verb `mllm train`."""

from __future__ import annotations

import pytest
import typer
import yaml
from typer.testing import CliRunner

from mllm.train import note_warmup, sft, warmup
from mllm.train.command_line import train
from mllm.train.faults import last_whole_checkpoint


def test_a_run_without_a_folder_lies_under_the_name_of_its_config(settings, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    config = tmp_path / "configs" / "waltz.time.yaml"
    config.write_text(yaml.safe_dump(settings | {"training": settings["training"] | {"max_steps": 2}}))
    sft.main([str(config)])
    left = tmp_path / "runs" / "waltz.time"
    assert capsys.readouterr().err.startswith("output folder: runs/waltz.time\n")
    assert last_whole_checkpoint(left) == str(left / "checkpoint-2")

    app = typer.Typer()
    app.command()(train)
    before = (left / "provenance.json").stat().st_mtime_ns
    said = CliRunner().invoke(app, [str(config)])  # the same folder, where nothing is left to do
    assert said.exit_code == 0 and "runs/waltz.time: done; try it with `mllm ask --model runs/waltz.time" in said.output
    assert (left / "provenance.json").stat().st_mtime_ns == before
    said = CliRunner().invoke(app, [str(config), "--output_dir", "elsewhere"])
    assert said.exit_code == 0 and last_whole_checkpoint(tmp_path / "elsewhere")
    assert "output folder" not in said.output
    assert [folder.name for folder in (tmp_path / "runs").iterdir()] == ["waltz.time"]


@pytest.mark.parametrize("program", [warmup, note_warmup], ids=lambda program: program.__name__)
def test_a_warm_up_wants_a_folder_of_its_own(tmp_path, capsys, program):
    """Under the name of its config it would lie in the folder of the run that it is for."""
    with pytest.raises(SystemExit, match="2"):
        program.main([str(tmp_path / "config.yaml")])
    assert "--output_dir" in capsys.readouterr().err
