"""A run that stopped ends, once resumed, in the bits of one that never did."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest

from sparseopd import recipe as recipes
from sparseopd.artifacts import RunDir
from sparseopd.distill import discover, resume, train
from sparseopd.distill.trainer import OPDTrainer
from sparseopd.errors import RunFolderError
from sparseopd.masks import Mask, select
from sparseopd.pairs import load_model, tensor_hash
from sparseopd.pairs.tensors import open_tensors
from sparseopd.recipe import Recipe

SHORT = [
    "train.batch_size=8", "train.micro_batch_size=4", "train.steps=5", "train.save_every=2", "rollout.completions_every=2",
    "data.limit=24", "optimizer.schedule=linear", "optimizer.telemetry_every=2",
]  # fmt: skip
"""Three batches an epoch, so that the run is stopped within the second."""


class Killed(Exception):
    """Stands for a process that ended at once."""


def small(pair: str, *settings: str) -> Recipe:
    return recipes.load(recipes.find(pair), [*SHORT, *settings])


def make_mask(recipe: Recipe) -> Mask:
    return select(load_model(recipe.student), selector="random", density=0.1)


def stop_after(monkeypatch: pytest.MonkeyPatch, passes: int) -> None:
    """Kill training at the given backward pass."""
    step, seen = OPDTrainer.training_step, 0

    def counted(self: OPDTrainer, *inputs: Any, **settings: Any) -> Any:
        nonlocal seen
        seen += 1
        if seen > passes:
            raise Killed
        return step(self, *inputs, **settings)

    monkeypatch.setattr(OPDTrainer, "training_step", counted)


CASES = {
    "masked": ("tiny-arithmetic", []),
    "masked-bf16": (
        "tiny-arithmetic",
        [
            "student.dtype=bfloat16",
            "train.save_dtype=float32",
            "optimizer.stochastic_rounding=true",
        ],
    ),
    "masked-images": ("tiny-digits", []),
    "full": ("tiny-arithmetic", []),
    "full-images": ("tiny-digits", []),
}


@pytest.mark.parametrize("case", CASES)
def test_a_resumed_run_ends_in_the_same_bits(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair, settings = CASES[case]
    recipe = small(pair, *settings)
    mask = make_mask(recipe) if case.startswith("masked") else None
    whole = train(recipe, tmp_path / "whole", mask=mask, name="named")
    with monkeypatch.context() as stopped:
        stop_after(stopped, 7)  # in the fourth step; the state is that of the second
        with pytest.raises(Killed):
            train(recipe, tmp_path / "stopped", mask=mask, name="named")
    run = RunDir(tmp_path / "stopped")
    assert run.resume.is_dir() and not run.facts.exists()
    resume(run.path)
    one, other = open_tensors(whole.checkpoint), open_tensors(run.checkpoint)
    assert one.keys() == other.keys()
    for name in one.keys():
        assert tensor_hash(one[name]) == tensor_hash(other[name]), name
    assert figures(whole) == figures(run)
    assert whole.completions.read_text() == run.completions.read_text()
    assert run.read_facts().name == "named"
    assert "resumed after step 2" in run.read_facts().notes
    assert not run.resume.exists() and not run.started.exists()


def figures(run: RunDir) -> list[dict[str, Any]]:
    """The logged steps without what a clock said."""
    clocks = ("epoch", "time", "second", "memory")
    return [
        {key: value for key, value in row.items() if not any(word in key for word in clocks)}
        for row in run.read_metrics()
    ]


def test_what_was_being_written_is_not_resumed_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = small("tiny-arithmetic")
    with monkeypatch.context() as stopped:
        stop_after(stopped, 5)
        with pytest.raises(Killed):
            train(recipe, tmp_path / "run", mask=make_mask(recipe))
    run = RunDir(tmp_path / "run")
    half = run.resume / "checkpoint-4"
    half.mkdir()
    (half / "trainer_state.json").write_text('{"global_step"')
    resume(run.path)
    assert [row["step"] for row in run.read_metrics()] == [1, 2, 3, 4, 5]
    assert [row["telemetry"]["step"] for row in run.read_metrics() if "telemetry" in row] == [2, 4]


def test_a_run_killed_at_its_very_end_is_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its checkpoint is written; that its other bits are the source's has not been seen yet."""
    recipe = small("tiny-arithmetic")
    module = importlib.import_module("sparseopd.distill.train")

    def kill(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as stopped, pytest.raises(Killed):
        stopped.setattr(module, "_check_off_mask", kill)
        train(recipe, tmp_path / "run", mask=make_mask(recipe))
    run = RunDir(tmp_path / "run")
    assert run.checkpoint.exists() and not run.facts.exists()
    resume(run.path)
    assert run.facts.exists() and not run.resume.exists()
    run.resume.mkdir()  # as left by a kill after run.json was written
    with pytest.raises(RunFolderError, match="has ended"):
        resume(run.path)
    assert not run.resume.exists()


@pytest.mark.parametrize("every", [1, 2, 3])
def test_telemetry_of_a_resumed_full_run_keeps_its_steps(
    every: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = small("tiny-arithmetic", f"optimizer.telemetry_every={every}")
    with monkeypatch.context() as stopped, pytest.raises(Killed):
        stop_after(stopped, 7)
        train(recipe, tmp_path / "run")
    rows = resume(tmp_path / "run").read_metrics()
    found = [(row["step"], row["telemetry"]["step"]) for row in rows if "telemetry" in row]
    assert found == [(step, step) for step in range(1, 6) if step % every == 0]


def test_runs_with_nothing_to_go_on_from_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = small("tiny-arithmetic", "train.save_every=0", "train.steps=1")
    finished = train(recipe, tmp_path / "finished")
    with pytest.raises(RunFolderError, match="has ended: there is nothing to resume"):
        resume(finished.path)
    with pytest.raises(RunFolderError, match="is not a training run that stopped"):
        resume(tmp_path / "missing")
    stop_after(monkeypatch, 0)
    with pytest.raises(Killed):
        train(recipe, tmp_path / "early")
    with pytest.raises(RunFolderError, match=r"kept no state .* train\.save_every=N"):
        resume(tmp_path / "early")
    with pytest.raises(RunFolderError, match="already holds files"):
        train(recipe, tmp_path / "early")


def test_a_discovery_that_has_ended_keeps_no_state(tmp_path: Path) -> None:
    run = discover(small("tiny-arithmetic", "discover.steps=2"), tmp_path / "found")
    assert not run.resume.exists() and not run.started.exists()


def test_full_runs_log_telemetry_too(tmp_path: Path) -> None:
    recipe = small("tiny-arithmetic", "train.save_every=0", "train.steps=2")
    rows = train(recipe, tmp_path / "run").read_metrics()
    assert rows[1]["telemetry"].keys() == {"step", "cos_m_g", "cv_sqrt_v"}
    assert rows[1]["telemetry"]["step"] == 2
    json.dumps(rows, allow_nan=False)
