"""What does each objective teach in the same number of steps? Every kind on two bundled pairs, in full.

    python benchmarks/objectives.py --seeds 3      runs it; writes results/objectives.json
    python benchmarks/objectives.py --table        prints EXPERIMENTS.md's table from that file

One recipe a pair, with objective.kind changed and nothing tuned: the learning rate is the one chosen for
reverse KL. `grpo` and `sampled-token` draw four completions of each prompt, the others one.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

from machine import described

from sparseopd.console import quiet_libraries

RESULTS = Path(__file__).parent / "results" / "objectives.json"
PAIRS = ("tiny-arithmetic-sibling", "tiny-digits")
KINDS = {
    "reverse-kl": [],
    "forward-kl": [],
    "jsd": [],
    "teacher-top-k": ["objective.k=8"],
    "student-top-k": ["objective.k=8"],
    "sampled-token": ["rollout.samples=4", "rollout.updates=4"],
    "offline-kd": [],
    "sft": [],
    "grpo": ["rollout.samples=4"],
}


def main() -> None:
    """Run every kind, or print the table of the committed results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    if not given.table:
        RESULTS.write_text(json.dumps(measure(given.seeds), indent=1) + "\n")
    print(table(json.loads(RESULTS.read_text())))


def measure(seeds: int) -> dict[str, Any]:
    """Train and evaluate every kind with every seed."""
    quiet_libraries()
    rows = []
    for pair in PAIRS:
        for seed in range(seeds):
            with tempfile.TemporaryDirectory() as folder:
                rows += run(pair, seed, Path(folder))
    return {
        "date": date.today().isoformat(),
        "machine": described(),
        "settings": KINDS,
        "rows": rows,
    }


def run(pair: str, seed: int, folder: Path) -> list[dict[str, Any]]:
    """Return each arm's accuracy, its KL to the teacher, and the seconds it took."""
    from sparseopd import recipe as recipes
    from sparseopd.distill import train
    from sparseopd.evaluation import arms_for, evaluate

    def silent(*_: Any, **__: Any) -> None:
        pass

    runs, seconds = [], {}
    for kind, settings in KINDS.items():
        words = [f"seed={seed}", f"objective.kind={kind}", *settings]
        recipe = recipes.load(recipes.find(pair), words)
        started = time.monotonic()
        runs.append(train(recipe, folder / kind, name=kind))
        seconds[kind] = time.monotonic() - started
        print(pair, seed, kind, f"{seconds[kind]:.0f} s", flush=True)
    plain = recipes.load(recipes.find(pair), [f"seed={seed}"])
    scores = evaluate(arms_for(runs, plain), plain, progress=silent)
    return [
        {
            "pair": pair,
            "seed": seed,
            "arm": arm.name,
            "accuracy": None if arm.accuracy is None else arm.accuracy.mean,
            "kl": None if arm.kl is None else arm.kl.mean,
            "seconds": seconds.get(arm.name),
        }
        for arm in scores.arms
    ]


def table(results: dict[str, Any]) -> str:
    """Return accuracy and KL as markdown: the mean over seeds, and the range."""
    pairs = list(dict.fromkeys(row["pair"] for row in results["rows"]))
    lines = [
        "| objective | " + " | ".join(f"{p}, accuracy | KL to the teacher" for p in pairs) + " |"
    ]
    lines.append("| --- |" + " --- | --- |" * len(pairs))
    for arm in dict.fromkeys(row["arm"] for row in results["rows"]):
        cells = []
        for pair in pairs:
            rows = [r for r in results["rows"] if (r["pair"], r["arm"]) == (pair, arm)]
            cells.append(spread([100 * row["accuracy"] for row in rows], ".1f"))
            cells.append(spread([row["kl"] for row in rows if row["kl"] is not None], ".3f"))
        lines.append(f"| {arm} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def spread(values: list[float], form: str) -> str:
    """Write a mean with its range; a dash for none."""
    if not values:
        return "–"
    mean = sum(values) / len(values)
    return f"{mean:{form}} ({min(values):{form}} to {max(values):{form}})"


if __name__ == "__main__":
    main()
