"""Refuse recipes whose settings contradict each other, or would silently do nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sparseopd.errors import MaskError, RecipeError
from sparseopd.selection import DATA_FREE, check

if TYPE_CHECKING:
    from sparseopd.optimizer_settings import Optimizer
    from sparseopd.recipe import Discover, Recipe


def check_combinations(recipe: Recipe) -> None:
    """Raise `RecipeError` on such a setting; fill the defaults that depend on another one."""
    objective, optimizer, train = recipe.objective, recipe.optimizer, recipe.train
    if objective.kind == "jsd":
        objective.beta = 0.5 if objective.beta is None else objective.beta
    elif objective.beta is not None:
        raise RecipeError(
            f"objective.beta does nothing with objective.kind={objective.kind}: use jsd or drop it"
        )
    _check_optimizer(optimizer)
    if optimizer.stochastic_rounding and recipe.student.dtype == "float32":
        raise RecipeError(
            "optimizer.stochastic_rounding does nothing with student.dtype float32, which holds what the "
            "masters hold: set student.dtype to bfloat16 or drop it"
        )
    _check_discovery(recipe.discover)
    if recipe.discover.saliency == "momentum" and optimizer.name not in ("adamw", "adam"):
        raise RecipeError(
            "discover.saliency=momentum needs the moments of adamw or adam, and optimizer.name is "
            f"{optimizer.name}"
        )
    if train.batch_size % (train.micro_batch_size or 1):
        raise RecipeError(
            f"train.micro_batch_size {train.micro_batch_size} does not divide "
            f"train.batch_size {train.batch_size}"
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
    late = [step for step in discover.snapshots if step > discover.steps]
    if late:
        raise RecipeError(
            f"discover.snapshots names step {late[0]} and discover.steps is {discover.steps}: raise it"
        )
