"""What do the tests of `sparseopd compare` find on simulated graders, and what do they invent?

    python benchmarks/comparison_power.py            writes results/comparison_power.json (3 minutes)
    python benchmarks/comparison_power.py --table    prints the table of the committed results

Two arms, of one accuracy (A/A) or five points apart, on the same prompts with the same seeds; graders are
those of sparseopd/evaluation/simulated.py.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from datetime import date
from itertools import product
from pathlib import Path
from typing import Any

from machine import described
from scipy.stats import binomtest

from sparseopd.evaluation import inference
from sparseopd.evaluation.inference import Finding, different, equivalent, superior
from sparseopd.evaluation.simulated import Grader, rate

RESULTS = Path(__file__).parent / "results" / "comparison_power.json"
LUCK = {"none": 0.0, "half a point": 0.05, "a point": 0.1, "two points": 0.2}
"""Of one run against another of the same arm: spreads of logits, in words of accuracy."""
LIFT = 0.05


def main() -> None:
    """Simulate, or print the table of the committed results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--comparisons", type=int, default=1000)
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    if not given.table:
        RESULTS.write_text(json.dumps(simulate(given.comparisons), indent=1) + "\n")
    print(table(json.loads(RESULTS.read_text())))


def simulate(comparisons: int) -> dict[str, Any]:
    """Count findings for every number of seeds and prompts and every luck."""
    estimate = inference.estimate
    inference.estimate = lambda values: estimate(values, resamples=2)  # intervals decide nothing
    rows = []
    for seeds, prompts, luck in product((2, 3, 5), (256, 512), LUCK):
        grader = Grader(seeds=seeds, prompts=prompts, luck=LUCK[luck])
        talented = Grader(seeds=seeds, prompts=prompts, luck=LUCK[luck], talent=1.0)
        asked: dict[str, tuple[Callable[..., Finding], Grader, float]] = {
            "same": (different, grader, 0.0),
            "same, each better at other prompts": (different, talented, 0.0),
            "5 points apart": (superior, grader, LIFT),
            "equivalent within 3, same": (_within, grader, 0.0),
            "equivalent within 3, 5 apart": (_within, grader, LIFT),
        }
        found = {
            name: _rate(test, one, lift, comparisons) for name, (test, one, lift) in asked.items()
        }
        rows.append({"seeds": seeds, "prompts": prompts, "luck": luck, "found": found})
    return {
        "date": date.today().isoformat(),
        "machine": described(),
        "comparisons": comparisons,
        "grader": vars(Grader()),
        "rows": rows,
    }


def table(results: dict[str, Any]) -> str:
    """Write the share of comparisons with a finding, in percent, with its interval."""
    names = list(results["rows"][0]["found"])
    head = ["seeds", "prompts", "luck of a run", *names]
    lines = ["| " + " | ".join(head) + " |", "| --- " * len(head) + "|"]
    for row in results["rows"]:
        cells = [
            f"{100 * one['rate']:.1f} ({100 * one['low']:.1f}–{100 * one['high']:.1f})"
            for one in row["found"].values()
        ]
        lines.append(
            f"| {row['seeds']} | {row['prompts']} | {row['luck']} | " + " | ".join(cells) + " |"
        )
    return "\n".join(lines)


def _within(a: Any, b: Any) -> Finding:
    return equivalent(a, b, 0.03)


def _rate(
    test: Callable[..., Finding], grader: Grader, lift: float, comparisons: int
) -> dict[str, float]:
    share = rate(test, grader, lift=lift, comparisons=comparisons)
    interval = binomtest(round(share * comparisons), comparisons).proportion_ci()
    return {"rate": share, "low": interval.low, "high": interval.high}


if __name__ == "__main__":
    main()
