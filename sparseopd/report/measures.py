"""The figures of an analysis that tables show: what they are called, how they are written and judged.

Terminal and page take their rows from here, so that both say the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sparseopd.analysis import Analysis
from sparseopd.analysis.findings import FEWEST
from sparseopd.report import words
from sparseopd.report.words import MISSING, show

BEYOND, DIFFERS, SOMEWHERE, ALIKE = "beyond rounding", "differs", "some modules", "as null"
"""What a figure is judged: structure that no null has; apart from dense noise, but not from what the
sizes of the changes give wherever they are; structure in some modules alone; what dense noise gives."""


@dataclass(frozen=True)
class Measure:
    """A figure of the whole model as a row of a table."""

    title: str
    figure: str
    """What `Analysis.whole` calls it."""
    percent: bool = True
    main: bool = False
    """Whether the terminal shows it too."""

    @property
    def unit(self) -> str:
        """Return what stands behind the figure."""
        return " %" if self.percent else ""

    def form(self, value: float) -> str:
        """Write a value, without its unit."""
        return words.percent(value) if self.percent else rank(value)

    def spread(self, sd: float) -> str:
        """Write a standard deviation to one digit, without its unit."""
        text = f"{100 * sd if self.percent else sd:.1g}"
        return words.scientific(float(text))


def rank(value: float) -> str:
    """Write a rank: 7.73, 14.0, 2,048; 96 where it is a count."""
    whole = value >= 100 or value == int(value)
    return f"{value:,.0f}" if whole else format(value, "#.3g")


def _ranks(title: str, figure: str, main: str = "") -> tuple[Measure, ...]:
    """Make a measure for every ρ; {} of title and figure is ρ in percent."""
    return tuple(
        Measure(title.format(rank), figure.format(rank), main=rank == main)
        for rank in ("1", "5", "10", "20")
    )


MEASURES: dict[str, tuple[Measure, ...]] = {
    "Size and sparsity": (
        Measure("‖Δ‖/‖W‖", "relative_norm", main=True),
        Measure("exactly 0", "share_zero", main=True),
        Measure("|Δ| ≤ 1e-8", "share_le_1e-8"),
        Measure("|Δ| ≤ 1e-6", "share_le_1e-6"),
        Measure("|Δ| ≤ 1e-5", "share_le_1e-5", main=True),
        Measure("|Δ| ≤ 1e-4", "share_le_1e-4", main=True),
        Measure("|Δ| < 1e-3 of RMS(W)", "share_lt_1e-3_rms"),
        Measure("unchanged, η = 1e-3", "share_unchanged_eta_1e-3"),
        Measure("top-0.1 % energy", "coordinate_energy_top_0.1pct_pooled"),
        Measure("top-1 % energy", "coordinate_energy_top_1pct_pooled", main=True),
        Measure("top-5 % energy", "coordinate_energy_top_5pct_pooled"),
        Measure("top-1 % energy, all together", "coordinate_energy_top_1pct_together"),
    ),
    "Spectrum": (
        Measure("top-1 SVD", "median_svd_energy_top1", main=True),
        Measure("top-4 SVD", "median_svd_energy_top4"),
        Measure("top-16 SVD", "median_svd_energy_top16", main=True),
        Measure("top-64 SVD", "median_svd_energy_top64"),
        Measure("stable rank", "median_stable_rank", percent=False, main=True),
        Measure("entropy rank", "median_entropy_effective_rank", percent=False, main=True),
        Measure("numerical rank 1e-5", "median_numerical_rank_1e-5", percent=False, main=True),
        Measure("numerical rank 1e-4", "median_numerical_rank_1e-4", percent=False),
    ),
    "Beside the subspaces of W": (
        *_ranks("projection {} %", "median_projection_energy_{}pct", main="10"),
        *_ranks("rotation {} %", "median_subspace_rotation_{}pct", main="10"),
        Measure("spectral drift", "median_spectral_drift", main=True),
    ),
    "Which coordinates moved": (
        *_ranks("principal {} %", "median_coverage_principal_{}pct_alpha_0", main="10"),
        *_ranks("low-mag {} %", "median_coverage_low_magnitude_{}pct_alpha_0", main="10"),
        Measure("principal 10 %, α = 1e-5", "median_coverage_principal_10pct_alpha_1e-5"),
        Measure("low-mag 10 %, α = 1e-5", "median_coverage_low_magnitude_10pct_alpha_1e-5"),
        Measure(
            "not principal, or low-mag 10 %", "median_coverage_nonprincipal_or_low_10pct_alpha_0"
        ),
    ),
}
"""By family, in the order of tables."""


def present(sides: dict[str, Any], *, main: bool) -> dict[str, list[Measure]]:
    """Return the measures that have an observed figure, by family; `main` ones alone, if so asked."""
    found = {
        family: [
            one
            for one in measures
            if sides["observed"].get(one.figure) is not None and (one.main or not main)
        ]
        for family, measures in MEASURES.items()
    }
    return {family: measures for family, measures in found.items() if measures}


def plain(one: Measure, figures: dict[str, Any] | None) -> str:
    """Write a figure of a side without draws, with its unit left out."""
    return show((figures or {}).get(one.figure), one.form)


def null(one: Measure, analysis: Analysis, kind: str) -> tuple[str, str]:
    """Write a null's mean and its standard deviation, which one draw has not; `MISSING` without any."""
    found = (analysis.whole.get(kind) or {}).get(one.figure)
    if found is None:
        return MISSING, ""
    return one.form(found["mean"]), one.spread(found["sd"]) if _draws(analysis) > 1 else ""


