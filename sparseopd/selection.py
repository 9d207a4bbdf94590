"""What decides which coordinates a mask holds: the selector, its settings, scope and budget.

The same `Selection` stands behind `sparseopd.select`, `mask select` and a recipe's `discover`
section, so each is checked in one way. Imports no torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from sparseopd.errors import MaskError
from sparseopd.ranges import Count, Dtype, Fraction, NotNegative

SelectorName = Literal[
    "topk",
    "topk-relative",
    "topk-per-tensor",
    "threshold",
    "changed",
    "low-magnitude",
    "principal",
    "off-principal",
    "off-principal-or-low",
    "saliency",
    "random",
]
Budget = Literal["global", "tensor", "block"]

RULES = ("threshold", "changed")
"""Selectors that decide coordinate by coordinate; all others rank, and take exactly k."""
DATA_FREE = ("low-magnitude", "principal", "off-principal", "off-principal-or-low", "random")
"""Selectors that look at the base alone."""
_PER_TENSOR = (
    "topk-per-tensor",
    "low-magnitude",
    "principal",
    "off-principal",
    "off-principal-or-low",
)
_OWN: dict[str, dict[str, Any]] = {
    "topk-relative": {"relative_to": "weight"},
    "threshold": {"threshold": 1e-5},
    "changed": {"dtype": "bfloat16", "eta": None},
    "principal": {"rank": 0.1},
    "off-principal": {"rank": 0.1},
    "off-principal-or-low": {"rank": 0.1},
    "random": {"match": None},
}
"""Each selector's own settings with their defaults."""


@dataclass(kw_only=True)
class Selection:
    """How coordinates are chosen. A setting that its selector would ignore is refused."""

    selector: SelectorName = "topk"
    """topk |Δ|; topk-relative |Δ|/|W|; topk-per-tensor; threshold |Δ| > τ; changed bits;
    low-magnitude |W|; principal, off-principal, off-principal-or-low; saliency; random."""
    density: Fraction | None = None
    """Share of the coordinates in scope to choose: exactly round(density · n); 0.1 by default."""
    k: Count | None = None
    """Number of coordinates to choose, instead of a density."""
    budget: Budget | None = None
    """Where the share holds: over all tensors together, in each tensor, or in each block. Default:
    global; tensor for topk-per-tensor, low-magnitude and the principal family (as in the papers)."""
    include: list[str] = field(default_factory=list)
    """Name patterns (`*.mlp.*`) or blocks (ffn, attention, embedding, head, norm, vision, expert,
    other) to choose from. Default: every tensor."""
    exclude: list[str] = field(default_factory=list)
    """Name patterns or blocks to leave alone."""
    threshold: NotNegative | None = None
    """threshold: keep |Δ| > threshold (the paper's 1e-5 by default)."""
    dtype: Dtype | None = None
    """changed: the dtype both sides are rounded to before they are compared; bfloat16 by default."""
    eta: NotNegative | None = None
    """changed: keep |ŵ - w| > η · max(|w|, |ŵ|) (arXiv 2511.08567 uses 1e-3) instead of any bit."""
    relative_to: Literal["weight", "rms"] | None = None
    """topk-relative: rank |Δ| over |W|, or over the root mean square of W's tensor."""
    rank: Fraction | None = None
    """principal family: share of the singular values that span the principal part; 0.1 by default."""
    match: Literal["tensor", "magnitude"] | None = None
    """random, drawn like another mask: match its count in every tensor (the default), or in every
    |W| quantile of every tensor."""

    @property
    def ranks(self) -> bool:
        """Whether exactly k coordinates are taken, rather than all that fit a rule."""
        return self.selector not in RULES

    def settings(self) -> dict[str, Any]:
        """Return what was set, without the selector's name; for the provenance."""
        chosen = {name: getattr(self, name) for name in Selection.__dataclass_fields__}
        unset = (None, [])
        return {
            key: value for key, value in chosen.items() if key != "selector" and value not in unset
        }


def build(**settings: Any) -> Selection:
    """Make a checked `Selection`. Raises `MaskError` with one sentence on anything that does not fit."""
    unknown = sorted(settings.keys() - Selection.__dataclass_fields__.keys())
    if unknown:
        known = ", ".join(Selection.__dataclass_fields__)
        raise MaskError(f"a selection has no setting {unknown[0]!r}: choose among {known}")
    try:
        selection = TypeAdapter(Selection).validate_python(settings)
    except ValidationError as error:
        first = error.errors()[0]
        message = first["msg"].removeprefix("Input ")
        raise MaskError(f"{first['loc'][0]} is {first['input']!r}, and {message}") from error
    check(selection)
    return selection


def check(selection: Selection) -> None:
    """Raise `MaskError` if a setting would do nothing, or contradicts another."""
    selector, own = selection.selector, _OWN.get(selection.selector, {})
    for name in sorted({name for options in _OWN.values() for name in options}):
        if getattr(selection, name) is not None and name not in own:
            takers = [key for key, options in _OWN.items() if name in options]
            raise MaskError(
                f"{name} does nothing with the selector {selector}: leave it out, or choose "
                f"{' or '.join(takers)}"
            )
    for name in ("density", "k", "budget"):
        if not selection.ranks and getattr(selection, name) is not None:
            raise MaskError(
                f"{name} does nothing with the selector {selector}, which takes all that fit its "
                "rule: leave it out"
            )
    if selection.density is not None and selection.k is not None:
        raise MaskError("density and k both say how many coordinates to choose: give one of them")
    if selector == "topk-per-tensor" and selection.budget not in (None, "tensor"):
        raise MaskError(
            f"the budget of topk-per-tensor is each tensor, not {selection.budget}: use topk"
        )


def resolved(selection: Selection) -> Selection:
    """Return a copy in which every setting that the selector uses has a value."""
    chosen = {name: getattr(selection, name) for name in Selection.__dataclass_fields__}
    for name, default in _OWN.get(selection.selector, {}).items():
        chosen[name] = default if chosen[name] is None else chosen[name]
    if selection.ranks:
        if selection.density is None and selection.k is None:
            chosen["density"] = 0.1
        per_tensor = selection.selector in _PER_TENSOR
        chosen["budget"] = selection.budget or ("tensor" if per_tensor else "global")
    return Selection(**chosen)


def total(selection: Selection, numel: int) -> int:
    """Return k for `numel` coordinates in scope. Raises `MaskError` if it is none or too many."""
    k = selection.k if selection.k is not None else round((selection.density or 0) * numel)
    if not k:
        raise MaskError(
            f"density {selection.density:g} of {numel:,} coordinates rounds to none: raise it"
        )
    if k > numel:
        raise MaskError(f"k is {k:,} and the scope has {numel:,} coordinates: lower it")
    return k
