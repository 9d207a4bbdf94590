"""Logged steps go where the recipe says, and nothing that a run holds grows with its steps."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sparseopd.distill import requirements
from sparseopd.distill.prepare import prepare
from sparseopd.errors import RecipeError
from sparseopd.masks import select
from tests.distill.opd_runs import small, trained


def test_tensorboard_gets_every_step_and_is_kept(tmp_path: Path) -> None:
    _, run = trained(small("train.report_to=[tensorboard]"), tmp_path)
    events = EventAccumulator(str(run.tensorboard))
    events.Reload()
    logged = events.Scalars("train/loss")
    assert [event.step for event in logged] == [1, 2, 3]
    assert [event.value for event in logged] == pytest.approx(
        [row["loss"] for row in run.read_metrics()]
    )


def test_a_sink_that_is_not_installed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requirements, "find_spec", lambda name: None)
    with pytest.raises(RecipeError, match="names wandb, which is not installed: pip install wandb"):
        prepare(small("train.report_to=[wandb]"))


@pytest.mark.parametrize("masked", [False, True])
def test_two_epochs_with_pictures_hold_no_more_tensors_step_after_step(
    masked: bool, tmp_path: Path
) -> None:
    recipe = small("train.steps=8", "data.limit=32", pair="tiny-digits")  # four steps an epoch
    mask = select(recipe.student.path, selector="random", density=0.1) if masked else None
    held: list[int] = []

    def progress(stage: str, done: int, total: int, unit: str = "", detail: str = "") -> None:
        gc.collect()
        tensors = [one for one in gc.get_objects() if issubclass(type(one), torch.Tensor)]
        held.append(sum(one.numel() * one.itemsize for one in tensors))

    trained(recipe, tmp_path, mask=mask, progress=progress)
    assert len(held) == 8
    # Batches differ in their longest completion; the first step makes the optimizer's state.
    assert max(held[4:]) <= 1.01 * max(held[1:4])
