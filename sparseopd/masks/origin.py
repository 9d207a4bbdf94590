"""Where a mask came from: the provenance that `select` writes into its file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import sparseopd
from sparseopd.artifacts import Provenance
from sparseopd.masks.comparison import Comparison
from sparseopd.masks.mask import Mask
from sparseopd.pairs.lora import LoraUpdate
from sparseopd.pairs.tensors import Source, Tensors
from sparseopd.selection import DATA_FREE, Selection, resolved


def origin(
    comparison: Comparison,
    selection: Selection,
    scope: list[str],
    like: Mask | None,
    models: tuple[Source, Source | None],
    known: Provenance | None,
) -> Provenance:
    """Describe a selection, but for the base's hashes; what is `known` already takes precedence.

    `models` are base and tuned as they were given to `select`.
    """
    base, tuned = models
    made = Provenance(
        base=str(base) if isinstance(base, (str, Path)) else comparison.base.label,
        revision=comparison.base.revision,
        tuned=str(tuned) if isinstance(tuned, (str, Path)) else "",
        selector=selection.selector,
        settings=_described(selection, scope, like),
        stored_in=_stored_in(comparison),
        compared_in=_compared_in(comparison, selection),
        seed=comparison.seed,
        version=sparseopd.__version__,
    )
    given = vars(known) if known is not None else {}
    return replace(made, **{key: value for key, value in given.items() if value})


def _described(selection: Selection, scope: list[str], like: Mask | None) -> dict[str, Any]:
    """The settings that decided the mask, defaults included."""
    if like is not None:
        kept = {key: value for key, value in selection.settings().items() if key != "match"}
        return {**kept, "like": like.digest(), "match": selection.match or "tensor"}
    settings = resolved(selection).settings()
    if scope:
        settings["include"] = [*selection.include, *scope]
    return settings


def _stored_in(comparison: Comparison) -> dict[str, list[str]]:
    """The dtypes of the weights in scope, by side."""
    sides: dict[str, Tensors] = {"base": comparison.base}
    if comparison.tuned is not None and not isinstance(comparison.tuned, LoraUpdate):
        sides["tuned"] = comparison.tuned
    return {
        side: sorted({str(tensors.dtype(name)).removeprefix("torch.") for name in comparison.names})
        for side, tensors in sides.items()
    }


def _compared_in(comparison: Comparison, selection: Selection) -> str:
    if selection.selector in DATA_FREE or selection.selector == "saliency":
        return ""
    wide = any("float64" in dtypes for dtypes in _stored_in(comparison).values())
    subtracted = "float64 where stored in it, else float32" if wide else "float32"
    rounded = f", rounded to {resolved(selection).dtype}" if selection.selector == "changed" else ""
    return subtracted + rounded
