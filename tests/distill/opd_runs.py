"""Short runs for the tests of training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sparseopd import recipe as recipes
from sparseopd.artifacts import RunDir
from sparseopd.distill.prepare import Prepared, prepare
from sparseopd.distill.train import run_training
from sparseopd.recipe import Recipe

SHORT = ["train.batch_size=8", "train.steps=3", "data.limit=64"]


def small(*settings: str, pair: str = "tiny-arithmetic") -> Recipe:
    """A bundled recipe of three small steps."""
    return recipes.load(recipes.find(pair), [*SHORT, *settings])


def trained(recipe: Recipe, folder: Path, **more: Any) -> tuple[Prepared, RunDir]:
    """Train in memory; only the log is written."""
    run, prepared = RunDir(folder), prepare(recipe)
    run.create()
    settings = {
        "steps": recipe.train.steps,
        "mask": None,
        "stage": "train",
        "progress": None,
    } | more
    run_training(recipe, prepared, run, **settings)
    return prepared, run


ON_POLICY = {
    "reverse-kl": [],
    "forward-kl": [],
    "jsd": ["objective.beta=0.3"],
    "teacher-top-k": ["objective.k=8"],
    "student-top-k": ["objective.k=8"],
    "sampled-token": ["rollout.samples=2", "rollout.updates=2"],
}
"""Kinds, each with settings of its own."""


def of_kind(kind: str) -> list[str]:
    """The overrides that choose a kind."""
    return [f"objective.kind={kind}", *ON_POLICY.get(kind, [])]
