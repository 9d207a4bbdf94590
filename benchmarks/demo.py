"""Does a mask found early keep full OPD's gain, and beat a random one? The demo over several seeds.

    python benchmarks/demo.py --seeds 3                 runs it; writes results/demo.json
    python benchmarks/demo.py --table                   prints README's table from that file
    python benchmarks/demo.py --pairs P --output FILE   other pairs, to another file

A seed fixes rollouts, data order and the random mask; the pairs themselves are the bundled ones.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

from machine import described

from sparseopd.artifacts import Scores
from sparseopd.console import live_progress, quiet_libraries

RESULTS = Path(__file__).parent / "results" / "demo.json"
PAIRS = ("tiny-arithmetic", "tiny-digits", "tiny-arithmetic-sibling")


def main() -> None:
    """Run the seeds, or print the table of the committed results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--pairs", nargs="+", default=PAIRS)
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    if not given.table:
        found = measure(given.pairs, given.seeds)
        given.output.write_text(json.dumps(found, indent=1) + "\n")
    print(table(json.loads(given.output.read_text())))


def measure(pairs: list[str], seeds: int) -> dict[str, Any]:
    """Run every pair with every seed, one after the other."""
    quiet_libraries()
    from sparseopd.demo import run_demo

    runs = []
    for seed in range(seeds):
        for pair in pairs:
            started = time.monotonic()
            with tempfile.TemporaryDirectory() as folder, live_progress() as progress:
                [scores] = run_demo(
                    Path(folder) / "demo", pairs=[pair], seed=seed, progress=progress
                )
            seconds = time.monotonic() - started
            runs.append({"pair": pair, "seed": seed, "seconds": seconds, "arms": summary(scores)})
    return {
        "date": date.today().isoformat(),
        "machine": described(),
        "settings": scores.settings,
        "runs": runs,
    }


def summary(scores: Scores) -> list[dict[str, Any]]:
    """Keep each arm's figures; prompts, curves and completions stay out of the committed file."""
    kept = (
        "name",
        "kind",
        "accuracy",
        "gain",
        "gain_kept",
        "kl",
        "agreement",
        "density",
        "lr",
        "steps",
        "seconds",
    )
    return [{key: _plain(getattr(arm, key)) for key in kept} for arm in scores.arms]


def table(results: dict[str, Any]) -> str:
    """Write the markdown table: mean over seeds, and each seed's share of full OPD's gain."""
    seeds = len({run["seed"] for run in results["runs"]})
    lines = [
        f"Mean accuracy over {seeds} seeds (share of full OPD's gain, a figure for each seed).",
        "",
        "| pair | source | full OPD | discovered mask, 10 % | random mask, 10 % | teacher |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for pair in dict.fromkeys(run["pair"] for run in results["runs"]):
        runs = [run["arms"] for run in results["runs"] if run["pair"] == pair]
        cells = [_cell([arms[index] for arms in runs]) for index in range(4)]
        teachers = [_cell([arms[index] for arms in runs]) for index in range(4, len(runs[0]))]
        cells.append(" and ".join(teachers))
        lines.append(f"| {pair} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(arms: list[dict[str, Any]]) -> str:
    mean = 100 * statistics.fmean(arm["accuracy"]["mean"] for arm in arms)
    kept = [
        arm["gain_kept"]["mean"] for arm in arms if arm["kind"] == "masked" and arm["gain_kept"]
    ]
    shares = ", ".join(f"{100 * share:.0f}" for share in kept)
    return f"{mean:.1f} ({shares})" if kept else f"{mean:.1f}"


def _plain(value: Any) -> Any:
    return vars(value) if hasattr(value, "__dataclass_fields__") else value


if __name__ == "__main__":
    main()
