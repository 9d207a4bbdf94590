"""Weights kept on the way: whole checkpoints, of which the training itself does not notice anything."""

from __future__ import annotations

import copy
import errno
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from transformers import Qwen3ForCausalLM
from typer.testing import CliRunner

from sparseopd.artifacts import RunDir
from sparseopd.cli import app
from sparseopd.distill import resume, train
from sparseopd.distill.checkpoint import save_checkpoint
from sparseopd.distill.snapshots import Snapshots
from sparseopd.distill.trainer import OPDTrainer
from sparseopd.errors import RecipeError, RunFolderError
from sparseopd.feasibility.disk import find_disk
from sparseopd.feasibility.request import make_request
from sparseopd.feasibility.subject import gather
from sparseopd.masks import Mask, select
from sparseopd.pairs import load_model, load_processor
from sparseopd.pairs.loading import Processor
from sparseopd.recipe import Model, Recipe
from tests.conftest import make_moe, make_qwen3
from tests.distill.opd_runs import of_kind, small

SHORT = ["train.batch_size=4", "data.limit=32", "optimizer.schedule=linear"]


def processor() -> Processor:
    return load_processor(Model(path="bundled:tiny-arithmetic/student"))


def mask_of(recipe: Recipe) -> Mask:
    return select(load_model(recipe.student), selector="random", density=0.1)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def losses(run: RunDir) -> list[float]:
    return [row["loss"] for row in run.read_metrics()]


CASES = {
    "full": [],
    "masked": [],
    "contrast": of_kind("sft"),
    "full-float32": ["train.save_dtype=float32"],
}


@pytest.mark.parametrize("case", CASES)
def test_a_run_with_snapshots_ends_in_the_bits_of_one_without(case: str, tmp_path: Path) -> None:
    recipe = small(*SHORT, *CASES[case])
    mask = mask_of(recipe) if case == "masked" else None
    plain = train(recipe, tmp_path / "plain", mask=mask)
    recipe.train.snapshots = [3, 1]
    run = train(recipe, tmp_path / "run", mask=mask)
    assert sorted(path.name for path in run.snapshots.iterdir()) == ["step-1", "step-3"]
    assert files(run.checkpoint) == files(plain.checkpoint) == files(run.kept_weights(3))
    assert losses(run) == losses(plain)
    first = files(run.kept_weights(1))
    assert first.keys() == files(run.checkpoint).keys()
    assert first["model.safetensors"] != files(run.checkpoint)["model.safetensors"]


def test_a_snapshot_is_the_checkpoint_of_a_run_that_ends_there(tmp_path: Path) -> None:
    recipe = small("train.batch_size=4", "data.limit=32", "train.snapshots=[2]")
    run = train(recipe, tmp_path / "run")
    recipe.train.steps, recipe.train.snapshots = 2, []
    shorter = train(recipe, tmp_path / "shorter")
    assert files(run.kept_weights(2)) == files(shorter.checkpoint)
    loaded = load_model(Model(path=str(run.kept_weights(2)), dtype="bfloat16"))
    assert loaded.config.dtype == loaded.dtype == torch.bfloat16


class Killed(Exception):
    """Stands for a process that ended at once."""


