"""Does a figure differ from its nulls? A test over matrices, with correction for many figures.

In each matrix the observed figure is set against its draws by a t test of its own (D - 1 degrees of
freedom), on a scale where its spread is even: arcsine roots of shares, cube roots of the rest, which
makes squares of normal numbers nearly normal (Wilson and Hilferty 1931). The p of all matrices are then
joined as normal deviates (Stouffer), so that a few draws of each are enough, and no matrix is assumed to
stray as far as another. Their weighted mean is set against its draws likewise (Welch), since a few matrices
may move it alone; the smaller p counts, doubled. Small differences that are significant for the sheer number of coordinates are not
called differences: they must also be `MATERIAL`. The whole model is judged by every figure, each module
by the main ones, so that structure in a few of them is not lost in the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from scipy.special import ndtr, ndtri, stdtr

from sparseopd.analysis.nulls import KINDS

SIGNIFICANT = 0.01
"""Of all figures together (Holm 1979)."""
MATERIAL = 0.05
"""Least difference, as a share of the null's figure; of what is nearer, 0 or 1, for shares."""
TRACE = {"share_": 1e-2, "coverage_": 1e-3}
"""Least difference of shares of all coordinates: a point; of those that moved: a tenth of one."""
SPARSITY = ("share_zero", "share_le_", "share_lt_", "share_unchanged_", "coordinate_energy_")
SPECTRUM = (
    "stable_rank",
    "entropy_effective_rank",
    "numerical_rank_",
    "svd_energy_",
    "spectral_norm",
)
GEOMETRY = (
    "projection_energy_",
    "subspace_rotation_",
    "principal_angle_",
    "spectral_drift",
    "coverage_",
)
ROUNDING = 1e-6
"""Least difference of other shares: all energy in as many directions as there are is all of it, or nearly."""
COUNTED = tuple(TRACE)
"""Shares of coordinates, counted one by one."""
FARTHEST = 30.0
"""Deviates beyond which p has no more digits."""
FAMILIES = {"sparsity": SPARSITY, "spectrum": SPECTRUM, "geometry": GEOMETRY}

MAIN = (
    *("share_zero", "share_le_1e-5", "share_le_1e-4", "coordinate_energy_top_1pct"),
    *("stable_rank", "svd_energy_top1", "svd_energy_top16"),
    *("projection_energy_10pct", "coverage_principal_10pct_alpha_0"),
    "coverage_low_magnitude_10pct_alpha_0",
)
"""Figures that modules are judged by."""

Row = dict[str, Any]
Verdict = dict[str, Any]


def family_of(figure: str) -> str | None:
    """Return "sparsity", "spectrum" or "geometry"; None for norms, which the nulls share by design."""
    return next((name for name, starts in FAMILIES.items() if figure.startswith(starts)), None)


def verdicts(
    rows: Sequence[Row], whole: dict[str, Any], modules: dict[str, dict[str, Any]]
) -> tuple[dict[str, Verdict], dict[str, dict[str, Verdict]]]:
    """Judge the whole model by every figure that has nulls, and each module by `MAIN`.

    A verdict is {"family", "whole": what `whole` calls the figure, "observed", "structure": bool, and for
    each null {"mean", "sd", "z", "p": corrected, "differs": bool}}. `structure` is what rounding cannot
    explain: a difference in the same direction from both nulls; of sparsity from the gaussian one alone,
    unless values before rounding are shuffled, since shuffling keeps them.
    """
    judged = [row for row in rows if row["planar"]] or list(rows)
    names = dict.fromkeys(name for row in judged for name in row["observed"] if family_of(name))
    of_whole = _judged(names, judged, whole)
    of_modules = {
        module: _judged(MAIN, [row for row in judged if row["module"] == module], sides)
        for module, sides in modules.items()
    }
    every = [*of_whole.items(), *(item for found in of_modules.values() for item in found.items())]
    _correct([seen[kind] for _, seen in every for kind in KINDS])
    for name, seen in every:
        _conclude(name, seen, whole["master"] is not None)
    return of_whole, {module: found for module, found in of_modules.items() if found}


def difference(
    observed: np.ndarray, drawn: np.ndarray, least: np.ndarray | float = 0.0
) -> tuple[float, float]:
    """Return z and its two-sided p that observed (N,) is of the making of the draws (N, D).

    `least` (N,) is how far draws stray at least, where that is known. Without it, draws that are all equal
    say no more of another value than that it lies beyond D others. p is 1 for less than two draws.
    """
    draws = drawn.shape[1]
    if draws < 2:
        return 0.0, 1.0
    apart = observed - drawn.mean(1)
    stray = np.maximum(drawn.std(1, ddof=1), least)
    beyond = np.full(len(apart), 1 / (draws + 1))
    tested = stray > 0
    t = np.abs(apart[tested]) / (stray[tested] * (1 + 1 / draws) ** 0.5)
    beyond[tested] = stdtr(draws - 1, -t)
    told = tested | (apart != 0)
    if not told.any():
        return 0.0, 1.0
    deviates = np.sign(apart) * np.minimum(-ndtri(beyond), FARTHEST)
    z = float(deviates[told].sum() / told.sum() ** 0.5)
    return z, float(2 * ndtr(-abs(z)))


