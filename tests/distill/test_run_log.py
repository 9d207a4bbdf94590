"""A run's log says what was trained, how fast and in how much memory, once a step."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sparseopd.artifacts import RunDir
from sparseopd.distill import log as module
from sparseopd.distill.log import TEXT_LIMIT, Completions, RunLog, detail, peak_memory, short

Call = tuple[str, int, int, str, str]


class Steps:
    """Drives a `RunLog` as a trainer of ten steps does, with a clock of its own."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, **state: Any) -> None:
        self.reports: list[Call] = []
        self.now = 100.0
        monkeypatch.setattr(module.time, "monotonic", lambda: self.now)
        self.run = RunDir(folder)
        self.log = RunLog(self.run, "train", lambda *call: self.reports.append(call))  # pyright: ignore
        state = {
            "global_step": 0,
            "num_input_tokens_seen": 0,
            "is_world_process_zero": True,
        } | state
        self.state = SimpleNamespace(max_steps=10, **state)
        self.log.on_train_begin(None, self.state, None)

    def step(self, seconds: float = 1.0, **logs: Any) -> None:
        """Take a step that lasts so long and, where anything is given, is logged."""
        self.now += seconds
        self.state.global_step += 1
        self.log.on_step_end(None, self.state, SimpleNamespace(should_log=bool(logs)))
        if logs:
            self.log.on_log(None, self.state, None, logs=logs)

    @property
    def rows(self) -> list[dict[str, Any]]:
        """What was written, without the memory of this machine."""
        rows = self.run.read_metrics()
        assert all(row.pop("memory_gib") > 0.01 for row in rows)
        return rows


@pytest.fixture
def steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Steps:
    return Steps(tmp_path, monkeypatch)


def test_rows_keep_what_was_logged_and_gain_time_and_speed(steps: Steps) -> None:
    steps.step(2.0, loss=1.5, kl=0.25, num_tokens=3000.0, epoch=0.1)
    steps.step(3.0, loss=1.0, kl=0.5, num_tokens=3600.0, epoch=0.2)
    assert steps.rows == [
        {"step": 1, "loss": 1.5, "kl": 0.25, "num_tokens": 3000.0, "epoch": 0.1, "seconds": 2.0,
         "tokens_per_second": 1500.0},
        {"step": 2, "loss": 1.0, "kl": 0.5, "num_tokens": 3600.0, "epoch": 0.2, "seconds": 5.0,
         "tokens_per_second": 200.0},
    ]  # fmt: skip
    assert steps.log.last["step"] == 2 and steps.log.last["seconds"] == 5.0


def test_speed_spans_the_steps_of_a_batch_of_rollouts(steps: Steps) -> None:
    steps.step(1.0, loss=1.0, num_tokens=100)
    steps.step(1.0, loss=1.0)
    steps.step(2.0, loss=1.0, num_tokens=400)
    assert [row.get("tokens_per_second") for row in steps.rows] == [100.0, None, 100.0]


def test_a_resumed_run_counts_its_own_tokens_and_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = Steps(tmp_path, monkeypatch, global_step=5, num_input_tokens_seen=10_000)
    assert steps.log.step == 5
    steps.step(2.0, loss=1.0, num_tokens=10_500)
    (row,) = steps.rows
    assert (row["step"], row["seconds"], row["tokens_per_second"]) == (6, 2.0, 250.0)


def test_trls_share_of_cut_completions_has_a_plain_name_too(steps: Steps) -> None:
    steps.step(loss=1.0, **{"completions/clipped_ratio": 0.25})
    (row,) = steps.rows
    assert row["truncated"] == row["completions/clipped_ratio"] == 0.25


def test_values_that_json_lacks_become_null(steps: Steps) -> None:
    steps.step(loss=1.0, kl=math.nan, entropy=math.inf, reward=None)
    (row,) = steps.rows
    assert row["kl"] is row["entropy"] is row["reward"] is None


