"""From measured parts to an `Analysis`: groups, verdicts, findings, dtypes, tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

import sparseopd
from sparseopd.analysis.aggregate import grouped, spread, together
from sparseopd.analysis.findings import findings
from sparseopd.analysis.measure import Sides
from sparseopd.analysis.nulls import KINDS
from sparseopd.analysis.pooled import half_octave
from sparseopd.analysis.request import Plan, plain
from sparseopd.analysis.result import Analysis
from sparseopd.analysis.sums import Sums
from sparseopd.analysis.verdict import verdicts
from sparseopd.singular import EXACT


def assemble(sides: Sides, planned: Plan, sums: Sums, seconds: float) -> Analysis:
    """Combine the rows and sums of all parts into an analysis."""
    settings = planned.settings
    whole = together(sums.rows, sums.rows)
    for side, draws in sums.pooled.items():
        tops = [one.top_energy() for one in draws]
        if side in KINDS:
            whole[side] |= spread(tops)
        elif whole[side] is not None:
            whole[side] |= tops[0]
    groups = grouped(sums.rows)
    judged, by_module = verdicts(sums.rows, whole, groups["module"]) if settings.draws else ({}, {})
    master = sides.master.label if sides.master is not None else None
    if master is None and whole["master"] is not None:
        master = sides.tuned.label
    return Analysis(
        base=sides.base.label,
        tuned=sides.tuned.label,
        master=master,
        dtypes=_dtypes(sums.rows),
        settings={**plain(asdict(settings)), "version": sparseopd.__version__},
        whole=whole,
        groups=groups,
        tensors=sums.rows,
        verdicts=judged,
        module_verdicts=by_module,
        findings=findings(judged, by_module, sums.rows, settings.draws or 0) + _left_out(sides),
        joint=_joint(sums.joint),
        seconds=seconds,
        request=planned.request,
    )


def _left_out(sides: Sides) -> list[str]:
    """A sentence on tensors that the base does not have."""
    known = set(sides.base.keys())
    more = [name for name in sides.tuned.keys() if name not in known]
    if not more:
        return []
    return [
        f"Left out, since {sides.base.label} does not have them: {more[0]} and {len(more) - 1} more."
    ]


def _dtypes(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    sides = dict.fromkeys(side for row in rows for side in row["stored"])
    errors = [
        value
        for row in rows
        for name, value in row["observed"].items()
        if name in ("spectrum_error", "landmarks_error") and value is not None
    ]
    return {
        "stored": {side: sorted({row["stored"][side] for row in rows}) for side in sides},
        "compared": sorted({row["compared"] for row in rows}),
        "summed": "float64",
        "spectra": "float64 (Gram matrices)"
        + (
            f", float32 randomized beyond {EXACT}, up to {max(errors):.1g} σ₁ off" if errors else ""
        ),
    }


def _joint(counts: dict[str, Tensor]) -> dict[str, Any]:
    """Cut the tables to the bins that any of them uses; zeros, in the first bin, always stay."""
    if not counts:
        return {}
    used = torch.stack(list(counts.values())).sum(0)
    found: dict[str, Any] = {}
    places = []
    for axis, name in ((1, "weight"), (0, "change")):
        filled = torch.nonzero(used.sum(axis)[1:]).flatten() + 1
        first, last = (int(filled[0]), int(filled[-1])) if len(filled) else (1, 1)
        places.append([0, *range(first, last + 1)])
        found[name] = [half_octave(place) for place in places[-1]]
    for side, table in counts.items():
        found[side] = table[places[0]][:, places[1]].tolist()
    return found
