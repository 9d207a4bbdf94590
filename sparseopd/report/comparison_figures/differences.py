"""Differences of accuracy with their intervals: to full training, and to random masks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.figure import Figure

from sparseopd.report import words
from sparseopd.report.comparison_arms import against_full, against_random
from sparseopd.report.comparison_figures.rows import Row, draw_rows
from sparseopd.results import ArmResult, Study, Verdict

FULL_TITLE = "Accuracy minus full training’s"
RANDOM_TITLE = "Accuracy minus the random mask’s"
MARGINS = 8
"""How many margins from zero the axis goes at least, before what lies further becomes an arrow."""
Pair = tuple[ArmResult, Verdict]


def full_caption(study: Study) -> str:
    """Say what the band is, and what an arrow means."""
    margin = _margin(_pairs(study, "equivalence"))
    band = (
        ""
        if margin is None
        else (
            f" Shaded: the margin of ±{words.density(margin)} points within which an arm counts as equal."
        )
    )
    return f"In points, with intervals that no correction widens.{band}{_cut(study, 'equivalence')}"


def random_caption(study: Study) -> str:
    """Say which random mask each arm is set against."""
    return (
        "In points: each arm against the random mask of as many coordinates, both at their own best lr. "
        f"Right of the line, the choice of coordinates pays.{_cut(study, 'superiority')}"
    )


def draw_full(study: Study) -> Figure | None:
    """Draw every arm's difference to full training; None without a test."""
    pairs = _pairs(study, "equivalence")
    return _draw(pairs, against_full, _margin(pairs)) if pairs else None


def draw_random(study: Study) -> Figure | None:
    """Draw every tested arm's difference to its random mask; None without a test."""
    pairs = _pairs(study, "superiority")
    return _draw(pairs, against_random, None) if pairs else None


def describe_full(study: Study) -> str:
    """Count the verdicts, then say every difference."""
    return _describe(_pairs(study, "equivalence"), against_full, "full training")


def describe_random(study: Study) -> str:
    """Count the verdicts, then say every difference."""
    return _describe(_pairs(study, "superiority"), against_random, "random masks")


def _pairs(study: Study, field: str) -> list[Pair]:
    found = [(arm, getattr(arm, field)) for arm in study.arms]
    return [(arm, verdict) for arm, verdict in found if verdict is not None]


def _margin(pairs: Sequence[Pair]) -> float | None:
    return next((verdict.margin for _, verdict in pairs if verdict.margin is not None), None)


def _draw(pairs: Sequence[Pair], read: Callable[[Verdict], str], margin: float | None) -> Figure:
    rows = [Row(arm, verdict.difference, _text(verdict, read)) for arm, verdict in pairs]
    return draw_rows(rows, unit="", band=margin, zero=True, reach=_reach(pairs))


def _text(verdict: Verdict, read: Callable[[Verdict], str]) -> str:
    return f"{words.with_interval(verdict.difference, words.points)} {read(verdict)}"


def _reach(pairs: Sequence[Pair]) -> tuple[float, float]:
    """Return the ends of the axis: around most intervals, not around the few that ran away."""
    margin = _margin(pairs) or 0.01
    ends = np.array([(one.difference.low, one.difference.high) for _, one in pairs])
    # Half as far again as three quarters of the arms go: one collapsed arm must not flatten the rest.
    usual = 1.5 * float(np.quantile(np.abs(ends).max(axis=1), 0.75))
    reach = max(usual, MARGINS * margin)
    low, high = max(float(ends.min()), -reach), min(float(ends.max()), reach)
    room = 0.04 * max(high - low, 2 * margin)
    return min(low, -1.3 * margin) - room, max(high, 1.3 * margin) + room


def _cut(study: Study, field: str) -> str:
    pairs = _pairs(study, field)
    low, high = _reach(pairs)
    beyond = any(not low <= one.difference.mean <= high for _, one in pairs)
    return " An arrow: further than the axis goes." if beyond else ""


def _describe(pairs: Sequence[Pair], read: Callable[[Verdict], str], against: str) -> str:
    readings = [read(verdict) for _, verdict in pairs]
    counts = ", ".join(f"{readings.count(one)} {one}" for one in dict.fromkeys(readings))
    listed = "; ".join(f"{words.clean(arm.name)} {_text(verdict, read)}" for arm, verdict in pairs)
    return f"Accuracy of {len(pairs)} arms minus that of {against}: {counts}. In points: {listed}."
