"""The paper's table row of an update, beside the same row of its nulls and the paper's own ten.

The columns are those of PAPER.md §4, in their order and units: percent, except the stable rank. Where
the paper leaves a choice, its authors' scripts decide:

- norms and shares are of all coordinates of the model, energies likewise: "top-1 % energy" takes the
  largest hundredth inside each tensor and then pools (`coordinate_energy_top_1pct_pooled`);
- spectra and geometry are medians over 2-D matrices, those that did not move left out;
- coverage counts a coordinate as moved if |Δ| > 0 (α = 0), as the published table does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sparseopd.analysis.nulls import KINDS
from sparseopd.analysis.result import Analysis

SOURCE = (
    "Yu, Liu, Hu, Ma, Jiang, Ye: Dense Supervision, Sparse Updates: On the Sparsity and Geometry of "
    "On-Policy Distillation, arXiv 2606.13657v2"
)
"""Where `PAPER` is from."""


@dataclass(frozen=True)
class Column:
    """One of the paper's columns."""

    key: str
    title: str
    """As the paper heads it."""
    figure: str
    """What `Analysis.whole` calls it."""
    scale: float = 100.0
    """From the figure to the column: 100 where the paper gives percent."""


COLUMNS = (
    Column("relative_norm", "‖Δ‖/‖W‖", "relative_norm"),
    Column("exact_zero", "exact 0", "share_zero"),
    Column("le_1e-5", "≤1e-5", "share_le_1e-5"),
    Column("le_1e-4", "≤1e-4", "share_le_1e-4"),
    Column("top_1pct_energy", "top-1 % energy", "coordinate_energy_top_1pct_pooled"),
    Column("top_16_svd", "top-16 SVD", "median_svd_energy_top16"),
    Column("stable_rank", "stable rank", "median_stable_rank", scale=1.0),
    Column("projection_10pct", "proj 10 %", "median_projection_energy_10pct"),
    Column("principal_10pct", "principal 10 %", "median_coverage_principal_10pct_alpha_0"),
    Column("low_magnitude_10pct", "low-mag 10 %", "median_coverage_low_magnitude_10pct_alpha_0"),
)


@dataclass(frozen=True)
class PaperRow:
    """Figures in the paper's columns and units; None where there is none."""

    name: str
    """The update, or the paper's name of a run."""
    side: str
    """"observed", "master", "shuffled", "gaussian", or "paper" for one of the paper's own."""
    values: tuple[float | None, ...]
    spread: tuple[float | None, ...] = (None,) * len(COLUMNS)
    """Of nulls: the standard deviation over the draws."""


def paper_rows(analysis: Analysis) -> list[PaperRow]:
    """Return the row of an update: observed, before rounding if that is known, and each null's mean."""
    whole, name = analysis.whole, analysis.name or analysis.tuned
    rows = [
        PaperRow(name, side, _scaled(whole[side]))
        for side in ("observed", "master")
        if whole.get(side)
    ]
    for kind in KINDS:
        if whole.get(kind):
            mean, sd = (_scaled(_part(whole[kind], part)) for part in ("mean", "sd"))
            rows.append(PaperRow(name, kind, mean, sd))
    return rows


def _scaled(figures: dict[str, Any]) -> tuple[float | None, ...]:
    values = [(column.scale, figures.get(column.figure)) for column in COLUMNS]
    return tuple(None if value is None else scale * value for scale, value in values)


def _part(null: dict[str, dict[str, float]], part: str) -> dict[str, float]:
    return {name: spread[part] for name, spread in null.items()}


def _published(name: str, *values: float) -> PaperRow:
    return PaperRow(name, "paper", values)


PAPER = (
    _published(
        "offline KD, Qwen2.5-Math-1.5B",
        *(11.936, 3.06, 3.06, 3.52, 10.18, 8.57, 82.7, 2.22, 9.95, 10.10),
    ),
    _published(
        "RLVR DeepScaleR", 0.073, 77.36, 77.89, 94.21, 21.18, 19.62, 16.1, 0.37, 5.29, 31.26
    ),
    _published(
        "OPD ← DeepScaleR", 0.047, 82.02, 82.58, 98.35, 19.28, 26.92, 9.97, 0.37, 4.81, 38.04
    ),
    _published("RLVR JustRL", 0.497, 34.38, 34.68, 49.16, 27.12, 26.94, 12.4, 5.53, 8.34, 14.70),
    _published("OPD ← JustRL", 0.108, 69.96, 70.43, 86.16, 13.42, 40.94, 7.25, 0.53, 5.46, 23.04),
    _published("MiniCPM OPD", 0.069, 80.46, 81.65, 98.91, 22.93, 26.81, 12.3, 0.38, 5.39, 39.42),
    _published("VLM GRPO", 0.045, 83.40, 86.56, 99.96, 26.70, 21.75, 16.6, 0.66, 4.58, 44.46),
    _published("VLM OPD", 0.142, 64.13, 66.72, 94.83, 13.48, 30.52, 12.6, 0.81, 5.23, 24.99),
    _published("Qwen3-1.7B OPD", 0.045, 77.94, 79.03, 97.78, 19.09, 19.69, 20.3, 0.57, 4.45, 34.69),
    _published("Qwen3-4B OPSD", 0.036, 86.50, 89.50, 100.0, 27.99, 26.19, 7.77, 0.47, 4.39, 48.57),
)
"""The paper's ten runs (`SOURCE`; PAPER.md §4)."""
