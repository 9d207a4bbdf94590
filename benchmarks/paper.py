"""The paper's questions at laptop scale: recipes/tiny/paper.yaml, run whole, and what README says of it.

    python benchmarks/paper.py              runs it; writes results/paper.json (72 minutes on two busy cores)
    python benchmarks/paper.py --from DIR   keeps the results of a comparison that ended in DIR
    python benchmarks/paper.py --table      prints README's table from the committed results
    python benchmarks/paper.py --report DIR writes the report of the committed results
    python benchmarks/paper.py --answers    prints the tables of EXPERIMENTS.md from them

results/paper.json holds the comparison (sparseopd.results) with the date, the machine, and the seconds its
jobs took in all.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

from machine import described
from paper_answers import answers, table

from sparseopd.report import write_comparison
from sparseopd.results import Results

RECIPE = Path(__file__).parent.parent / "recipes" / "tiny" / "paper.yaml"
RESULTS = Path(__file__).parent / "results" / "paper.json"


def main() -> None:
    """Run the comparison, or show what the committed results say."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--from", dest="folder", type=Path)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--answers", action="store_true")
    parser.add_argument("--report", type=Path)
    given = parser.parse_args()
    if given.report:
        given.report.mkdir(parents=True, exist_ok=True)
        print(write_comparison(committed(), given.report))
        return
    if not given.table and not given.answers:
        if given.folder is not None:
            keep(given.folder)
        else:
            run()
    print(answers(committed()) if given.answers else table(committed()))


def run() -> None:
    """Run the recipe into a temporary folder, which is kept if that fails."""
    folder = Path(tempfile.mkdtemp(prefix="paper-"))
    command = [sys.executable, "-m", "sparseopd", "compare", str(RECIPE), "-o", str(folder)]
    print(" ".join(command), file=sys.stderr)
    subprocess.run(command, check=True)
    keep(folder)
    shutil.rmtree(folder)


def keep(folder: Path) -> None:
    """Write the committed file from a finished comparison's folder."""
    found = json.loads((folder / "comparison.json").read_text())
    found["command"] = "sparseopd compare recipes/tiny/paper.yaml -o paper"
    seconds = json.loads((folder / "times.json").read_text())
    kept = {
        "date": date.today().isoformat(),
        "machine": described(),
        "worker_seconds": round(sum(seconds.values())),
        "jobs": len(seconds),
        "comparison": rounded(found),
    }
    RESULTS.write_text(json.dumps(kept, separators=(",", ":")) + "\n")


def rounded(value: Any) -> Any:
    """Keep seven digits of every number, which is all that float32 weights can be behind."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return float(f"{value:.7g}") if isinstance(value, float) else value


def committed() -> Results:
    """Return the committed comparison."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "comparison.json"
        file.write_text(json.dumps(json.loads(RESULTS.read_text())["comparison"]))
        return Results.load(file)


if __name__ == "__main__":
    main()
