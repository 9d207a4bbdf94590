"""Files are whole or absent, and foreign ones are refused in a sentence."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sparseopd.artifacts import (
    ArmScores,
    Interval,
    RunDir,
    RunFacts,
    Scores,
    read_json,
    write_json,
    written_whole,
)
from sparseopd.errors import RunFolderError

FACTS = RunFacts(
    kind="full", name="n", student="s", teacher="t", steps=1, lr=1e-3, seed=0, seconds=1.0
)


def test_a_failure_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(KeyError), written_whole(path) as temporary:
        temporary.write_text("half")
        raise KeyError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_files_that_cannot_be_written_or_read(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"cannot write .*: No such file"):
        write_json(tmp_path / "absent" / "file.json", {})
    with pytest.raises(RunFolderError, match="cannot read"):
        read_json(tmp_path / "absent.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(RunFolderError, match="not valid JSON"):
        read_json(tmp_path / "bad.json")
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "nan.json", float("nan"))
    assert not (tmp_path / "nan.json").exists()


def test_run_facts(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    assert not RunDir.is_run(tmp_path)
    with pytest.raises(RunFolderError, match="no finished run"):
        run.read_facts()
    run.write_facts(FACTS)
    assert RunDir.is_run(tmp_path) and run.read_facts() == FACTS
    write_json(run.facts, {"kind": "full"})
    with pytest.raises(RunFolderError, match="not a run's description"):
        run.read_facts()


def test_metrics_stop_at_a_line_cut_short(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    assert run.read_metrics() == []
    run.metrics.write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert run.read_metrics() == [{"step": 1}, {"step": 2}]


def test_new_runs_need_an_unused_folder(tmp_path: Path) -> None:
    RunDir.unused(tmp_path / "new").create()
    RunDir.unused(tmp_path / "new").create()  # empty is unused
    (tmp_path / "new" / "file").touch()
    with pytest.raises(RunFolderError, match="already holds files"):
        RunDir.unused(tmp_path / "new")
    with pytest.raises(RunFolderError, match="already holds files"):
        RunDir.unused(tmp_path / "new" / "file")
    with pytest.raises(RunFolderError, match="cannot make the folder"):
        RunDir(tmp_path / "new" / "file" / "below").create()
    with pytest.raises(RunFolderError, match="MB free and this run writes about"):
        RunDir(tmp_path / "huge").create(needed_bytes=10**18)


def test_scores_round_trip(tmp_path: Path) -> None:
    arm = ArmScores(name="a", kind="full", path="p", accuracy=Interval(0.5, 0.4, 0.6))
    scores = Scores(name="n", settings={"seed": 1}, arms=[arm, replace(arm, accuracy=None)])
    scores.save(tmp_path / "scores.json")
    assert Scores.load(tmp_path / "scores.json") == scores
    write_json(tmp_path / "scores.json", {"arms": []})
    with pytest.raises(RunFolderError, match="does not hold scores"):
        Scores.load(tmp_path / "scores.json")