def test_a_resumed_run_has_the_same_snapshots(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = small(*SHORT, "train.steps=5", "train.save_every=2", "train.snapshots=[1,3,4]")
    whole, run = train(recipe, tmp_path / "whole"), RunDir(tmp_path / "stopped")
    train_step, seen = OPDTrainer.training_step, 0

    def kill_in_the_fourth(self: OPDTrainer, *inputs: Any, **settings: Any) -> Any:
        nonlocal seen
        seen += 1
        if seen == 4:
            raise Killed
        return train_step(self, *inputs, **settings)

    with monkeypatch.context() as stopped, pytest.raises(Killed):
        stopped.setattr(OPDTrainer, "training_step", kill_in_the_fourth)
        train(recipe, run.path)
    assert [run.kept_weights(step).is_dir() for step in (1, 3, 4)] == [True, True, False]
    late = run.kept_weights(3)  # after the state of step 2
    (late / "model.safetensors").write_bytes(b"of another machine")
    (run.snapshots / ".step-4.part").mkdir()
    resume(run.path)
    assert sorted(path.name for path in run.snapshots.iterdir()) == ["step-1", "step-3", "step-4"]
    for step in (1, 3, 4):
        assert files(run.kept_weights(step)) == files(whole.kept_weights(step)), step
    assert files(run.checkpoint) == files(whole.checkpoint)


def test_processes_but_the_main_one_write_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known: Any = SimpleNamespace(
        student=make_qwen3(), processor=processor(), stored_dtype=torch.bfloat16
    )
    snapshots = Snapshots([1], known, RunDir(tmp_path))
    step = SimpleNamespace(global_step=1)
    monkeypatch.setenv("RANK", "1")
    snapshots.on_step_end(None, step, None)
    assert not list(tmp_path.iterdir())
    monkeypatch.setenv("RANK", "0")
    snapshots.on_step_end(None, step, None)
    assert RunDir(tmp_path).kept_weights(1).is_dir()


MODELS = {
    "tied": make_qwen3,
    "untied": lambda: make_qwen3(tied=False),
    "experts": make_moe,
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", MODELS)
def test_the_student_stays_as_it_is(kind: str, dtype: torch.dtype, tmp_path: Path) -> None:
    student = MODELS[kind]().train()
    before = copy.deepcopy(student)
    state = torch.get_rng_state()
    save_checkpoint(student, processor(), tmp_path / "snapshot", dtype)
    assert torch.equal(torch.get_rng_state(), state)
    assert student.training and student.config.dtype == before.config.dtype
    for one, other in zip(student.parameters(), before.parameters(), strict=True):
        assert one.dtype == torch.float32 and torch.equal(one, other)
    before.to(dtype).save_pretrained(tmp_path / "checkpoint")
    processor().save_pretrained(tmp_path / "checkpoint")
    assert files(tmp_path / "snapshot") == files(tmp_path / "checkpoint")


@pytest.mark.parametrize(
    "failure", [OSError(errno.ENOSPC, "No space left on device"), SafetensorError("No space left")]
)
def test_a_full_disk_leaves_nothing_behind(
    failure: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Qwen3ForCausalLM, folder: Path, **_: Any) -> None:
        (folder / "model.safetensors").write_bytes(b"half")
        raise failure

    student = make_qwen3()
    held = student.config.dtype
    monkeypatch.setattr(Qwen3ForCausalLM, "save_pretrained", full)
    with pytest.raises(RunFolderError, match=r"cannot write .*step-1: .*No space left"):
        save_checkpoint(student, processor(), tmp_path / "step-1", torch.bfloat16)
    assert list(tmp_path.iterdir()) == [] and student.config.dtype == held


def test_steps_beyond_the_last_are_refused() -> None:
    sentence = r"train\.snapshots names step 60 and train\.steps is 50: raise it"
    with pytest.raises(RecipeError, match=sentence):
        small("train.steps=50", "train.snapshots=[5,60]")
    with pytest.raises(RecipeError, match=r"train\.snapshots\.0 is 0"):
        small("train.snapshots=[0]")


def test_the_command_line_takes_them() -> None:
    words = ["train", "tiny-arithmetic", "--snapshots", "5,10", "--dry-run", "-o", "x"]
    ran = CliRunner().invoke(app, words)
    assert "\n  snapshots:\n  - 5\n  - 10\n" in ran.stdout.partition("\ntrain:\n")[2]
    ran = CliRunner().invoke(app, [*words, "train.steps=9"])
    assert "names step 10 and train.steps is 9" in str(ran.exception)


def test_the_disk_they_need_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = small("train.snapshots=[1,2,2]")
    disk = find_disk(gather(make_request(recipe))[0])
    assert disk is not None and disk.items["snapshots"] == 2 * disk.items["checkpoint"]
    free = 5 * disk.items["checkpoint"] // 2  # two checkpoints would fit
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": free}))
    with pytest.raises(RunFolderError, match=r"1\.\d MB free and this run writes about 1\.\d MB"):
        train(recipe, tmp_path / "run")
