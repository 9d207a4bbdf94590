"""From parts to blocks, modules, layers and the whole model.

Shares of coordinates are pooled: counts over counts. Coordinate energy is taken inside each part and
then pooled, as the paper does. Figures of matrices are medians over matrices, as the paper takes them,
with means weighted by size beside them. Norms are those of everything together.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from sparseopd.analysis.nulls import KINDS

Figures = dict[str, float | None]
Row = dict[str, Any]
NOT_OF_MATRICES = ("share_", "coordinate_energy_", "delta_fro", "relative_norm", "base_rms")
GROUPS = ("block", "module", "layer")


def grouped(rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """Return {"block": {name: sides}, "module": …, "layer": …}; what has no layer is left out of those."""
    found: dict[str, dict[str, Any]] = {}
    for kind in GROUPS:
        members: dict[str, list[Row]] = {}
        for row in rows:
            if row[kind] is not None:
                members.setdefault(_label(kind, row), []).append(row)
        found[kind] = {name: together(of, rows) for name, of in members.items()}
    return found


def together(rows: Sequence[Row], whole: Sequence[Row]) -> dict[str, Any]:
    """Return the sides of some rows: "observed", "master" or None, "shuffled", "gaussian", "numel".

    `share_of_energy` is their part of ΣΔ² of the `whole`, `share_of_size` that of its coordinates.
    """
    numel, of_all = (sum(row["numel"] for row in some) for some in (rows, whole))
    observed = combined(rows, lambda row: row["observed"])
    sides: dict[str, Any] = {
        "numel": numel,
        "matrices": sum(len(row["shape"]) == 2 for row in rows),
    }
    energy, all_energy = (
        sum(row["observed"]["delta_fro"] ** 2 for row in some) for some in (rows, whole)
    )
    observed |= {
        "share_of_energy": energy / all_energy if all_energy else None,
        "share_of_size": numel / of_all,
    }
    sides["observed"] = observed
    masters = all("master" in row for row in rows)
    sides["master"] = combined(rows, lambda row: row["master"]) if masters else None
    return sides | {kind: _null(rows, kind) for kind in KINDS}


def combined(rows: Sequence[Row], read: Callable[[Row], Figures]) -> Figures:
    """Combine the figures that `read` finds in each row."""
    sides = [(row, read(row)) for row in rows]
    numel = sum(row["numel"] for row, _ in sides)
    energy = sum((of["delta_fro"] or 0) ** 2 for _, of in sides)
    base = sum((of["base_rms"] or 0) ** 2 * row["numel"] for row, of in sides)
    found: Figures = {
        "delta_fro": energy**0.5,
        "relative_norm": (energy / base) ** 0.5 if base else None,
    }
    for name in dict.fromkeys(name for _, of in sides for name in of):
        values = [(row, of, of.get(name)) for row, of in sides]
        if name.startswith("share_"):
            found[name] = sum(round(value * row["numel"]) for row, _, value in values) / numel
        elif name.startswith("coordinate_energy_"):
            held = sum((value or 0) * (of["delta_fro"] or 0) ** 2 for _, of, value in values)
            found[f"{name}_pooled"] = held / energy if energy else None
        elif not name.startswith(NOT_OF_MATRICES):
            found |= _middle(name, [(row, value) for row, _, value in values if value is not None])
    return found


def _middle(name: str, values: list[tuple[Row, float]]) -> Figures:
    planar = [value for row, value in values if row["planar"]]
    numel = sum(row["numel"] for row, _ in values)
    weighted = sum(value * row["numel"] for row, value in values)
    return {
        f"median_{name}": statistics.median(planar) if planar else None,
        f"mean_{name}": weighted / numel if numel else None,
    }


def _null(rows: Sequence[Row], kind: str) -> dict[str, dict[str, float]]:
    """Mean and standard deviation of every combined figure over the draws."""
    count = max((len(values) for row in rows for values in row[kind].values()), default=0)
    drawn = [combined(rows, _reader(kind, number)) for number in range(count)]
    return spread(drawn)


def spread(drawn: Sequence[Figures]) -> dict[str, dict[str, float]]:
    """Return {"mean", "sd"} of every figure over draws that all have it; sd is 0 for one draw."""
    found = {}
    for name in drawn[0] if drawn else ():
        values = [one[name] for one in drawn]
        known = [value for value in values if value is not None]
        if len(known) == len(values):
            sd = statistics.stdev(known) if len(known) > 1 else 0.0
            found[name] = {"mean": statistics.fmean(known), "sd": sd}
    return found


def _reader(kind: str, number: int) -> Callable[[Row], Figures]:
    return lambda row: {name: values[number] for name, values in row[kind].items()}


def _label(kind: str, row: Row) -> str:
    """Layers of a vision tower count apart."""
    vision = kind == "layer" and row["block"] == "vision"
    return f"vision {row[kind]}" if vision else str(row[kind])


def ordered(rows: Iterable[Row], names: Sequence[str]) -> list[Row]:
    """Sort rows as `names` come."""
    places = {name: place for place, name in enumerate(names)}
    return sorted(rows, key=lambda row: places[row["name"]])
