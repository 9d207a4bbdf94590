"""Imports point one way, and the command line starts without torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "sparseopd"

LEVELS = [
    {"errors", "ranges", "singular"},
    {"selection"},
    {"settings"},
    {"recipe", "artifacts", "combinations", "versions"},
    {"results", "benchmark_scores"},
    {"pairs", "tasks"},
    {"masks"},
    {"optim", "analysis", "adapter_files"},
    {"overlays"},
    {"adapters"},
    {"distill", "evaluation", "report", "feasibility"},
    {"demo", "analyses", "adapter_requests", "adapter_conversion", "adapter_words"},
    {"console", "mask_options", "run_options", "adapter_options"},
    {"comparison"},
    {
        "mask_commands",
        "analysis_command",
        "adapter_commands",
        "comparison_command",
        "evaluate_command",
    },
    {"cli"},
    {"__main__"},
]
"""From the bottom up; a module may import from its own package and from lower levels."""

ALSO = {("recipe", "combinations"), ("combinations", "recipe"), ("tasks", "pairs")}
"""Imports within a level, or across, that are meant."""


def _level(name: str) -> int:
    return next(index for index, names in enumerate(LEVELS) if name in names)


def _imports() -> list[tuple[str, str]]:
    found = []
    for path in PACKAGE.rglob("*.py"):
        own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if own in ("__init__", "recipes"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sparseopd"):
                parts = (node.module or "").split(".")
                names = [parts[1]] if len(parts) > 1 else [alias.name for alias in node.names]
                found += [(own, name) for name in names]
    return found


@pytest.mark.parametrize("pair", sorted(set(_imports())))
def test_imports_point_down(pair: tuple[str, str]) -> None:
    own, other = pair
    assert own == other or pair in ALSO or _level(other) < _level(own), f"{own} imports {other}"


def test_every_package_has_a_level() -> None:
    names = {
        path.name.removesuffix(".py") for path in PACKAGE.iterdir() if path.name[0] not in "_."
    }
    assert names <= set().union(*LEVELS) | {"recipes"}


@pytest.mark.parametrize(
    "command",
    [
        ["-m", "sparseopd", "--help"],
        ["-m", "sparseopd", "mask", "select", "--help"],
        ["-c", "import sparseopd"],
        ["-m", "sparseopd", "train", "tiny-digits", "--dry-run", "-o", "x"],
        ["-m", "sparseopd", "check", "--help"],
    ],
)
def test_starts_without_torch(command: list[str]) -> None:
    ran = subprocess.run(
        [sys.executable, "-X", "importtime", *command], capture_output=True, text=True, check=True
    )
    imported = {line.rsplit("|", 1)[-1].strip() for line in ran.stderr.splitlines() if "|" in line}
    assert "sparseopd" in imported
    assert not imported & {"torch", "transformers", "trl", "matplotlib", "datasets"}
