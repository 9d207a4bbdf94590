"""Settings of a comparison: as rows of names and texts, and each arm's own as a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from sparseopd.report import words
from sparseopd.report.comparison_arms import grouped
from sparseopd.report.page_table import Cell, Line, PageTable
from sparseopd.report.templates import value_text
from sparseopd.report.words import MISSING
from sparseopd.results import ArmResult, Study

COLUMNS = (
    ("Kind", ""),
    ("Mask", "chosen by"),
    ("Found on", "where else"),
    ("Objective", ""),
    ("Optimizer", ""),
    ("k", "coordinates"),
    ("Discovery", "steps"),
    ("Training", "steps"),
    ("Other order", "of the data"),
    ("lr tried", "lowest to highest"),
)
NOTE = "Densities and best learning rates stand in the tables of scores."


def setting_rows(settings: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    """Yield every setting as (name, text); those of a table within stand under "table: name"."""
    for key, value in settings.items():
        name = f"{before}{str(key).replace('_', ' ')}"
        if isinstance(value, Mapping) and value:
            yield from setting_rows(value, f"{name}: ")
        else:
            yield name, value_text(value)


def arms_table(study: Study) -> PageTable | None:
    """Make the table of what each arm was told to do; columns that no arm fills are left out."""
    rows = [(arm.name, _texts(arm)) for arms in grouped(study).values() for arm in arms]
    kept = [n for n in range(len(COLUMNS)) if any(texts[n] for _, texts in rows)]
    if not kept:
        return None
    lines = [Line(name, [Cell(texts[n] or MISSING) for n in kept]) for name, texts in rows]
    title = "What each arm was told to do"
    return PageTable(title, "Arm", [COLUMNS[n] for n in kept], lines, csv="arms.csv", note=NOTE)


def _texts(arm: ArmResult) -> list[str]:
    trained = arm.kind not in ("source", "teacher")
    rates = sorted({one.lr for one in arm.trials})
    ends = list(dict.fromkeys(words.rate(lr) for lr in (rates[0], rates[-1]))) if rates else []
    return [
        arm.kind,
        arm.chosen,
        arm.found_on,
        arm.method,
        arm.optimizer if trained else "",
        "" if arm.k is None else f"{arm.k:,}",
        _count(arm.discovery_steps),
        _count(arm.steps),
        "yes" if arm.reordered else "",
        f"{len(rates)}: {' to '.join(ends)}" if rates else "",
    ]


def _count(number: int | None) -> str:
    return "" if number is None else f"{number:,}"
