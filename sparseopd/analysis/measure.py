"""All figures of one part: observed, before rounding where that is known, and under every null."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from sparseopd.analysis.geometry import Landmarks, geometry, landmarks
from sparseopd.analysis.nulls import KINDS, Known, draws
from sparseopd.analysis.parts import Part
from sparseopd.analysis.pooled import Pooled, joint, pool
from sparseopd.analysis.settings import AnalysisSettings
from sparseopd.analysis.sparsity import sparsity
from sparseopd.analysis.spectrum import spectrum
from sparseopd.analysis.values import Values, compare, compared_dtype, rounded_to
from sparseopd.errors import AnalysisError
from sparseopd.pairs.tensors import Tensors
from sparseopd.singular import Singular, decompose

Figures = dict[str, float | None]
CURVE = tuple(10 ** (exponent / 10) for exponent in range(-30, 1))
"""Ranks at which spectra are kept, as shares of min(d)."""


@dataclass(frozen=True)
class Sides:
    """The checkpoints an analysis reads."""

    base: Tensors
    tuned: Tensors
    master: Tensors | None = None
    """Δ's side before rounding, where it is known."""


@dataclass(frozen=True)
class Measured:
    """What one part has to say."""

    row: dict[str, Any]
    """JSON: what the part is, and its figures, as `Analysis.tensors` describes."""
    pooled: dict[str, list[Pooled]]
    """By side, one a draw: "observed", "master", "shuffled", "gaussian"."""
    joint: dict[str, Tensor]
    """|W| against |Δ|: "observed", and the first draw of "gaussian"."""


@dataclass(frozen=True)
class _Found:
    """One update's figures."""

    figures: Figures
    curve: list[float | None]
    pooled: Pooled


def measure(part: Part, sides: Sides, settings: AnalysisSettings) -> Measured:
    """Measure a part, whose weights are finite."""
    before, after, master = _read(part, sides, settings.device)
    dtype = dtype_of(before.dtype, after.dtype, settings)
    values = compare(before, after, dtype)
    if not bool(torch.isfinite(values.change).all()):
        raise AnalysisError(
            f"the change of {part.name} is too large for {str(dtype)[6:]}: compare in float32 (--dtype)"
        )
    marks = landmarks(values.before, settings.seed) if part.is_matrix else None
    found = {"observed": [_find(values, marks, settings)]}
    stored = rounded_to(before, after, dtype)
    wide = _own_master(after, values) if master is None else master
    exact = None if wide is None else compare(before.float(), wide.float(), torch.float32)
    if exact is not None:
        own = marks if torch.equal(exact.before, values.before) else None
        own = own or (landmarks(exact.before, settings.seed) if part.is_matrix else None)
        found["master"] = [_find(exact, own, settings)]
    joints = {"observed": joint(values)}
    source = exact or values
    free = exact is not None or stored.itemsize > 2  # of rounding that nobody can see through
    weight = values.before if before.dtype == dtype else before.float()
    known = Known(weight, values, source.change, source.norm, stored, free)
    for kind in KINDS:
        found[kind] = []
        for number, drawn in enumerate(_drawn(kind, part, known, values, settings)):
            found[kind].append(_find(drawn, marks, settings))
            if kind == "gaussian" and number == 0:
                joints[kind] = joint(drawn)
    row = _described(part, (before, after, master), dtype) | {
        side: _row(side, of) for side, of in found.items()
    }
    row["curve"] = {side: _mean([one.curve for one in of]) for side, of in found.items() if of}
    return Measured(row, {side: [one.pooled for one in of] for side, of in found.items()}, joints)


def _read(part: Part, sides: Sides, device: str) -> tuple[Tensor, Tensor, Tensor | None]:
    master = None if sides.master is None else part.read(sides.master).to(device)
    return part.read(sides.base).to(device), part.read(sides.tuned).to(device), master


def dtype_of(before: torch.dtype, after: torch.dtype, settings: AnalysisSettings) -> torch.dtype:
    """Return what a part is compared in, from what both sides are stored in."""
    if settings.dtype is not None:
        return getattr(torch, settings.dtype)
    return compared_dtype(before, after)


def _own_master(after: Tensor, values: Values) -> Tensor | None:
    """The tuned weights, if they are stored wider than they are compared in and were not rounded before."""
    if after.dtype.itemsize <= values.dtype.itemsize:
        return None
    rounded = torch.equal(after.to(values.dtype).to(after.dtype), after)
    return None if rounded and values.energy else after


def _drawn(kind: str, part: Part, known: Known, values: Values, settings: AnalysisSettings) -> Any:
    count = settings.draws or 0
    if known.norm:
        return draws(kind, part.name, known, count, settings.seed)
    return [values] * count  # nothing moved: any null is the same nothing


def _find(values: Values, marks: Landmarks | None, settings: AnalysisSettings) -> _Found:
    values = replace(values)  # what is computed once of it is not held for longer than this
    figures, curve = sparsity(values), []
    if marks is not None:
        singular = _spectrum_of(values, settings)
        figures |= spectrum(values, singular) | geometry(values, marks, settings.seed)
        curve = _curve(singular, min(values.change.shape))
    return _Found(figures, curve, pool(values))


def _spectrum_of(values: Values, settings: AnalysisSettings) -> Singular:
    """Δ's spectrum; that of an update of zeros needs no arithmetic."""
    if values.energy:
        return decompose(values.change, seed=settings.seed)
    return Singular(torch.zeros(min(values.change.shape), dtype=torch.float64))


def _curve(singular: Singular, size: int) -> list[float | None]:
    """σ_i/σ₁ at the ranks of `CURVE`; None where nothing moved or a randomized spectrum ends."""
    sigma = singular.values
    if not float(sigma[0]):
        return [None] * len(CURVE)
    places = [max(0, int(share * size + 0.5) - 1) for share in CURVE]
    return [float(sigma[at] / sigma[0]) if at < len(sigma) else None for at in places]


def _mean(curves: list[list[float | None]]) -> list[float | None]:
    columns = zip(*curves, strict=True)
    return [
        None
        if None in column
        else sum(value for value in column if value is not None) / len(column)
        for column in columns
    ]


def _row(side: str, found: list[_Found]) -> Mapping[str, Any]:
    """Figures by name; of nulls, a list with one value a draw."""
    if side in KINDS:
        names = found[0].figures if found else {}
        return {name: [one.figures[name] for one in found] for name in names}
    return found[0].figures


def _described(
    part: Part, sides: tuple[Tensor, Tensor, Tensor | None], dtype: torch.dtype
) -> dict[str, Any]:
    described = asdict(part)
    kept = ("name", "layer", "module", "block", "planar")
    stored = {
        side: str(values.dtype)[6:]
        for side, values in zip(("base", "tuned", "master"), sides, strict=True)
        if values is not None
    }
    return {key: described[key] for key in kept} | {
        "shape": list(part.shape),
        "numel": part.numel,
        "stored": stored,
        "compared": str(dtype)[6:],
    }
