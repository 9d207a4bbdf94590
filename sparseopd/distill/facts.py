"""What every run writes down about itself."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from sparseopd.artifacts import RunDir, RunFacts, written_whole
from sparseopd.masks import Mask
from sparseopd.recipe import Recipe
from sparseopd.versions import versions


def record(
    run: RunDir,
    recipe: Recipe,
    *,
    kind: str,
    name: str,
    seconds: float,
    mask: Mask | None,
    adapter: dict[str, Any] | None = None,
    steps: int = 0,
    lr: float = 0.0,
    final: dict[str, Any] | None = None,
    notes: list[str] | None = None,
) -> None:
    """Write `run.json`, which marks the run as finished."""
    facts = RunFacts(
        kind=kind,
        name=name,
        student=recipe.student.path,
        teacher=", ".join(teacher.path for teacher in recipe.all_teachers().values()),
        steps=steps,
        lr=lr,
        seed=recipe.seed,
        seconds=seconds,
        mask=None if mask is None else describe(mask, run),
        adapter=adapter,
        final=final or {},
        notes=notes or [],
        versions=versions() | ({} if adapter is None else {"peft": version("peft")}),
    )
    run.write_facts(facts)


def describe(mask: Mask, run: RunDir) -> dict[str, Any]:
    """Return what `run.json` says of a mask that lies in the run's folder."""
    return {
        "file": run.mask.name,
        "k": mask.count(),
        "density": mask.density(),
        "selector": mask.provenance.selector,
        "digest": mask.digest(),
    }


def write_recipe(run: RunDir, recipe: Recipe) -> None:
    """Write the resolved recipe."""
    with written_whole(run.recipe) as temporary:
        temporary.write_text(recipe.to_yaml(), encoding="utf-8")
