"""`discover`: a short full OPD run whose update becomes a mask.

    sparseopd discover RECIPE -o RUN

The student trains in full for `discover.steps` updates; Δ is taken between its fp32 masters and the
source weights; the selector keeps k coordinates. The trained weights themselves are dropped: `train`
starts from the source again.
"""

from __future__ import annotations

import time
from pathlib import Path

from transformers import PreTrainedModel

from sparseopd.artifacts import Progress, RunDir, RunFacts, write_json
from sparseopd.distill.facts import versions, write_recipe
from sparseopd.distill.prepare import prepare
from sparseopd.distill.train import run_training
from sparseopd.errors import RecipeError
from sparseopd.masks import Mask, select, summarize_update
from sparseopd.pairs import load_model
from sparseopd.recipe import Recipe


def discover(recipe: Recipe, output: str | Path, *, progress: Progress | None = None) -> RunDir:
    """Find the mask of a recipe and write its run folder.

    The selector `random` needs no update, so nothing is trained for it.

    Raises `RequestError` before anything is written if the recipe, models, data or folder do not fit.
    """
    run = RunDir.unused(output)
    started = time.monotonic()
    if recipe.discover.selector == "random":
        steps, last = 0, {}
        run.create()
        write_recipe(run, recipe)
        mask = _choose(recipe, load_model(recipe.student), None, progress)
    else:
        if recipe.student.dtype != "float32":
            raise RecipeError(
                f"discover needs fp32 masters and student.dtype is {recipe.student.dtype}: set it to "
                "float32 (train.bf16 still computes in bfloat16)"
            )
        prepared = prepare(recipe)
        run.create()
        write_recipe(run, recipe)
        steps = recipe.discover.steps
        trained = run_training(
            recipe, prepared, run, steps=steps, mask=None, stage="discover", progress=progress
        )
        last = trained.last
        source = load_model(recipe.student)
        mask = _choose(recipe, source, prepared.student, progress)
        write_json(run.delta, summarize_update(source, prepared.student, mask))
    mask.save(run.mask)
    facts = RunFacts(
        kind="discover",
        name=recipe.name,
        student=recipe.student.path,
        teacher=recipe.teacher.path,
        steps=steps,
        lr=recipe.optimizer.lr,
        seed=recipe.seed,
        seconds=time.monotonic() - started,
        mask={
            "file": run.mask.name,
            "k": mask.count(),
            "density": mask.density(),
            "selector": mask.provenance.selector,
            "digest": mask.digest(),
        },
        final=last,
        versions=versions(),
    )
    run.write_facts(facts)
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
