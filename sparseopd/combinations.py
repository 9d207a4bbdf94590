"""Refuse recipes whose settings contradict each other, or would silently do nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sparseopd.errors import MaskError, RecipeError
from sparseopd.selection import DATA_FREE, check
from sparseopd.settings.data import check_data
from sparseopd.settings.objective import (
    SERVED,
    check_objective,
    check_rollout,
    check_support,
)
from sparseopd.settings.peft import check_peft

if TYPE_CHECKING:
    from sparseopd.recipe import Discover, Recipe, Train
    from sparseopd.settings.optimizer import Optimizer


def check_combinations(recipe: Recipe) -> None:
    """Raise `RecipeError` on such a setting; fill the defaults that depend on another one."""
    optimizer = recipe.optimizer
    check_objective(recipe.objective)
    check_support(recipe.objective)
    check_rollout(recipe.rollout, recipe.objective)
    _check_teachers(recipe)
    check_data(recipe.data, list(recipe.all_teachers()))
    _check_batches(recipe)
    _check_optimizer(optimizer)
    if optimizer.stochastic_rounding and recipe.student.dtype == "float32":
        raise RecipeError(
            "optimizer.stochastic_rounding does nothing with student.dtype float32, which holds what the "
            "masters hold: set student.dtype to bfloat16 or drop it"
        )
    _check_snapshots("train", recipe.train)
    _check_adapter(recipe)
    _check_discovery(recipe.discover)
    if recipe.discover.saliency == "momentum" and optimizer.name not in ("adamw", "adam"):
        raise RecipeError(
            "discover.saliency=momentum needs the moments of adamw or adam, and optimizer.name is "
            f"{optimizer.name}"
        )


def _check_teachers(recipe: Recipe) -> None:
    teachers, kind = recipe.all_teachers(), recipe.objective.kind
    if recipe.teacher is not None and recipe.teachers:
        raise RecipeError("the recipe has both teacher and teachers: keep one of them")
    if not teachers:
        raise RecipeError("the recipe lacks teacher: add it, or give it on the command line")
    for name, teacher in teachers.items():
        key = "teacher" if recipe.teacher is teacher else f"teachers.{name}"
        if teacher.server is None:
            continue
        if kind not in SERVED:
            raise RecipeError(
                f"{key}.server gives the most likely tokens alone, and {kind} needs more: use "
                f"{' or '.join(SERVED)}, or drop the server"
            )
        if recipe.rollout.temperature != 1 or recipe.data.image:
            what = (
                "images"
                if recipe.data.image
                else f"rollout.temperature {recipe.rollout.temperature}"
            )
            raise RecipeError(
                f"{key}.server scores text at temperature 1, not {what}: drop the server"
            )
        for setting in ("quantization", "device"):
            if getattr(teacher, setting) is not None:
                raise RecipeError(
                    f"{key}.{setting} does nothing with {key}.server: drop one of them"
                )


def _check_batches(recipe: Recipe) -> None:
    train, rollout = recipe.train, recipe.rollout
    completions = train.batch_size * rollout.samples
    if completions % (train.micro_batch_size or 1):
        raise RecipeError(
            f"train.micro_batch_size {train.micro_batch_size} does not divide "
            f"train.batch_size {train.batch_size}"
            + (f" times rollout.samples {rollout.samples}" if rollout.samples > 1 else "")
        )
    if train.save_every % rollout.updates:
        raise RecipeError(
            f"train.save_every {train.save_every} is no multiple of rollout.updates {rollout.updates}: "
            "a state is whole only where a batch of rollouts ends"
        )


def _check_optimizer(optimizer: Optimizer) -> None:
    if optimizer.momentum is not None and optimizer.name != "sgd":
        raise RecipeError(
            f"optimizer.momentum does nothing with {optimizer.name}: use sgd or drop it"
        )
    if optimizer.betas is not None and optimizer.name in ("sgd", "adafactor"):
        raise RecipeError(f"optimizer.betas does nothing with {optimizer.name}: drop it")
    if optimizer.schedule == "constant" and optimizer.warmup_steps:
        raise RecipeError(
            "optimizer.warmup_steps does nothing with schedule constant: use constant_with_warmup"
        )
    for place, group in enumerate(optimizer.groups):
        if not group.match or (group.lr is None and group.weight_decay is None):
            raise RecipeError(
                f"optimizer.groups.{place} changes nothing: give it match, and lr or weight_decay"
            )


def _check_adapter(recipe: Recipe) -> None:
    """Refuse what cannot be done while an adapter stands beside the weights."""
    peft = recipe.train.peft
    if peft is None:
        return
    check_peft(peft)
    if recipe.train.snapshots:
        raise RecipeError(
            "train.snapshots keeps weights, and train.peft merges its adapter into them only at the end: "
            "drop one of them"
        )
    if recipe.rollout.vllm is not None:
        raise RecipeError(
            f"rollout.vllm={recipe.rollout.vllm} would sample without the adapter of train.peft: drop one "
            "of them"
        )


def _check_discovery(discover: Discover) -> None:
    """Check the selection, and refuse what could not be done while training."""
    try:
        check(discover)
    except MaskError as error:
        raise RecipeError(f"discover.{error} (null in the recipe)") from error
    if discover.match is not None:
        raise RecipeError("discover.match needs another mask to be like: use sparseopd mask select")
    if discover.saliency is not None and discover.selector != "saliency":
        raise RecipeError(
            f"discover.saliency does nothing with the selector {discover.selector}: leave it out"
        )
    if discover.selector in DATA_FREE:
        for name in ("until_stable", "check_every", "snapshots"):
            if getattr(discover, name):
                raise RecipeError(
                    f"discover.{name} does nothing with the selector {discover.selector}, which needs "
                    "no training: leave it out"
                )
    if discover.until_stable is not None and discover.check_every == 0:
        raise RecipeError(
            "discover.until_stable needs checks and discover.check_every is 0: leave one of them out"
        )
    _check_snapshots("discover", discover)


def _check_snapshots(section: str, settings: Discover | Train) -> None:
    """Refuse snapshots of steps that the run would never take."""
    late = [step for step in settings.snapshots if step > settings.steps]
    if late:
        raise RecipeError(
            f"{section}.snapshots names step {late[0]} and {section}.steps is {settings.steps}: raise it"
        )
