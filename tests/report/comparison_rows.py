"""Rows of made-up comparisons: geometry, overlaps, settling masks and what optimizers saw."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from sparseopd.analysis.paper import COLUMNS, PAPER
from sparseopd.results import GeometryRow, OverlapRow, SettlingRow, TelemetryRow

SEEDS = (0, 1, 2)


def geometry(methods: Sequence[str]) -> list[GeometryRow]:
    """Rows that resemble the paper's, for every method and seed, with nulls."""
    rows = []
    for place, method in enumerate(methods):
        values = dict(zip((c.key for c in COLUMNS), PAPER[place].values, strict=True))
        for seed in SEEDS:
            moved = {k: v if v is None else v * (1 + 0.03 * seed) for k, v in values.items()}
            beyond = {"top_16_svd": "above", "stable_rank": "below"}
            if seed:
                beyond["projection_10pct"] = "above"
            rows.append(
                GeometryRow(method=method, seed=seed, side="observed", values=moved, beyond=beyond)
            )
            for side in ("master", "shuffled", "gaussian"):
                spread: dict[str, float | None]
                null = {**moved, "top_16_svd": 5.9, "stable_rank": 255.0, "projection_10pct": 1.0}
                spread = {} if side == "master" else dict.fromkeys(moved, 0.1)
                rows.append(
                    GeometryRow(method=method, seed=seed, side=side, values=null, spread=spread)
                )
    return rows


def overlap(question: str, first: str, second: str, of: str = "support") -> OverlapRow:
    """An overlap well above chance, and above its null."""
    return OverlapRow(
        question=question, first=first, second=second, coverage=0.53, coverage_back=0.61,
        chance=0.175, chance_back=0.2, null=0.33, null_back=0.39, jaccard=0.39, of=of,
    )  # fmt: skip


def settling() -> list[SettlingRow]:
    """Masks of three densities that settle, with every seed."""
    rows = []
    for seed in SEEDS:
        for density, low in ((0.01, 0.25), (0.1, 0.4), (0.3, 0.6)):
            for steps in (5, 10, 30, 60, 90, 120):
                jaccard = low + (1 - low) * math.sqrt(steps / 120) - 0.01 * seed * (steps < 120)
                rows.append(
                    SettlingRow(
                        seed=seed,
                        steps=steps,
                        density=density,
                        jaccard=jaccard,
                        coverage=2 * jaccard / (1 + jaccard),
                        null=density**0.7,
                    )
                )
    return rows


def telemetry() -> list[TelemetryRow]:
    """AdamW and two kinds of SGD; plain SGD has neither momentum nor second moments."""
    steps = list(range(1, 121))
    rows = []
    for seed in SEEDS:
        noise = np.random.default_rng(seed).normal(0, 0.06, len(steps))
        cosine = [
            0.25 + 0.7 * math.exp(-s / 6) + float(n) for s, n in zip(steps, noise, strict=True)
        ]
        variation = [4 + 2.5 * math.exp(-s / 40) for s in steps]
        nothing: list[float | None] = [None] * len(steps)
        rows += [
            TelemetryRow(
                optimizer="adamw", lr=3e-4, seed=seed, steps=steps, cosine=[*cosine],
                variation=[*variation],
            ),
            TelemetryRow(
                optimizer="sgd, momentum 0.9", lr=1e-2, seed=seed, steps=steps,
                cosine=[0.9 * value for value in cosine], variation=nothing,
            ),
        ]  # fmt: skip
    return rows
