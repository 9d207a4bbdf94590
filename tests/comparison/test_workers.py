"""Workers: one comparison a folder, no job after a stop, and a sentence where one dies."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sparseopd.comparison import workers
from sparseopd.comparison.jobs import Job
from sparseopd.errors import Interrupted, RunFolderError, SparseOPDError


def test_a_folder_is_worked_on_by_one_process(tmp_path: Path) -> None:
    with (
        workers.only_one(tmp_path),
        pytest.raises(RunFolderError, match="another process is working on"),
        workers.only_one(tmp_path),
    ):
        pass
    with workers.only_one(tmp_path):  # it is free again
        pass


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="cannot write into"), workers.only_one(tmp_path / "x"):
        pass


def test_what_killed_workers_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    (tmp_path / ".masks-x").mkdir()
    whole = [tmp_path / "times.json", tmp_path / "masks" / "a.safetensors"]
    left = [
        tmp_path / ".times.json.ab12",
        tmp_path / "masks" / ".a.safetensors.part",
        tmp_path / ".masks-x" / "0",
    ]
    for file in (*whole, *left):
        file.write_text("x")
    with workers.only_one(tmp_path):
        workers.sweep(tmp_path)
        assert (tmp_path / workers.LOCK).exists()
    assert all(file.exists() for file in whole)
    assert not any(file.exists() for file in left) and not (tmp_path / ".masks-x").exists()


def test_a_worker_that_was_stopped_begins_nothing_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "_stopped", True)
    with pytest.raises(Interrupted):
        workers.do(Job(label="never"), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_worker_that_dies_ends_the_comparison_with_a_sentence() -> None:
    with pytest.raises(SparseOPDError, match="a worker died"), workers.pool(1, 1, 0) as executor:
        executor.submit(os._exit, 1).result()


def test_ctrl_c_ends_in_the_line_that_goes_on() -> None:
    with pytest.raises(Interrupted, match="the same line goes on"), workers.pool(1, 1, 0):
        raise KeyboardInterrupt
