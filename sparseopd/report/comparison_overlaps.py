"""Overlaps of a study, averaged over its seeds: what tables and figures show; CSVs have every pair."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from statistics import fmean

from sparseopd.results import OverlapRow

SHARES = ("coverage", "coverage_back", "chance", "chance_back", "null", "null_back", "jaccard")
_SEED = " (seed"


def mean_overlaps(rows: Sequence[OverlapRow]) -> list[OverlapRow]:
    """Return a row for every two runs and kind of set, with means over the seeds, in order of appearance.

    Seeds that are set beside each other are one pair: one seed and another.
    """
    groups: dict[tuple[str, str, str, str], list[OverlapRow]] = {}
    for row in rows:
        first, second = (name.partition(_SEED)[0] for name in (row.first, row.second))
        if row.question == "seeds":
            first, second = "one seed", "another"
        groups.setdefault((row.question, row.of, first, second), []).append(row)
    return [
        replace(
            own[0],
            first=first,
            second=second,
            **{name: _mean(getattr(row, name) for row in own) for name in SHARES},
        )
        for (_, _, first, second), own in groups.items()
    ]


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None
