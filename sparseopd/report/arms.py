"""Who is who among the arms: the part each plays, and the colour and mark it keeps everywhere."""

from __future__ import annotations

from dataclasses import dataclass

from sparseopd.artifacts import ArmScores, Scores
from sparseopd.report.words import density, shorten


@dataclass(frozen=True)
class Look:
    """How one kind of arm is drawn."""

    color: str
    marker: str


# Okabe and Ito's colours, without the ones that vanish on white or on black. Marks and dashes tell
# arms apart as well, so that nothing rests on colour alone.
LOOKS = {
    "source": Look("#8c8c8c", "s"),
    "teacher": Look("#009e73", "^"),
    "full": Look("#0072b2", "o"),
    "masked": Look("#d55e00", "D"),
    "random": Look("#e69f00", "v"),
    "lora": Look("#56b4e9", "h"),
    "shira": Look("#56b4e9", "p"),
    "model": Look("#cc79a7", "P"),
}


def role(arm: ArmScores) -> str:
    """Return the arm's part: its kind, or "random" for a masked control named as such.

    Scores do not record the selector; a control is a masked arm with "random" in its name.
    """
    if arm.kind == "masked" and "random" in arm.name.lower():
        return "random"
    return arm.kind if arm.kind in LOOKS else "model"


def look(arm: ArmScores) -> Look:
    """Return the arm's colour and mark."""
    return LOOKS[role(arm)]


def of(scores: Scores, *roles: str) -> list[ArmScores]:
    """Return the arms that play one of `roles`, in their own order."""
    return [arm for arm in scores.arms if role(arm) in roles]


def first(scores: Scores, wanted: str) -> ArmScores | None:
    """Return the first arm that plays the part `wanted`."""
    return next(iter(of(scores, wanted)), None)


def trained_share(arm: ArmScores) -> float | None:
    """Return the share of coordinates trained, 0…1: the density, all of them without a mask."""
    whole = arm.density is None and arm.kind in ("full", "contrast")
    return 1.0 if whole else arm.density


def label(arm: ArmScores, limit: int = 40) -> str:
    """Return the arm's name on one line, with the density of a mask if there is room."""
    name = shorten(arm.name, limit)
    if arm.kind != "masked" or arm.density is None or "%" in name:
        return name
    longer = f"{name}, {density(arm.density)} %"
    return longer if len(longer) <= limit else name


def listed(arms: list[ArmScores]) -> str:
    """Name arms on one line: three of them at most."""
    names = ", ".join(shorten(arm.name, 40) for arm in arms[:3])
    return f"{names} and {len(arms) - 3} more" if len(arms) > 3 else names
