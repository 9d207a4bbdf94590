"""Who is who in a comparison: the group and look of an arm, what it was found to be, and which arms
differ in one thing alone."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from sparseopd.report.arms import LOOKS
from sparseopd.report.arms import Look as Mark
from sparseopd.results import ArmResult, Study, Verdict

USUAL = 0.1
"""The density whose arm speaks for a study, or the nearest to it; fixed before any result is seen."""
UNTRAINED = ("source", "teacher")
Dashes = Literal["-", "--", "-.", ":"]


@dataclass(frozen=True)
class Look(Mark):
    """How an arm is drawn: colour, mark, dashes, and whether the mark is filled."""

    dashes: Dashes = "-"
    filled: bool = True

    @property
    def mark(self) -> dict[str, Any]:
        """Return the look of its marks, as matplotlib takes it."""
        hollow = {} if self.filled else {"markerfacecolor": "none"}
        return {"marker": self.marker, **hollow}


_PINK, _SKY = "#cc79a7", "#56b4e9"
_MASKED, _RANDOM, _FULL = (LOOKS[role].color for role in ("masked", "random", "full"))
CHOSEN_LOOKS = {
    "discovered": Look(_MASKED, "D"),
    "random": Look(_RANDOM, "v", "--"),
    "random per tensor": Look(_RANDOM, ">", "-.", filled=False),
    "random by |W|": Look(_RANDOM, "<", ":"),
    "low-magnitude": Look(_PINK, "s", "--"),
    "principal": Look(_PINK, "P", "-."),
    "off-principal": Look(_PINK, "X", ":"),
}
"""By what the mask was chosen: Okabe and Ito's colours, a mark and dashes of its own."""
_KIND_LOOKS = {
    "source": Look(LOOKS["source"].color, "s"),
    "teacher": Look(LOOKS["teacher"].color, "^"),
    "full": Look(_FULL, "o"),
    "contrast": Look(_FULL, "s", "--", filled=False),
    "lora": Look(_SKY, "h", "-."),
    "shira": Look(_SKY, "p", ":"),
}


def look(arm: ArmResult) -> Look:
    """Return how an arm is drawn; masks of elsewhere and other optimizers have hollow marks."""
    if arm.kind == "masked":
        known = CHOSEN_LOOKS.get(arm.chosen, CHOSEN_LOOKS["discovered"])
    else:
        known = _KIND_LOOKS.get(arm.kind, _KIND_LOOKS["contrast"])
    if arm.found_on or arm.reordered or arm.optimizer != "adamw":
        return Look(known.color, known.marker, "--", filled=False)
    return known


def group(arm: ArmResult) -> str:
    """Return the heading under which tables list an arm."""
    if arm.kind in UNTRAINED:
        return "Untrained"
    if arm.optimizer != "adamw":
        return "Other optimizers"
    if arm.kind in ("lora", "shira"):
        return "Adapters"
    if arm.kind != "masked":
        return "Full training"
    if arm.found_on:
        return "Masks found elsewhere"
    return "Discovered masks" if arm.chosen == "discovered" else "Control masks"


def grouped(study: Study) -> dict[str, list[ArmResult]]:
    """Return a study's arms by their group, both in the order in which they first come."""
    groups: dict[str, list[ArmResult]] = {}
    for arm in study.arms:
        groups.setdefault(group(arm), []).append(arm)
    return groups


def full(study: Study) -> ArmResult | None:
    """Return the arm that trains everything, as the others do otherwise; None without one."""
    whole = [arm for arm in study.arms if arm.kind == "full"]
    return next((arm for arm in whole if _is_plain(arm)), whole[0] if whole else None)


def source(study: Study) -> ArmResult | None:
    """Return the arm that was not trained; None without one."""
    return next((arm for arm in study.arms if arm.kind == "source"), None)


def discovered(study: Study) -> list[ArmResult]:
    """Return the arms whose mask was found on this pair, seed and order."""
    return [
        arm
        for arm in study.arms
        if arm.kind == "masked" and arm.chosen == "discovered" and _is_plain(arm)
    ]


def main(study: Study) -> ArmResult | None:
    """Return the discovered mask that speaks for the study: of `USUAL` density or the nearest.

    The rule looks at no result. Of several discovery lengths it takes the one used most.
    """
    known = [arm for arm in _usual_length(discovered(study)) if arm.density]
    if not known:
        return next(iter(discovered(study)), None)
    return min(known, key=lambda arm: abs(math.log((arm.density or USUAL) / USUAL)))


def by_density(study: Study) -> dict[str, list[ArmResult]]:
    """Return the masked arms that differ in density alone, ascending, by how they were chosen.

    Discovered masks are those of the discovery length used most; ones found elsewhere are left out.
    """
    plain = [arm for arm in study.arms if arm.kind == "masked" and _is_plain(arm) and arm.density]
    series: dict[str, list[ArmResult]] = {}
    for chosen in dict.fromkeys(arm.chosen for arm in plain):
        arms = [arm for arm in plain if arm.chosen == chosen]
        kept = _usual_length(arms) if chosen == "discovered" else arms
        series[chosen] = sorted(kept, key=lambda arm: arm.density or 0.0)
    return series


def by_steps(study: Study) -> dict[float, list[ArmResult]]:
    """Return the discovered masks that differ in discovery steps alone, ascending, by density.

    Densities (0…1, two digits) with a single discovery length are left out.
    """
    series: dict[float, list[ArmResult]] = {}
    for arm in discovered(study):
        if arm.density and arm.discovery_steps is not None:
            series.setdefault(float(f"{arm.density:.2g}"), []).append(arm)
    return {
        density: sorted(arms, key=lambda arm: arm.discovery_steps or 0)
        for density, arms in sorted(series.items())
        if len({arm.discovery_steps for arm in arms}) > 1
    }


def same_density(one: ArmResult, other: ArmResult) -> bool:
    """Whether two arms train as many coordinates, within a hundredth."""
    if one.density is None or other.density is None:
        return False
    return math.isclose(one.density, other.density, rel_tol=0.01)


def against_full(verdict: Verdict | None) -> str:
    """Read a test of equivalence: "equal", "lower", "higher", "not settled", "" without a test.

    Lower and higher: the difference's interval, which no correction widens, leaves out zero.
    """
    if verdict is None:
        return ""
    if verdict.found:
        return "equal"
    if verdict.difference.high < 0:
        return "lower"
    return "higher" if verdict.difference.low > 0 else "not settled"


def against_random(verdict: Verdict | None) -> str:
    """Read a test of superiority: "better", "worse", "not settled", "" without a test."""
    if verdict is None:
        return ""
    if verdict.found:
        return "better"
    return "worse" if verdict.difference.high < 0 else "not settled"


def _is_plain(arm: ArmResult) -> bool:
    return not arm.found_on and not arm.reordered and arm.optimizer == "adamw"


def _usual_length(arms: Iterable[ArmResult]) -> list[ArmResult]:
    """Keep the arms of one discovery length: used at the most densities, then the longest."""
    listed = list(arms)
    counts = Counter(arm.discovery_steps for arm in listed)
    if not counts:
        return []
    usual = max(counts, key=lambda steps: (counts[steps], steps or 0))
    return [arm for arm in listed if arm.discovery_steps == usual]
