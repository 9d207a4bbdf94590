"""From a recipe's optimizer section to the optimizer of a full or a masked run."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from sparseopd.errors import OptimizerError, RecipeError
from sparseopd.masks import Mask
from sparseopd.optim import MaskedOptimizer
from sparseopd.optim.build import checkpoint_names, own_names
from sparseopd.optim.groups import grouped
from sparseopd.optim.sampled import NOTHING_TO_SAMPLE, is_sparse_enough, samplable
from sparseopd.pairs import pick_device
from sparseopd.recipe import Recipe
from sparseopd.settings.optimizer import Name, Optimizer


def optimizer_class(name: Name) -> type[torch.optim.Optimizer]:
    """Return the class behind a recipe's name; bitsandbytes is imported only for its own."""
    if name.endswith("8bit"):
        import bitsandbytes.optim

        kinds = {"adamw-8bit": "AdamW8bit", "paged-adamw-8bit": "PagedAdamW8bit"}
        return getattr(bitsandbytes.optim, kinds[name])
    kinds = {"adamw": "AdamW", "adam": "Adam", "sgd": "SGD", "adafactor": "Adafactor"}
    return getattr(torch.optim, kinds[name])


def build_optimizer(recipe: Recipe, model: nn.Module, mask: Mask | None) -> torch.optim.Optimizer:
    """Build the recipe's optimizer over all that is not frozen, or over the mask's k-vectors."""
    settings = recipe.optimizer
    kind = optimizer_class(settings.name)
    options: dict[str, Any] = {"weight_decay": settings.weight_decay}
    options["lr"] = learning_rate(settings, masked=mask is not None)
    if settings.betas is not None:
        options["betas"] = settings.betas
    if settings.momentum is not None:
        options["momentum"] = settings.momentum
    if mask is None:
        trained = {name: one for name, one in own_names(model).items() if one.requires_grad}
        return kind(grouped(model, trained, _groups(settings)), **options)
    return MaskedOptimizer(
        model,
        mask,
        kind,
        groups=_groups(settings),
        max_grad_norm=settings.max_grad_norm or None,
        sampled_gradients=settings.sampled_gradients,
        stochastic_rounding=settings.stochastic_rounding,
        seed=recipe.seed,
        telemetry_every=settings.telemetry_every,
        **options,
    )


def check_groups(settings: Optimizer, model: nn.Module) -> None:
    """Raise `RecipeError` for a group that matches no parameter, before time is spent."""
    try:
        grouped(model, own_names(model), _groups(settings))
    except OptimizerError as error:
        raise RecipeError(f"optimizer.groups: {error}") from error


def check_sampling(recipe: Recipe, model: nn.Module, mask: Mask) -> None:
    """Raise `RecipeError` where sampled gradients were asked for and would do nothing."""
    if not recipe.optimizer.sampled_gradients:
        return
    device = pick_device(recipe.device).type
    names = {id(weight): name for name, weight in own_names(model).items()}
    pieces = checkpoint_names(model)
    counts = [
        (
            sum(mask.count(piece) for piece in pieces[names[id(module.weight)]]),
            module.weight.numel(),
        )
        for module in samplable(model)
    ]
    if device != "cpu" or not any(is_sparse_enough(k, numel) for k, numel in counts):
        raise RecipeError(
            f"optimizer.sampled_gradients: {NOTHING_TO_SAMPLE} (training on {device})"
        )


def learning_rate(settings: Optimizer, *, masked: bool) -> float:
    """Return the learning rate of a masked run, or of any other."""
    return settings.masked_lr if masked and settings.masked_lr is not None else settings.lr


def _groups(settings: Optimizer) -> list[dict[str, Any]]:
    return [
        {key: value for key, value in vars(group).items() if value is not None}
        for group in settings.groups
    ]