def even(name: str, values: np.ndarray) -> np.ndarray:
    """Return a figure's values (…) on a scale where they stray evenly."""
    if name.startswith(COUNTED):
        return np.arcsin(np.sqrt(np.clip(values, 0, 1)))
    return values if name.startswith("numerical_rank_") else np.cbrt(values)


def least_stray(name: str, row: Row) -> float:
    """Return how far an even figure of a row strays at least: what it is counted in allows no less."""
    if name.startswith("numerical_rank_"):
        return 0.5
    if not name.startswith(COUNTED):
        return 0.0
    counted = row["numel"]
    if name.startswith("coverage_"):
        alone = "share_zero" if name.endswith("alpha_0") else "share_le_1e-5_exact"
        counted *= 1 - (row["observed"].get(alone) or 0.0)
    return 0.5 / max(1.0, counted) ** 0.5


def _judged(names: Iterable[str], rows: Sequence[Row], sides: dict[str, Any]) -> dict[str, Verdict]:
    found = {name: _seen(name, rows, sides) for name in names}
    return {name: seen for name, seen in found.items() if seen is not None}


def _seen(name: str, rows: Sequence[Row], sides: dict[str, Any]) -> Verdict | None:
    shown = _whole_name(name)
    observed = sides["observed"].get(shown)
    if observed is None or any(shown not in sides[kind] for kind in KINDS):
        return None
    seen: Verdict = {"family": family_of(name), "whole": shown, "observed": observed}
    for kind in KINDS:
        null = sides[kind][shown]
        seen[kind] = {**null, **_tested(name, rows, kind, observed - null["mean"])}
    return seen


def _tested(name: str, rows: Sequence[Row], kind: str, apart: float) -> dict[str, float]:
    """z over matrices, and the smaller of both p, doubled; a test that points elsewhere does not count.

    `apart` is how far the figure of all lies from the null: most may point one way, and it the other.
    """
    known = [
        row
        for row in rows
        if row["observed"].get(name) is not None and None not in row[kind].get(name, [None])
    ]
    if not known:
        return {"z": 0.0, "p": 1.0}
    observed = np.array([row["observed"][name] for row in known])
    drawn = np.array([row[kind][name] for row in known])
    least = np.array([least_stray(name, row) for row in known])
    z, p = difference(even(name, observed), even(name, drawn), least)
    weights = np.array([_weight(name, row) for row in known], dtype=np.float64)
    tests = ((z, p), weighted_difference(observed, drawn, weights))
    return {"z": z, "p": min([1.0, *(2 * p for z, p in tests if z * apart > 0)])}


def weighted_difference(
    observed: np.ndarray, drawn: np.ndarray, weights: np.ndarray
) -> tuple[float, float]:
    """Return t and the two-sided p of Σw(observed - drawn) over parts (N,), each with its own spread.

    Few parts may move a mean that most leave alone. Degrees of freedom after Welch and Satterthwaite.
    """
    draws = drawn.shape[1]
    if draws < 2:
        return 0.0, 1.0
    variances = np.square(weights) * drawn.var(1, ddof=1) * (1 + 1 / draws)
    total = float(variances.sum())
    if not total:
        return 0.0, 1.0
    freedom = total**2 * (draws - 1) / float(np.square(variances).sum())
    t = float((weights * (observed - drawn.mean(1))).sum()) / total**0.5
    return t, float(2 * stdtr(freedom, -abs(t)))


def _weight(name: str, row: Row) -> float:
    """What a part counts for in the mean of all: its coordinates, or of energies its own energy."""
    return row["observed"]["delta_fro"] ** 2 if name.startswith("coordinate_") else row["numel"]


def _conclude(name: str, seen: Verdict, exact: bool) -> None:
    for kind in KINDS:
        null = seen[kind]
        material = _material(name, seen["observed"], null["mean"])
        null["differs"] = null["p"] < SIGNIFICANT and material
    seen["structure"] = _structure(seen, exact)


def _whole_name(name: str) -> str:
    """Return what the whole model calls a part's figure."""
    if name.startswith("share_"):
        return name
    return f"{name}_pooled" if name.startswith("coordinate_energy_") else f"median_{name}"


def _correct(nulls: Sequence[dict[str, Any]]) -> None:
    """Multiply p by how many remain, from the smallest on, never less than the one before (Holm)."""
    worst = 0.0
    for place, null in enumerate(sorted(nulls, key=lambda null: null["p"])):
        worst = max(worst, min(1.0, null["p"] * (len(nulls) - place)))
        null["p"] = worst


def _material(name: str, observed: float, null: float) -> bool:
    scale, trace = abs(null), 0.0
    if name.startswith((*COUNTED, "coordinate_energy_", "svd_energy_", "projection_")):
        scale, trace = min(scale, abs(1 - null)), ROUNDING
    for start, least in TRACE.items():
        trace = least if name.startswith(start) else trace
    return abs(observed - null) > max(MATERIAL * scale, trace)


def _structure(seen: Verdict, exact: bool) -> bool:
    gaussian, shuffled = seen["gaussian"], seen["shuffled"]
    if seen["family"] == "sparsity" and not exact:
        return gaussian["differs"]
    same = (seen["observed"] - gaussian["mean"]) * (seen["observed"] - shuffled["mean"]) > 0
    return gaussian["differs"] and shuffled["differs"] and same
