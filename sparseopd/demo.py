"""`demo`: every stage on the bundled pairs, ending in one report.

For each pair: discover a mask in at most a quarter of the full run's steps; train full, the discovered
mask, and a random mask with as many coordinates in every tensor; evaluate all beside source and
teacher.

    OUT/PAIR/{discover,full,discovered,random}/   OUT/PAIR/scores.json   OUT/report.html
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sparseopd import recipe as recipes
from sparseopd.artifacts import Progress, RunDir, Scores, labelled
from sparseopd.distill import discover, train
from sparseopd.evaluation import arms_for, evaluate
from sparseopd.masks import Mask, select
from sparseopd.recipe import Recipe
from sparseopd.report import write_report

PAIRS = ("tiny-arithmetic", "tiny-digits")
WHOLE = "whole demo"
SAMPLE_WORTH = 0.008  # of a training step, as measured on the bundled pairs
RANDOM_SEED = 1  # the random mask's own seed, apart from the recipe's


def run_demo(
    output: Path,
    *,
    progress: Progress,
    pairs: Sequence[str] | None = None,
    seed: int = 0,
    steps: int | None = None,
) -> list[Scores]:
    """Run the demo into a new folder and return one `Scores` a pair.

    `steps` shortens the full run; discovery then gets a quarter of it.
    """
    folder = RunDir.unused(output)
    planned = plans(pairs, seed, steps)
    folder.create()
    whole = sum(_work(recipe) for recipe in planned.values())
    told = _with_whole(progress, whole)
    scores = []
    for pair, recipe in planned.items():
        runs = _train_arms(recipe, folder.path / pair, told)
        arms = arms_for(runs, recipe)
        scores.append(evaluate(arms, recipe, progress=labelled(told, pair) or told))
        scores[-1].save(folder.path / pair / "scores.json")
    progress(WHOLE, whole, whole)
    named = "".join(f" --pair {pair}" for pair in pairs or ())
    shortened = f" --steps {steps}" if steps else ""
    write_report(
        scores,
        folder.report,
        title="Sparse on-policy distillation, on bundled pairs",
        command=f"sparseopd demo{named} --seed {seed}{shortened}",
    )
    return scores


def plans(pairs: Sequence[str] | None, seed: int, steps: int | None) -> dict[str, Recipe]:
    """Return each pair's recipe, as the demo runs it."""
    return {pair: _recipe(pair, seed, steps) for pair in pairs or PAIRS}


def _train_arms(recipe: Recipe, folder: Path, progress: Progress | None) -> list[RunDir]:
    """Run discovery, the full arm, the discovered mask and its random match."""
    report = labelled(progress, recipe.name)
    found = discover(recipe, folder / "discover", progress=report)
    mask = Mask.load(found.mask)
    random = select(
        recipe.student.path, selector="random", like=mask, seed=recipe.seed + RANDOM_SEED
    )
    share = f"{100 * mask.density():.3g} %"
    return [
        train(recipe, folder / "full", name="full OPD", progress=labelled(report, "full")),
        train(
            recipe,
            folder / "discovered",
            mask=mask,
            name=f"discovered mask {share}",
            progress=labelled(report, "discovered mask"),
        ),
        train(
            recipe,
            folder / "random",
            mask=random,
            name=f"random mask {share}",
            progress=labelled(report, "random mask"),
        ),
    ]


def _recipe(pair: str, seed: int, steps: int | None) -> Recipe:
    settings = [f"seed={seed}"]
    if steps is not None:
        settings += [f"train.steps={steps}", f"discover.steps={max(1, steps // 4)}"]
    return recipes.load(recipes.find(pair), settings)


def _with_whole(progress: Progress, whole: int) -> Progress:
    """Also report the demo as a whole, in training steps and their worth in evaluation; not its end."""
    done_of: dict[str, float] = {}

    def report(stage: str, done: int, total: int, unit: str = "", detail: str = "") -> None:
        progress(stage, done, total, unit, detail)
        if not stage.endswith(": mask"):
            worth = SAMPLE_WORTH if stage.endswith((": sampling", ": scoring")) else 1.0
            done_of[stage] = done * worth
            progress(WHOLE, min(whole - 1, round(sum(done_of.values()))), whole)

    return report


def _work(recipe: Recipe) -> int:
    """Steps of the discovery and three training runs, samples of five arms, scores of four."""
    sampled = recipe.evaluate.prompts * recipe.evaluate.samples
    return recipe.discover.steps + 3 * recipe.train.steps + round(9 * sampled * SAMPLE_WORTH)
