"""`discover`: a short full OPD run whose update becomes a mask.

    sparseopd discover RECIPE -o RUN

The student trains in full for `discover.steps` updates; Δ is taken between its fp32 masters and the
source weights; the selector keeps k coordinates. The trained weights themselves are dropped:
`train` starts from the source again.
"""

from __future__ import annotations

import time
from pathlib import Path

from transformers import PreTrainedModel

from sparseopd.artifacts import Progress, RunDir, write_json
from sparseopd.distill.facts import record, write_recipe
from sparseopd.distill.prepare import prepare, require_masters
from sparseopd.distill.train import run_training
from sparseopd.errors import RecipeError
from sparseopd.masks import Mask, select, summarize_update
from sparseopd.pairs import load_model
from sparseopd.recipe import Recipe


def discover(recipe: Recipe, output: str | Path, *, progress: Progress | None = None) -> RunDir:
    """Find the mask of a recipe and write its run folder.

    The selector `random` needs no update, so nothing is trained for it.

    Raises `RequestError` before anything is written if recipe, models, data or folder do not fit.
    """
    run = RunDir.unused(output)
    if recipe.discover.selector == "random":
        return _draw(recipe, run, progress)
    started = time.monotonic()
    require_masters(recipe, "discover")
    prepared = prepare(recipe)
    _check_density(recipe, prepared.student)
    run.create()
    write_recipe(run, recipe)
    steps = recipe.discover.steps
    log = run_training(
        recipe, prepared, run, steps=steps, mask=None, stage="discover", progress=progress
    )
    source = load_model(recipe.student)
    mask = _choose(recipe, source, prepared.student, progress)
    write_json(run.delta, summarize_update(source, prepared.student, mask))
    mask.save(run.mask)
    seconds = time.monotonic() - started
    record(
        run, recipe, kind="discover", name=recipe.name, steps=steps, lr=recipe.optimizer.lr,
        seconds=seconds, mask=mask, final=log.last, notes=prepared.notes,
    )  # fmt: skip
    return run


def _check_density(recipe: Recipe, student: PreTrainedModel) -> None:
    """Refuse a density that rounds to no coordinate, before steps are spent on it."""
    numel = sum(weight.numel() for weight in student.parameters())
    density = recipe.discover.density
    if density is not None and not round(density * numel):
        raise RecipeError(
            f"discover.density {density:g} of {numel:,} coordinates rounds to none: raise it"
        )


def _draw(recipe: Recipe, run: RunDir, progress: Progress | None) -> RunDir:
    """Write the run of a mask that needs no training."""
    started = time.monotonic()
    mask = _choose(recipe, load_model(recipe.student), None, progress)
    run.create()
    write_recipe(run, recipe)
    mask.save(run.mask)
    seconds = time.monotonic() - started
    record(run, recipe, kind="discover", name=recipe.name, seconds=seconds, mask=mask)
    return run


def _choose(
    recipe: Recipe,
    source: PreTrainedModel,
    tuned: PreTrainedModel | None,
    progress: Progress | None,
) -> Mask:
    settings = recipe.discover
    return select(
        source,
        None if tuned is None else tuned.cpu(),  # pyright: ignore[reportArgumentType]
        selector=settings.selector,
        density=settings.density,
        threshold=settings.threshold,
        seed=recipe.seed,
        steps=settings.steps if tuned is not None else 0,
        recipe_hash=recipe.digest(),
        label=recipe.student.path,
        progress=progress,
    )
