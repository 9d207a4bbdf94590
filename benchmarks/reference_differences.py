"""How far is MaskedOptimizer's AdamW from optax's and Keras's after many steps?

    python benchmarks/reference_differences.py           writes results/reference_differences.json (seconds)
    python benchmarks/reference_differences.py --table   prints the table of that file

The trajectories are those of `reference_adamw.py`, the comparison that of tests/optim/test_reference.py:
the worst coordinate, relative to the largest magnitude it has had so far.
"""

from __future__ import annotations

import argparse
import json
import sys
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

# The problem and the stored trajectories lie with the tests, which nothing installs.
sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.optim import reference
from tests.optim.reference import DENSITIES, SETTINGS, STORED
from tests.optim.test_reference import LIBRARIES, PRECISIONS, ours, theirs

RESULTS = Path(__file__).parent / "results" / "reference_differences.json"
SHOWN = (50, 100, 200)


def main() -> None:
    """Compare, or print the committed results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--table", action="store_true")
    if not parser.parse_args().table:
        cases = list(product(SETTINGS, DENSITIES, LIBRARIES, PRECISIONS))
        rows = [{"case": list(case), "worst": worst(*case)} for case in cases]
        RESULTS.write_text(json.dumps(rows, indent=1) + "\n")
    print(table(json.loads(RESULTS.read_text())))


def worst(setting: str, kind: str, library: str, precision: str) -> dict[int, float]:
    """Return the largest relative difference of any coordinate after each stored step."""
    found, expected = ours(setting, kind), theirs(setting, kind, library, precision)
    by_tensor = [
        np.abs(found[name] - expected[name]) / reference.magnitudes(name, expected[name])
        for name in expected
    ]
    return {
        step: max(float(tensor[place].max()) for tensor in by_tensor)
        for place, step in enumerate(STORED)
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Write the Markdown table."""
    lines = [
        "| settings | mask | library | " + " | ".join(f"step {step}" for step in SHOWN) + " |",
        "| --- |" + " --- |" * (2 + len(SHOWN)),
    ]
    for row in rows:
        setting, kind, library, precision = row["case"]
        figures = (f"{row['worst'][str(step)]:.1e}" for step in SHOWN)
        lines.append(f"| {setting} | {kind} | {library} {precision} | {' | '.join(figures)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
