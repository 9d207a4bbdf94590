"""Several teachers: how often each one's prompts come, and how much each one's tokens count."""

from __future__ import annotations

from dataclasses import replace

from datasets import Dataset, interleave_datasets

from sparseopd.recipe import Recipe
from sparseopd.tasks.prompts import Prompts


def token_shares(recipe: Recipe) -> list[float] | None:
    """Return each teacher's share of the loss, in the order of the recipe's teachers; they sum to 1.

    None where the data decides.
    """
    names, wanted = list(recipe.all_teachers()), recipe.data.teacher_shares
    if wanted == "data":
        return None
    given = [1.0] * len(names) if wanted == "balanced" else [float(wanted[name]) for name in names]  # pyright: ignore
    return [share / sum(given) for share in given]


def route(recipe: Recipe, prompts: Prompts) -> Prompts:
    """Draw the training prompts of several teachers in their shares, until each has come at least once.

    Weighting tokens alone would be exact too, but a rare teacher's few tokens would be noisy.
    """
    shares = token_shares(recipe) if len(recipe.all_teachers()) > 1 else None
    if shares is None:
        return prompts
    whose = prompts.train["teacher"]
    parts: list[Dataset] = [
        prompts.train.select([row for row, teacher in enumerate(whose) if teacher == name])
        for name in recipe.all_teachers()
    ]
    drawn = interleave_datasets(
        parts, probabilities=shares, seed=recipe.seed, stopping_strategy="all_exhausted"
    )
    return replace(prompts, train=drawn)
