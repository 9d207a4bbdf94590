"""What an analysis comes to, in sentences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sparseopd.analysis.verdict import Verdict

FEWEST = 8
"""Degrees of freedom below which nothing is concluded: hardly anything would be found."""


@dataclass(frozen=True)
class Headline:
    """A finding, told by the first of its figures that shows structure."""

    figures: dict[str, str]
    """By figure, what stands after its value."""
    more: str
    less: str


HEADLINES = (
    Headline(
        {
            "share_le_1e-5": "of the coordinates moved by no more than 1e-5",
            "share_zero": "of the coordinates did not move",
            "share_le_1e-4": "of the coordinates moved by no more than 1e-4",
        },
        "Sparser than dense Gaussian noise of the same norm",
        "Less sparse than dense Gaussian noise of the same norm",
    ),
    Headline(
        {
            "coordinate_energy_top_1pct": "of ΣΔ² in the largest 1 % of coordinates",
            "coordinate_energy_top_0.1pct": "of ΣΔ² in the largest .1 % of coordinates",
        },
        "Its energy lies in fewer coordinates than noise",
        "Its energy lies in more coordinates than noise",
    ),
    Headline(
        {
            "svd_energy_top16": "of ΣΔ² in 16 directions",
            "svd_energy_top4": "of ΣΔ² in four directions",
            "svd_energy_top1": "of ΣΔ² in one direction",
        },
        "Concentrated in few directions",
        "Spread over more directions than noise",
    ),
    Headline(
        {
            "projection_energy_10pct": "of ΣΔ² in the subspaces of the largest 10 % of σ",
            "projection_energy_20pct": "of ΣΔ² in the subspaces of the largest 20 % of σ",
        },
        "Drawn to the principal subspaces of the weights",
        "Keeps out of the principal subspaces of the weights",
    ),
    Headline(
        {
            "coverage_principal_10pct_alpha_0": "of what moved is among the principal 10 %",
            "coverage_principal_10pct_alpha_1e-5": "of what moved by 1e-5 is among the principal 10 %",
        },
        "Prefers principal coordinates more than rounding explains",
        "Avoids principal coordinates more than rounding explains",
    ),
    Headline(
        {
            "coverage_low_magnitude_10pct_alpha_0": "of what moved is among the smallest 10 % of weights",
            "coverage_low_magnitude_10pct_alpha_1e-5": "of what moved by 1e-5 is among the smallest 10 %",
        },
        "Prefers small weights more than rounding explains",
        "Prefers small weights less than rounding explains",
    ),
)


def findings(
    whole: dict[str, Verdict],
    modules: dict[str, dict[str, Verdict]],
    rows: Sequence[dict[str, Any]],
    draws: int,
) -> list[str]:
    """Return the conclusion, most important first."""
    if not any(row["observed"]["delta_fro"] for row in rows):
        return ["The two checkpoints are equal as compared: there is no update to look at."]
    matrices = [row for row in rows if len(row["shape"]) == 2]
    if matrices and not any(row["observed"]["delta_fro"] for row in matrices):
        return ["No matrix moved: the update lies in vectors alone, such as norms and biases."]
    if not draws:
        return ["No null was drawn, so nothing here tells structure from rounding."]
    if max(1, len(matrices)) * (draws - 1) < FEWEST:
        return [
            f"{draws} draws of each null for {_count(len(matrices), 'matrix', 'matrices')} cannot say how far a null strays: "
            "raise --draws."
        ]
    found = [told for headline in HEADLINES if (told := _of_whole(headline, whole, modules))]
    found += [told for headline in HEADLINES if (told := _of_modules(headline, whole, modules))]
    others = [name for name, seen in whole.items() if seen["structure"]]
    if not found and others:
        return [f"Structure beyond rounding shows in {', '.join(others)} alone."]
    return found or [
        "No evidence of structure beyond rounding: no figure is told apart from what a dense update "
        "without structure gives, once rounded."
    ]


def _of_whole(
    headline: Headline, whole: dict[str, Verdict], modules: dict[str, dict[str, Verdict]]
) -> str | None:
    """Tell of the whole, and where it comes from if few modules show it by themselves."""
    name, seen = _shown(headline, whole)
    if seen is None:
        return None
    nulls = f"{_percent(seen['gaussian']['mean'])} for dense noise"
    if seen["family"] != "sparsity":
        nulls += f", {_percent(seen['shuffled']['mean'])} shuffled"
    opening = headline.more if _rises(seen) else headline.less
    alike = [module for module, verdicts in modules.items() if _shown(headline, verdicts)[1]]
    few = 2 * len(alike) < len(modules)
    alone = f" Modules that show it by themselves: {', '.join(alike)}." if alike and few else ""
    return f"{opening}: {_percent(seen['observed'])} {headline.figures[name]} ({nulls}).{alone}"


def _of_modules(
    headline: Headline, whole: dict[str, Verdict], modules: dict[str, dict[str, Verdict]]
) -> str | None:
    """Tell of modules where the whole has nothing to tell, or tells the opposite."""
    of_whole = _shown(headline, whole)[1]
    told: dict[bool, list[str]] = {}
    for module, verdicts in modules.items():
        name, seen = _shown(headline, verdicts)
        if seen is not None and (of_whole is None or _rises(seen) != _rises(of_whole)):
            figures = f"{_percent(seen['observed'])} {headline.figures[name]}"
            noise = f"noise {_percent(seen['gaussian']['mean'])}"
            told.setdefault(_rises(seen), []).append(f"{module} ({figures}; {noise})")
    sentences = [
        f"{headline.more if rises else headline.less}, in some modules: {', '.join(names)}."
        for rises, names in told.items()
    ]
    return " ".join(sentences) or None


def _shown(headline: Headline, verdicts: dict[str, Verdict]) -> tuple[str, Verdict | None]:
    """The first figure of the headline that shows structure, and its verdict."""
    found = ((name, verdicts[name]) for name in headline.figures if name in verdicts)
    return next(((name, seen) for name, seen in found if seen["structure"]), ("", None))


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def _rises(seen: Verdict) -> bool:
    return seen["observed"] > seen["gaussian"]["mean"]


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
