"""What a conversion returns, and the sentences that say what it lost."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of an adapter's values."""

    k: int
    """Values that the result holds."""
    losses: list[str] = field(default_factory=list)
    """What is lost or was added and how much, a sentence each; empty if nothing is."""
    padding: int = 0
    """Further entries, that change nothing, which the format needs."""
    residuals: dict[str, float] = field(default_factory=dict)
    """‖Δ − BA‖ / ‖Δ‖ (Frobenius) of each tensor that became a product BA, by checkpoint name."""


@dataclass(frozen=True, kw_only=True)
class Converted(Outcome):
    """An adapter that was converted."""

    folder: Path
    format: str
    """The format it was converted to, or from where the result is an adapter of ours."""


def share(part: int, whole: int) -> str:
    """Return "3 of 1,200 values (0.25 %)"; `whole` is positive."""
    return f"{part:,} of {whole:,} values ({100 * part / whole:.3g} %)"


def padding_in(title: str, padding: int, why: str) -> list[str]:
    """Say how many entries stand only for room, if any do; `why` is what all layers share."""
    if not padding:
        return []
    return [
        f"the file also holds {padding:,} entries that change nothing, because {title} has {why} for all "
        "layers and the densest decides it"
    ]


def dtypes(found: Iterable[object]) -> str:
    """Return the names of dtypes, each once: "bfloat16 and float32"."""
    return " and ".join(sorted({str(dtype).removeprefix("torch.") for dtype in found}))