def verdict(analysis: Analysis, figure: str) -> str:
    """Return what a figure of the whole is judged; `MISSING` for norms, and with too few draws."""
    if max(1, analysis.whole["matrices"]) * (_draws(analysis) - 1) < FEWEST:
        return MISSING  # the findings say so too
    seen = next((one for one in analysis.verdicts.values() if one["whole"] == figure), None)
    if seen is None:
        return MISSING
    if seen["structure"]:
        return BEYOND
    # Shuffled, a rounded update is rounded twice: noise itself is apart from that.
    if seen["gaussian"]["differs"]:
        return DIFFERS
    own = (verdicts.get(_part(figure)) for verdicts in analysis.module_verdicts.values())
    return SOMEWHERE if any(one and one["structure"] for one in own) else ALIKE


def _part(figure: str) -> str:
    """What a part calls a figure of the whole."""
    return figure.removeprefix("median_").removesuffix("_pooled")


def extent(analysis: Analysis) -> str:
    """Say how many coordinates were compared, in how many matrices."""
    numel, matrices = analysis.whole["numel"], analysis.whole["matrices"]
    kind = "matrix" if matrices == 1 else "matrices"
    return f"{numel:,} coordinates, {matrices:,} {kind}"


def stored(analysis: Analysis) -> str:
    """Say in which dtypes the checkpoints were stored, compared and summed."""
    kept = analysis.dtypes["stored"]
    base, tuned = (" + ".join(kept[side]) for side in ("base", "tuned"))
    compared = " + ".join(analysis.dtypes["compared"])
    text = (
        f"stored {base} and {tuned}, compared in {compared}, summed in {analysis.dtypes['summed']}"
    )
    if analysis.master is None:
        return text
    wide = " + ".join(kept.get("master", kept["tuned"]))
    return f"{text}; before rounding: {words.clean(analysis.master)}, {wide}"


def drawn(analysis: Analysis) -> str:
    """Say how many draws of each null there are."""
    draws = _draws(analysis)
    if not draws:
        return "no nulls drawn"
    return f"{draws} draw{'' if draws == 1 else 's'} of each null, seed {analysis.settings['seed']}"


def _draws(analysis: Analysis) -> int:
    return analysis.settings.get("draws") or 0
