"""From a recipe's optimizer section to the optimizer of a full or a masked run."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from sparseopd.errors import OptimizerError, RecipeError
from sparseopd.masks import Mask
from sparseopd.optim import MaskedOptimizer
from sparseopd.optim.build import checkpoint_names, own_names
from sparseopd.optim.groups import split
from sparseopd.optim.sampled import DENSEST
from sparseopd.optimizer_settings import Name, Optimizer
from sparseopd.pairs import pick_device
from sparseopd.recipe import Recipe


def optimizer_class(name: Name) -> type[torch.optim.Optimizer]:
    """Return the class behind a recipe's name; bitsandbytes is imported only for its own."""
    if name.endswith("8bit"):
        import bitsandbytes.optim

        kinds = {"adamw-8bit": "AdamW8bit", "paged-adamw-8bit": "PagedAdamW8bit"}
        return getattr(bitsandbytes.optim, kinds[name])
    kinds = {"adamw": "AdamW", "adam": "Adam", "sgd": "SGD", "adafactor": "Adafactor"}
    return getattr(torch.optim, kinds[name])


def build_optimizer(recipe: Recipe, model: nn.Module, mask: Mask | None) -> torch.optim.Optimizer:
    """Build the recipe's optimizer over the whole model, or over the mask's k-vectors."""
    settings = recipe.optimizer
    kind = optimizer_class(settings.name)
    options: dict[str, Any] = {"weight_decay": settings.weight_decay}
    options["lr"] = learning_rate(settings, masked=mask is not None)
    if settings.betas is not None:
        options["betas"] = settings.betas
    if settings.momentum is not None:
        options["momentum"] = settings.momentum
    if mask is None:
        return kind(_dense_groups(model, _groups(settings)), **options)
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
        _dense_groups(model, _groups(settings))
    except OptimizerError as error:
        raise RecipeError(f"optimizer.groups: {error}") from error


def check_sampling(recipe: Recipe, mask: Mask) -> None:
    """Raise `RecipeError` where sampled gradients were asked for and would do nothing."""
    if not recipe.optimizer.sampled_gradients:
        return
    device = pick_device(recipe.device).type
    if device != "cpu":
        raise RecipeError(
            f"optimizer.sampled_gradients works on the CPU and training is on {device}: drop it, or set "
            "device=cpu"
        )
    if not any(0 < mask.density(name) <= DENSEST for name in mask.names):
        raise RecipeError(
            f"optimizer.sampled_gradients pays where a mask has at most {100 * DENSEST:g} % of a tensor, "
            "and this one has more of each: drop it"
        )


def learning_rate(settings: Optimizer, *, masked: bool) -> float:
    """Return the learning rate of a full or of a masked run."""
    return settings.masked_lr if masked and settings.masked_lr is not None else settings.lr


def _groups(settings: Optimizer) -> list[dict[str, Any]]:
    return [
        {key: value for key, value in vars(group).items() if value is not None}
        for group in settings.groups
    ]


def _dense_groups(model: nn.Module, groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    if not groups:  # the names of a checkpoint's tensors take a moment to find
        return [{"params": list(model.parameters())}]
    weights = own_names(model)
    known = {name: [name, *pieces] for name, pieces in checkpoint_names(model).items()}
    members = [
        ([weights[name] for name in names], settings) for names, settings in split(known, groups)
    ]
    return [{"params": params, **settings} for params, settings in members if params]
