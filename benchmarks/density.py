"""How many coordinates, at which learning rate, keep full OPD's gain on the hard pair?

    python benchmarks/density.py --seeds 3          runs the grid; writes results/density.json
    python benchmarks/density.py --table            prints EXPERIMENTS' table from that file

For each seed one discovery and one full run; for each density a mask from that discovery and a random
mask with as many coordinates in every tensor, each at every learning rate.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

from machine import described

from sparseopd import recipe as recipes
from sparseopd.artifacts import Scores
from sparseopd.console import live_progress, quiet_libraries

RESULTS = Path(__file__).parent / "results" / "density.json"
PAIR = "tiny-arithmetic-sibling"


def main() -> None:
    """Run the grid, or print the table of the committed results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--densities", type=float, nargs="+", default=[0.01, 0.1, 0.3, 0.5])
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-3, 2e-3])
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    if not given.table:
        quiet_libraries()
        rows = [
            row
            for seed in range(given.seeds)
            for row in measure(seed, given.densities, given.rates)
        ]
        machine = described()
        found = {"date": date.today().isoformat(), "machine": machine, "pair": PAIR, "rows": rows}
        RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    print(table(json.loads(RESULTS.read_text())["rows"]))


def measure(seed: int, densities: list[float], rates: list[float]) -> Iterator[dict[str, Any]]:
    """Train and score every arm of one seed; yield a row an arm."""
    from sparseopd.distill import train
    from sparseopd.evaluation import arms_for, evaluate

    recipe = recipes.load(recipes.find(PAIR), [f"seed={seed}"])
    with tempfile.TemporaryDirectory() as name, live_progress() as progress:
        folder = Path(name)
        runs = [train(recipe, folder / "full", name="full", progress=progress)]
        for rate in rates:  # the full arm's own learning rate is not tuned in the recipe either
            faster = recipes.load(recipes.find(PAIR), [f"seed={seed}", f"optimizer.lr={rate}"])
            runs.append(train(faster, folder / f"full-{rate:g}", name=f"full 1 {rate:g}"))
        for density, kind, mask in masks(recipe, folder, densities):
            for rate in rates:
                recipe.optimizer.masked_lr = rate
                arm = f"{kind} {density:g} {rate:g}"
                runs.append(train(recipe, folder / arm.replace(" ", "-"), mask=mask, name=arm))
        scores: Scores = evaluate(arms_for(runs, recipe, teacher=False), recipe, progress=progress)
    for arm in scores.arms:
        kind, density, rate = [*arm.name.split(), "", ""][:3]
        figures = {
            "accuracy": vars(arm.accuracy),
            "gain_kept": vars(arm.gain_kept) if arm.gain_kept else None,
        }
        yield {"seed": seed, "kind": kind, "density": density, "lr": rate, **figures}


def masks(
    recipe: recipes.Recipe, folder: Path, densities: list[float]
) -> Iterator[tuple[float, str, Any]]:
    """Yield the discovered and the matching random mask of each density."""
    from sparseopd.distill import discover
    from sparseopd.masks import Mask, select

    for density in densities:
        recipe.discover.density = density
        found = Mask.load(discover(recipe, folder / f"discover-{density:g}").mask)
        yield density, "discovered", found
        seed = recipe.seed + 1
        yield (
            density,
            "random",
            select(recipe.student.path, selector="random", like=found, seed=seed),
        )


def table(rows: list[dict[str, Any]]) -> str:
    """Write the markdown table: share of full OPD's gain, mean and range over seeds."""
    kinds = ("full", "discovered", "random")
    lines = ["| density | lr | full | discovered | random |", "| --- | --- | --- | --- | --- |"]
    cells = dict.fromkeys((row["density"], row["lr"]) for row in rows if row["density"])
    for density, rate in cells:
        kept = " | ".join(_kept(rows, kind, density, rate) for kind in kinds)
        lines.append(f"| {100 * float(density):g} % | {rate} | {kept} |")
    return "\n".join(lines)


def _kept(rows: list[dict[str, Any]], kind: str, density: str, rate: str) -> str:
    wanted = (kind, density, rate)
    found = [row["gain_kept"] for row in rows if (row["kind"], row["density"], row["lr"]) == wanted]
    shares = [100 * share["mean"] for share in found if share]
    return (
        f"{statistics.fmean(shares):.0f} % ({min(shares):.0f} to {max(shares):.0f})"
        if shares
        else "–"
    )


if __name__ == "__main__":
    main()
