"""From a recipe to the trainer of its objective."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from trl.trainer.distillation_config import DistillationConfig

from sparseopd.artifacts import Progress, RunDir
from sparseopd.distill import processes
from sparseopd.distill.arguments import (
    sampling_arguments,
    shared_arguments,
)
from sparseopd.distill.contrasts import (
    grpo_trainer,
    references,
    sft_trainer,
    teacher_completions,
)
from sparseopd.distill.log import Completions
from sparseopd.distill.objectives import objective_of
from sparseopd.distill.opd import OPDTrainer, Plan
from sparseopd.distill.prepare import Prepared
from sparseopd.distill.recipe_trainer import BuildOptimizer, RecipeTrainer
from sparseopd.distill.sinks import without_tensorboard
from sparseopd.recipe import Recipe
from sparseopd.settings.batches import BatchShape, batch_shape


def make_trainer(
    recipe: Recipe,
    prepared: Prepared,
    run: RunDir,
    *,
    steps: int,
    build_optimizer: BuildOptimizer,
    clip: float,
    callbacks: Sequence[TrainerCallback],
    folder: Path,
    save_every: int,
    progress: Progress | None,
) -> RecipeTrainer:
    """Translate a recipe into a trainer that trains `prepared.student` in place.

    `clip` is the norm to which `Trainer` clips dense gradients, 0 for none. The trainer writes only
    states to resume from into `folder`, every `save_every` steps, 0 for never.
    """
    kind = recipe.objective.kind
    shape = batch_shape(kind, recipe.train, recipe.rollout, processes.count())
    sinks, more = without_tensorboard(recipe.train.report_to, run)
    arguments = shared_arguments(
        recipe, shape, steps=steps, clip=clip, folder=folder, save_every=save_every
    ) | {"report_to": sinks}
    settings: dict[str, Any] = {
        "model": prepared.student,
        "processing_class": prepared.processor,
        "callbacks": [*callbacks, *more],
        "build_optimizer": build_optimizer,
    }
    if kind == "grpo":
        return grpo_trainer(recipe, prepared, shape, arguments, settings)
    if kind == "sft":
        return sft_trainer(recipe, references(prepared), arguments, settings)
    if kind == "offline-kd":
        count = steps * recipe.train.batch_size
        rows = teacher_completions(recipe, prepared, run, count, progress)
        return sft_trainer(recipe, rows, arguments, settings)
    return OPDTrainer(
        plan=_plan(recipe, prepared, run, shape),
        args=DistillationConfig(**arguments, **sampling_arguments(recipe)),
        train_dataset=prepared.prompts.train,
        **settings,
    )


def _plan(recipe: Recipe, prepared: Prepared, run: RunDir, shape: BatchShape) -> Plan:
    objective, rollout = recipe.objective, recipe.rollout
    return Plan(
        objective=objective_of(objective),
        teachers=prepared.teachers,
        shape=shape,
        reduction=objective.reduction,
        remembers=objective.kind == "sampled-token",
        at_once=None if rollout.vllm else rollout.batch_size,
        shares=prepared.shares,
        template=recipe.data.chat_template,
        completions=Completions(run.completions, rollout.completions_every)
        if rollout.completions_every
        else None,
    )