def test_every_step_is_reported_once_with_the_newest_figures(steps: Steps) -> None:
    steps.step(loss=1.5, num_tokens=1000, **{"completions/clipped_ratio": 0.5})
    steps.step()
    steps.step(loss=0.5)
    memory = f"{peak_memory() / 2**30:.1f}G"
    assert [call[:4] for call in steps.reports] == [("train", step, 10, "") for step in (1, 2, 3)]
    one, two, three = (call[4].removesuffix(memory).rstrip() for call in steps.reports)
    assert one == two == "loss 1.50 cut 50% 1.0k tok/s"
    assert three == "loss .500 cut 50% 1.0k tok/s"  # what was not logged again is still shown


def test_the_trainers_last_summary_is_no_row(steps: Steps) -> None:
    steps.step(loss=1.0)
    steps.log.on_log(None, steps.state, None, logs={"train_loss": 1.0, "train_runtime": 3.0})
    assert len(steps.rows) == len(steps.reports) == 1


def test_other_processes_neither_write_nor_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = Steps(tmp_path, monkeypatch, is_world_process_zero=False)
    steps.step(loss=1.0)
    steps.step()
    assert not steps.run.metrics.exists() and not steps.reports
    assert steps.log.step == 2


def test_memory_is_that_of_the_fullest_gpu_where_there_is_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", [3 * 2**30, 5 * 2**30].__getitem__)
    assert peak_memory() == 5 * 2**30
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: 0)
    assert 10 * 2**20 < peak_memory() < 100 * 2**30  # trained on the CPU: what the process held


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"), (-0.0, "0"), (0.1234, ".123"), (-0.1234, "-.123"), (0.00214, ".0021"),
        (1e-5, "1e-5"), (-3e-10, "-3e-10"), (0.9996, "1.00"), (9.996, "10.0"), (12.34, "12.3"),
        (-123.4, "-123"), (999.6, "1.0k"), (1234.0, "1.2k"), (99_600.0, "99.6k"), (123_456.0, "123k"),
        (2.5e9, "2.5G"), (3e12, "3e12"),
    ],
)  # fmt: skip
def test_numbers_are_short(value: float, text: str) -> None:
    assert short(value) == text


def test_a_detail_shows_what_there_is() -> None:
    row = {
        "step": 3, "loss": 0.1234, "kl": -0.1, "entropy": None, "truncated": 0.031,
        "tokens_per_second": 1234.5, "memory_gib": 0.9, "grad_norm": 7.0,
    }  # fmt: skip
    assert detail(row) == "loss .123 kl -.100 ent – cut 3% 1.2k tok/s 0.9G"
    assert detail({"loss": math.nan, "truncated": math.nan}) == "loss – cut –%"
    assert detail({"reward": 12345.6}) == "reward 12k"
    assert detail({}) == ""


def test_completions_are_kept_every_so_many_steps(tmp_path: Path) -> None:
    kept = Completions(tmp_path / "completions.jsonl", every=10)
    row = {"prompt": "1+1=", "completion": "2\n", "truncated": False}
    for step in range(0, 24, 4):  # batches of rollouts of four updates
        if kept.due(step):
            kept.keep(step, [row] * 6)
    lines = [json.loads(line) for line in kept.path.read_text().splitlines()]
    assert [line["step"] for line in lines] == [0] * 4 + [12] * 4 + [20] * 4
    assert lines[0] == {"step": 0, **row}


def test_long_texts_are_cut(tmp_path: Path) -> None:
    kept = Completions(tmp_path / "completions.jsonl", every=1)
    kept.keep(0, [{"prompt": "x" * TEXT_LIMIT, "completion": "é" * 10**4, "truncated": True}])
    line = json.loads(kept.path.read_text())
    assert line["prompt"] == "x" * TEXT_LIMIT
    assert line["completion"] == "é" * (TEXT_LIMIT - 1) + "…"


def test_only_the_main_process_keeps_completions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    assert not Completions(tmp_path / "completions.jsonl", every=1).due(0)
