"""README shows what the committed results say, to the letter."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_results_table_of_readme_is_printed_from_the_committed_comparison() -> None:
    ran = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "paper.py", "--table"],
        capture_output=True,
        text=True,
        check=True,
    )
    table = ran.stdout.strip()
    assert table.count("\n") == 5  # two lines of headings, four pairs
    assert table in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_tables_of_experiments_are_printed_from_it_too() -> None:
    ran = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "paper.py", "--answers"],
        capture_output=True,
        text=True,
        check=True,
    )
    written = (ROOT / "EXPERIMENTS.md").read_text(encoding="utf-8")
    parts = ran.stdout.strip().split("\n\n")
    assert len(parts) > 8
    for part in parts:
        assert part in written, part.splitlines()[0]
