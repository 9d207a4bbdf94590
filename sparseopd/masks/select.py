"""`select`: from one or two models to a mask with its provenance, streamed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from sparseopd.artifacts import Progress, Provenance
from sparseopd.errors import MaskError
from sparseopd.masks.bitmap import Bitmap, Bitmaps
from sparseopd.masks.comparison import Comparison
from sparseopd.masks.drawn import drawn_like
from sparseopd.masks.file import write
from sparseopd.masks.mask import Mask
from sparseopd.masks.origin import origin
from sparseopd.masks.ranking import count_scores, not_a_number, take_largest
from sparseopd.masks.reading import Reading
from sparseopd.masks.scope import shares
from sparseopd.masks.selectors import MATRICES, RULES, SCORES
from sparseopd.masks.stream import Piece, Shelf, for_each
from sparseopd.pairs.locate import weights_folder
from sparseopd.pairs.lora import LoraUpdate, is_lora_folder
from sparseopd.pairs.tensors import Source, Tensors, open_tensors, stored_hash
from sparseopd.selection import DATA_FREE, Selection, build, check, resolved, total
from sparseopd.singular import is_matrix


def select(
    base: Source,
    tuned: Source | None = None,
    *,
    selection: Selection | None = None,
    scope: Iterable[str] = (),
    like: Mask | None = None,
    seed: int = 0,
    output: Path | None = None,
    provenance: Provenance | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> Mask:
    """Choose coordinates of `base`, reading the checkpoints once or twice, in bounded memory.

    Args:
        base: checkpoint folder, hub id, `bundled:…`, or a model in memory.
        tuned: its sibling after training, or a PEFT LoRA folder; for the selector saliency a folder of
            scores. Not for data-free selectors.
        selection: how to choose; or give its fields (selector, density, k, budget, include, exclude…)
            by keyword.
        scope: more patterns or blocks to include.
        like: for the selector random: match this mask's counts instead of a density.
        seed: breaks ties, and draws random masks.
        output: write the mask to this file as it is made, and return it opened from there; memory
            then does not grow with the model.
        provenance: what is known of the run behind `tuned` (steps, recipe hash, label of the base).
        progress: called with bytes read.

    Raises `MaskError` with one sentence on anything that does not fit.
    """
    if isinstance(scope, str):
        raise MaskError(f"scope is {scope!r}: give a list of patterns or blocks, as [{scope!r}]")
    selection = selection or build(**settings)
    check(selection)
    if not 0 <= seed < 2**31:
        raise MaskError(f"seed is {seed}: it must lie between 0 and {2**31 - 1:,}")
    _check_request(selection, tuned, like)
    opened = open_tensors(base)
    reading = Reading(progress)
    comparison = Comparison(
        opened,
        _open_tuned(tuned, opened, selection.selector == "saliency"),
        [*selection.include, *scope],
        selection.exclude,
        seed,
        reading,
    )
    if like is not None:
        like.verify(opened)
    reading.expect(comparison, selection)
    chosen = _choose(comparison, selection, like)
    made = origin(comparison, selection, [*scope], like, (base, tuned), provenance)
    if selection.selector not in DATA_FREE:
        made = replace(made, idle=_check_moved(chosen, comparison, selection))
    return _finish(chosen.bitmaps, comparison, made, output, reading)


def _check_moved(chosen: Chosen, comparison: Comparison, selection: Selection) -> int:
    """Return how many chosen coordinates have a score of 0. Raises `MaskError` if all have."""
    numel = sum(comparison.numels.values())
    if selection.ranks and chosen.idle == total(resolved(selection), numel):
        raise MaskError(
            f"none of {numel:,} coordinates moved, so there is nothing to rank: give a tuned model "
            "that differs from the base"
        )
    return chosen.idle


def _check_request(selection: Selection, tuned: Source | None, like: Mask | None) -> None:
    selector = selection.selector
    if selector in DATA_FREE and tuned is not None:
        raise MaskError(
            f"the selector {selector} looks at the base alone: leave the tuned model out"
        )
    if selector not in DATA_FREE and tuned is None:
        what = "a folder of scores" if selector == "saliency" else "a tuned model"
        raise MaskError(f"the selector {selector} needs {what} beside the base: give it as TUNED")
    if like is None:
        if selection.match is not None:
            raise MaskError("match says how to draw like another mask: name that mask with like")
        return
    given = [name for name in ("density", "k", "budget") if getattr(selection, name) is not None]
    if selector != "random" or given:
        raise MaskError(
            f"like draws a random mask with another one's counts: leave out {', '.join(given) or selector}, "
            "and choose the selector random"
        )


def _open_tuned(tuned: Source | None, base: Tensors, scores: bool) -> Tensors | LoraUpdate | None:
    if not isinstance(tuned, (str, Path)):
        return None if tuned is None else open_tensors(tuned)
    folder = weights_folder(str(tuned))
    if scores and ((folder / "config.json").exists() or is_lora_folder(folder)):
        raise MaskError(
            f"{tuned} is a model, and the selector saliency takes a folder of scores: give what "
            "discover wrote to saliency/ in its run folder, or choose topk"
        )
    return LoraUpdate(folder, base, base.folder) if is_lora_folder(folder) else open_tensors(tuned)


def _choose(comparison: Comparison, given: Selection, like: Mask | None) -> Chosen:
    """Run the selector; what it returns is read tensor by tensor."""
    selection = resolved(given)
    if not selection.ranks:
        return Chosen(_by_rule(comparison, RULES[selection.selector](comparison, selection)))
    if like is not None:
        score = SCORES[selection.selector](comparison, selection)
        return Chosen(drawn_like(comparison, like.bitmaps, score, selection.match or "tensor"))
    return take_many(comparison, [selection])[0]


@dataclass(frozen=True)
class Chosen:
    """What a selector chose, read tensor by tensor."""

    bitmaps: Bitmaps
    idle: int = 0
    """How many of the coordinates were ranked at 0, and so drawn among equals."""


def take_many(comparison: Comparison, selections: Sequence[Selection]) -> list[Chosen]:
    """Take the top k of several selections that differ in density or k alone.

    Their scores are counted once. Raises `MaskError` if a selection would take nothing.
    """
    first = resolved(selections[0])
    score = SCORES[first.selector](comparison, first)
    numels = comparison.numels
    if first.selector in MATRICES:
        numels = {name: n for name, n in numels.items() if is_matrix(comparison.shapes[name])}
    if not numels:
        raise MaskError(
            f"the selector {first.selector} chooses from matrices, and the scope has none: include some"
        )
    totals = [total(resolved(selection), sum(numels.values())) for selection in selections]
    quotas = [shares(first.budget or "global", numels, k) for k in totals]
    shelf, readers, idle = Shelf(), [{} for _ in selections], [0] * len(selections)
    for group in zip(*quotas, strict=True):
        names = group[0][0]
        counts = count_scores(comparison, score, names) if len(selections) > 1 else None
        for place, (_, k) in enumerate(group):
            taken = take_largest(comparison, score, names, k, shelf, counts)
            readers[place] |= dict.fromkeys(names, taken.bitmap)
            idle[place] += taken.idle
    covering = [_covering(comparison, known) for known in readers]
    return [Chosen(*one) for one in zip(covering, idle, strict=True)]


def _by_rule(comparison: Comparison, rule: Callable[[Piece], Any]) -> Bitmaps:
    def pack(piece: Piece) -> Bitmap:
        if bool(torch.isnan(comparison.magnitude(piece)).any()):
            raise not_a_number(piece)
        return Bitmap.pack(piece.name, rule(piece))

    def read(name: str) -> Bitmap:
        found = [bitmap.bits for _, bitmap in for_each(comparison.pieces([name]), pack)]
        return Bitmap.join(comparison.shapes[name], found)

    return _covering(comparison, dict.fromkeys(comparison.names, read))


def _covering(comparison: Comparison, readers: dict[str, Callable[[str], Bitmap]]) -> Bitmaps:
    """Cover every tensor of the base; what no reader knows has nothing chosen."""

    def read(name: str) -> Bitmap:
        known = readers.get(name)
        return Bitmap.empty(comparison.shapes[name]) if known is None else known(name)

    return Bitmaps(comparison.shapes, read)


def _finish(
    chosen: Bitmaps,
    comparison: Comparison,
    provenance: Provenance,
    output: Path | None,
    reading: Reading,
) -> Mask:
    """Hash the base, and hold or write the mask."""
    for name, digest in for_each(
        comparison.shapes, lambda name: stored_hash(comparison.base, name)
    ):
        provenance.base_hashes[name] = digest
        reading(comparison.shapes[name].numel() * comparison.base.dtype(name).itemsize)
    numel = sum(comparison.numels.values())
    remedy = (
        "lower the threshold or train longer"
        if provenance.selector == "threshold"
        else "train longer"
    )
    nothing = f"the selector {provenance.selector} chose none of {numel:,} coordinates: {remedy}"
    if output is None:
        mask = Mask(Bitmaps.held({name: chosen[name] for name in chosen}), provenance)
        if not mask.count():
            raise MaskError(nothing)
    else:
        write(output, chosen, provenance, if_empty=nothing)
        mask = Mask.load(output)
    reading.finish()
    return mask
