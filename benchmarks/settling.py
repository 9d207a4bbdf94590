"""How early does discovery find its final mask, and does another seed find the same one?

    python benchmarks/settling.py --seeds 3        runs it; writes results/settling.json (6 minutes)
    python benchmarks/settling.py --table          prints the tables of that file

One discovery run a pair and seed, as long as a full run, keeps its mask after several steps. Each is
compared with the last one, and the last ones of different seeds with each other, beside a null that
draws the other mask anew within every |W| quantile of every tensor.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from datetime import date
from itertools import combinations
from pathlib import Path
from typing import Any

from machine import described

from sparseopd import recipe as recipes
from sparseopd.artifacts import RunDir
from sparseopd.console import live_progress, quiet_libraries
from sparseopd.masks import Mask
from sparseopd.masks.overlap import Overlap, overlaps, together
from sparseopd.pairs import open_tensors

RESULTS = Path(__file__).parent / "results" / "settling.json"
PAIRS = ("tiny-arithmetic", "tiny-digits", "tiny-arithmetic-sibling")
STEPS = (2, 5, 10, 20, 30, 60, 120)


def main() -> None:
    """Run the seeds, or print the tables of the committed results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    quiet_libraries()
    if not given.table:
        with tempfile.TemporaryDirectory() as folder:
            rows = [measure(pair, given.seeds, Path(folder)) for pair in PAIRS]
        results = {
            "date": date.today().isoformat(),
            "machine": described(),
            "density": 0.1,
            "pairs": rows,
        }
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    print(table(json.loads(RESULTS.read_text())))


def measure(pair: str, seeds: int, folder: Path) -> dict[str, Any]:
    """Discover once a seed, and compare what was kept."""
    runs = [_discover(pair, seed, folder / f"{pair}-{seed}") for seed in range(seeds)]
    early = [
        {"step": step, "seed": seed, **_compare(run.snapshot(step), run.snapshot(STEPS[-1]), pair)}
        for seed, run in enumerate(runs)
        for step in STEPS[:-1]
    ]
    last = [run.snapshot(STEPS[-1]) for run in runs]
    between = [
        {"seeds": [one, other], **_compare(last[one], last[other], pair)}
        for one, other in combinations(range(seeds), 2)
    ]
    return {"pair": pair, "early": early, "between_seeds": between}


def table(results: dict[str, Any]) -> str:
    """Write the markdown tables: coverage of the mask so far by the last one, mean over seeds."""
    pairs = results["pairs"]
    seeds = 1 + max(row["seed"] for row in pairs[0]["early"])
    lines = [
        f"Share of the mask after so many steps that the mask after {STEPS[-1]} has, in percent: mean "
        f"over {seeds} seeds (its |W|-matched null).",
        "",
        "| steps | " + " | ".join(pair["pair"] for pair in pairs) + " |",
        "| --- |" + " --- |" * len(pairs),
    ]
    for step in STEPS[:-1]:
        cells = [_cell([row for row in pair["early"] if row["step"] == step]) for pair in pairs]
        lines.append(f"| {step} | " + " | ".join(cells) + " |")
    cells = [_cell(pair["between_seeds"]) for pair in pairs]
    lines.append(f"| {STEPS[-1]}, of another seed | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(rows: list[dict[str, Any]]) -> str:
    shares = [100 * sum(row[name] for row in rows) / len(rows) for name in ("coverage", "null")]
    return f"{shares[0]:.1f} ({shares[1]:.1f})"


def _discover(pair: str, seed: int, folder: Path) -> RunDir:
    from sparseopd.distill import discover

    settings = [f"seed={seed}", f"discover.steps={STEPS[-1]}", f"discover.snapshots={list(STEPS)}"]
    with live_progress() as progress:
        return discover(recipes.load(recipes.find(pair), settings), folder, progress=progress)


def _compare(one: Path, other: Path, pair: str) -> dict[str, Any]:
    [rows] = overlaps(
        [Mask.load(one), Mask.load(other)], open_tensors(f"bundled:{pair}/student")
    ).values()
    overlap: Overlap = together(rows)
    names = ("jaccard", "coverage", "chance", "null", "deviations")
    return {name: getattr(overlap, name) for name in names}


if __name__ == "__main__":
    main()
