"""Does memory grow while a vision-language run goes on? Two epochs of tiny-digits, step by step.

    python benchmarks/memory_growth.py             measures; writes results/memory_growth.json
    python benchmarks/memory_growth.py --table     prints the figures from that file

Resident memory after every step, full and masked. Growth is the slope of a line through the second
epoch, with its 95 % interval; the first epoch fills caches.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

from machine import described, resident

from sparseopd.console import quiet_libraries

RESULTS = Path(__file__).parent / "results" / "memory_growth.json"
PAIR = "tiny-digits"


def main() -> None:
    """Measure, or print the figures of the committed results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--table", action="store_true")
    if not parser.parse_args().table:
        RESULTS.write_text(json.dumps(measure(), indent=1) + "\n")
    print(table(json.loads(RESULTS.read_text())))


def measure() -> dict[str, Any]:
    """Run two epochs, in full and at a random mask of a tenth."""
    quiet_libraries()
    from sparseopd import recipe as recipes
    from sparseopd.masks import select

    recipe = recipes.load(recipes.find(PAIR))
    mask = select(recipe.student.path, selector="random", density=0.1)
    return {
        "date": date.today().isoformat(),
        "machine": described(),
        "runs": [measured(PAIR, "full", None), measured(PAIR, "masked, 10 %", mask)],
    }


def measured(pair: str, name: str, mask: Any) -> dict[str, Any]:
    """Return the resident bytes after every step of two epochs."""
    from sparseopd import recipe as recipes
    from sparseopd.distill import train
    from sparseopd.tasks import load_prompts

    recipe = recipes.load(recipes.find(pair))
    epoch = len(load_prompts(recipe.data, chat=True).train) // recipe.train.batch_size
    recipe.train.steps = 2 * epoch
    seen: list[int] = []

    def progress(stage: str, done: int, total: int, unit: str = "", detail: str = "") -> None:
        if stage == "train":
            seen.append(resident("VmRSS"))

    with tempfile.TemporaryDirectory() as folder:
        train(recipe, Path(folder) / "run", mask=mask, progress=progress)
    return {"run": name, "steps_an_epoch": epoch, "resident": seen}


def table(results: dict[str, Any]) -> str:
    """Return the slopes as markdown."""
    from scipy.stats import linregress, t

    lines = [
        "| two epochs of tiny-digits | steps | after the first epoch | after the second | growth a step, 95 % |",
        "| --- | --- | --- | --- | --- |",
    ]
    for run in results["runs"]:
        later = run["resident"][run["steps_an_epoch"] :]
        line: Any = linregress(range(len(later)), later)
        width = float(t.ppf(0.975, len(later) - 2)) * line.stderr
        first, last = run["resident"][run["steps_an_epoch"] - 1], run["resident"][-1]
        lines.append(
            f"| {run['run']} | {len(run['resident'])} | {first / 1e6:.1f} MB | {last / 1e6:.1f} MB "
            f"| {(line.slope - width) / 1e3:.1f} to {(line.slope + width) / 1e3:.1f} kB |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
