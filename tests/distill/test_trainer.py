"""Our trainer is TRL's: same rollouts, same losses, same weights; and it stops when it must."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from trl.trainer.distillation_config import DistillationConfig
from trl.trainer.distillation_trainer import DistillationTrainer

from sparseopd.artifacts import RunDir
from sparseopd.distill.optimizer import build_optimizer, learning_rate
from sparseopd.distill.prepare import prepare
from sparseopd.distill.train import run_training
from sparseopd.errors import TrainingError
from sparseopd.masks import select
from sparseopd.pairs import load_model, load_processor
from tests.distill.opd_runs import ON_POLICY, of_kind, small, trained


@pytest.mark.parametrize("pair", ["tiny-arithmetic", "tiny-digits"])
def test_a_full_run_is_trl_called_directly(pair: str, tmp_path: Path) -> None:
    recipe = small(pair=pair)
    ours, _ = trained(recipe, tmp_path / "ours")
    theirs = prepare(recipe)
    config = DistillationConfig(
        output_dir=str(tmp_path / "theirs"),
        max_steps=3,
        per_device_train_batch_size=8,
        max_completion_length=recipe.rollout.max_new_tokens,
        lr_scheduler_type="constant",
        learning_rate=recipe.optimizer.lr,
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        seed=recipe.seed,
        save_strategy="no",
        report_to="none",
    )
    DistillationTrainer(
        model=theirs.student,
        teacher_model=theirs.teachers["teacher"].model,
        args=config,
        train_dataset=theirs.prompts.train,
        processing_class=theirs.processor,
        optimizers=(build_optimizer(recipe, theirs.student, None), None),
    ).train()
    for one, other in zip(ours.student.parameters(), theirs.student.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("pair", ["tiny-arithmetic", "tiny-digits"])
@pytest.mark.parametrize("kind", ON_POLICY)
def test_a_student_that_equals_its_teacher_has_nothing_to_learn(
    pair: str, kind: str, tmp_path: Path
) -> None:
    recipe = small(*of_kind(kind), "train.steps=1", pair=pair)
    recipe.teacher.path = recipe.student.path
    _, run = trained(recipe, tmp_path / "run")
    row = run.read_metrics()[0]
    assert abs(row["loss"]) < 1e-6 and row["grad_norm"] < 1e-4 and abs(row["kl"]) < 1e-6


def test_metrics_are_one_line_a_step_with_the_norm_of_the_k_vector(tmp_path: Path) -> None:
    recipe = small()
    _, full_run = trained(recipe, tmp_path / "full")
    mask = select(recipe.student.path, selector="random", density=0.1)
    _, masked_run = trained(recipe, tmp_path / "masked", mask=mask)
    rows, masked = full_run.read_metrics(), masked_run.read_metrics()
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert rows[0]["loss"] == masked[0]["loss"] > 0  # the same rollouts before any update
    assert 0 < masked[0]["grad_norm"] < rows[0]["grad_norm"]


def test_accumulation_sees_the_same_batch_as_one_large_one(tmp_path: Path) -> None:
    mask = select(small().student.path, selector="random", density=0.1)
    settings = ["train.steps=1", "optimizer.name=sgd", "optimizer.masked_lr=0.1"]
    whole, _ = trained(small(*settings), tmp_path / "whole", mask=mask)
    parts, _ = trained(small(*settings, "train.micro_batch_size=2"), tmp_path / "parts", mask=mask)
    for one, other in zip(whole.student.parameters(), parts.student.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_schedules_reach_the_k_vectors(tmp_path: Path) -> None:
    mask = select(small().student.path, selector="random", density=0.1)
    settings = ["optimizer.schedule=linear", "optimizer.masked_lr=0.5"]
    _, run = trained(small(*settings), tmp_path / "run", mask=mask)
    rates = [row["learning_rate"] for row in run.read_metrics()]
    assert rates == pytest.approx([0.5, 0.5 * 2 / 3, 0.5 / 3])


def test_padding_rows_of_the_teacher_are_noted(tmp_path: Path) -> None:
    recipe = small("train.steps=1")
    teacher = load_model(recipe.teacher)
    teacher.resize_token_embeddings(teacher.config.vocab_size + 6)
    teacher.save_pretrained(tmp_path / "teacher")
    load_processor(recipe.teacher).save_pretrained(tmp_path / "teacher")
    recipe.teacher.path = str(tmp_path / "teacher")
    assert prepare(recipe).notes == [
        "the teacher's 6 padding rows beyond the student's vocabulary were left out"
    ]


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    recipe = small()
    prepared, run = prepare(recipe), RunDir(tmp_path / "run")
    run.create()
    with torch.no_grad():
        prepared.teachers["teacher"].model.get_output_embeddings().weight.fill_(float("nan"))  # pyright: ignore
    with pytest.raises(TrainingError, match="the loss is nan at step 1"):
        run_training(recipe, prepared, run, steps=1, mask=None, stage="train", progress=None)


def test_arms_have_their_own_learning_rates() -> None:
    optimizer = small("optimizer.lr=1e-4", "optimizer.masked_lr=1e-2").optimizer
    assert (learning_rate(optimizer, masked=False), learning_rate(optimizer, masked=True)) == (
        1e-4,
        1e-2,
    )
    assert learning_rate(small("optimizer.masked_lr=null").optimizer, masked=True) == 3e-4
