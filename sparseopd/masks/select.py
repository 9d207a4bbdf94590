"""`select`: from two models to a mask with its provenance."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import sparseopd
from sparseopd.artifacts import Progress, Provenance
from sparseopd.errors import MaskError
from sparseopd.masks.comparison import Comparison
from sparseopd.masks.mask import Mask
from sparseopd.masks.selectors import SELECTORS, random_like
from sparseopd.pairs.tensors import open_tensors, tensor_hash

Source = str | Path | nn.Module


def select(
    base: Source,
    tuned: Source | None = None,
    *,
    selector: str = "topk",
    density: float | None = None,
    threshold: float | None = None,
    like: Mask | None = None,
    scope: Sequence[str] | None = None,
    seed: int = 0,
    steps: int | None = None,
    recipe_hash: str | None = None,
    label: str | None = None,
    progress: Progress | None = None,
) -> Mask:
    """Choose coordinates of `base` by how `tuned` differs from it.

    Args:
        base: checkpoint folder, `bundled:…`, or a model in memory.
        tuned: its sibling after training; not needed by the selector `random`.
        selector: a name in `SELECTORS`.
        density: share of the coordinates in scope, for `topk` and `random`: exactly
            round(density · n) are chosen (0.1 by default).
        threshold: for `threshold`: keep |Δ| above it (1e-5 by default).
        like: for `random`: match this mask's count in every tensor instead of a density.
        scope: shell patterns of checkpoint names; only matching tensors are chosen from.
        seed: breaks ties, and draws random masks.
        steps, recipe_hash, label: recorded in the provenance.

    Raises `MaskError` with one sentence on anything that does not fit.
    """
    settings = _settings(selector, density, threshold, like, seed)
    opened = open_tensors(base)
    comparison = Comparison(opened, open_tensors(tuned) if tuned is not None else None, scope)
    if like is not None:
        _check_like(like, comparison)
    rule = random_like if like is not None else SELECTORS[selector]
    chosen = rule(comparison, **settings)
    if not any(bool(flags.any()) for flags in chosen.values()):
        raise MaskError(
            f"the selector {selector} chose none of {comparison.numel:,} coordinates: raise the "
            "density, lower the threshold, or train longer"
        )
    hashes = {}
    tensors = {}
    for done, name in enumerate(comparison.shapes):
        hashes[name] = tensor_hash(opened[name])
        tensors[name] = _shaped(chosen.get(name), comparison.shapes[name])
        if progress is not None:
            progress("mask", done + 1, len(comparison.shapes))
    described: dict[str, Any] = {"scope": list(scope)} if scope else {}
    described |= {"like": like.digest(), "seed": seed} if like is not None else settings
    provenance = Provenance(
        base=label or (str(base) if not isinstance(base, nn.Module) else opened.label),
        base_hashes=hashes,
        selector="random" if like is not None else selector,
        settings=described,
        compared_in="float32",
        steps=steps,
        seed=seed,
        recipe_hash=recipe_hash,
        version=sparseopd.__version__,
    )
    return Mask.from_tensors(tensors, provenance)


def _check_like(like: Mask, comparison: Comparison) -> None:
    """Refuse a mask whose counts cannot be matched: of another model, or beyond the scope."""
    like.verify_shapes(comparison.shapes, comparison.base.label)
    outside = [name for name in like.names if like.count(name) and name not in comparison.names]
    if outside:
        raise MaskError(f"the mask to match chooses from {outside[0]}, which the scope leaves out")


def _settings(
    selector: str, density: float | None, threshold: float | None, like: Mask | None, seed: int
) -> dict[str, Any]:
    """The keyword arguments the selector takes; refuses those it would ignore."""
    if selector not in SELECTORS:
        raise MaskError(f"there is no selector {selector!r}: choose one of {', '.join(SELECTORS)}")
    if selector == "threshold":
        if density is not None or like is not None:
            raise MaskError(
                "the selector threshold takes a threshold, not a density or another mask"
            )
        threshold = 1e-5 if threshold is None else threshold
        if not 0 <= threshold < float("inf"):
            raise MaskError(f"the threshold is {threshold}: it must be finite and not negative")
        return {"threshold": threshold}
    if threshold is not None:
        raise MaskError(f"the selector {selector} takes a density, not a threshold")
    if like is not None:
        if selector != "random" or density is not None:
            raise MaskError(
                "another mask's counts are matched by the selector random, without a density"
            )
        return {"counts": {name: like.count(name) for name in like.names}, "seed": seed}
    density = 0.1 if density is None else density
    if not 0 < density <= 1:
        raise MaskError(f"the density is {density}: it must lie above 0 and at most 1")
    return {"density": density, "seed": seed}


def _shaped(chosen: Tensor | None, shape: torch.Size) -> Tensor:
    return torch.zeros(shape, dtype=torch.bool) if chosen is None else chosen.reshape(shape)
