"""`extract`: from a base and a tuned checkpoint to an adapter, streamed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

import sparseopd
from sparseopd.adapter_files.format import WEIGHTS
from sparseopd.adapter_files.siblings import Counts, Siblings
from sparseopd.adapter_files.writer import AdapterWriter
from sparseopd.artifacts import Progress, Provenance, RunDir, labelled
from sparseopd.errors import AdapterError
from sparseopd.masks.mask import Mask
from sparseopd.masks.select import select
from sparseopd.pairs.tensors import Source, Tensors, open_tensors
from sparseopd.selection import DATA_FREE, Selection

BIT_BY_BIT = Provenance(selector="changed", compared_in="the base's dtype, bit by bit")
"""What is said of an adapter that holds all that changed."""


@dataclass(frozen=True)
class Extracted:
    """An adapter that was made, and how far it is from the tuned checkpoint.

    The base with the adapter applied differs from the tuned checkpoint at `lost` + `rounded`
    coordinates, and nowhere else.
    """

    adapter: Path
    """Its folder."""
    k: int
    """Coordinates with a new value."""
    numel: int
    """Coordinates of the base."""
    changed: int
    """Coordinates whose bits differ between base and tuned, both in the base's dtype."""
    lost: int
    """Changed ones that the adapter leaves out."""
    rounded: int
    """Coordinates whose tuned value has bits that the base's dtype cannot hold, lost ones apart."""
    bytes: int
    """Size of the adapter's weights file."""


def extract(
    base: Source,
    tuned: Source,
    output: Path,
    *,
    mask: Mask | None = None,
    selection: Selection | None = None,
    masters: bool = False,
    teacher: str = "",
    provenance: Provenance | None = None,
    progress: Progress | None = None,
) -> Extracted:
    """Write the adapter that turns `base` into `tuned`, one tensor's values in memory at a time.

    With neither `mask` nor `selection` it holds every coordinate whose bits differ, and reproduces
    `tuned` in the base's dtype. The same input gives the same bytes. Integers and buffers are no weights
    (pairs.FolderTensors), and are not compared.

    Args:
        base: checkpoint folder, hub id, `bundled:…`, or a model in memory.
        tuned: the same of its sibling after training, sharded in any way, in any dtype.
        output: folder of the adapter; it must not exist, or be empty.
        mask: hold the tuned values at these coordinates instead.
        selection: choose such a mask now, as `mask select` does.
        masters: keep the tuned values in float32 too, where they are more precise than the base's
            dtype.
        teacher: path or id of what `tuned` learned from.
        provenance: what is known of the run behind `tuned`; it takes precedence.
        progress: called with bytes read.

    Raises `AdapterError` for models that are no siblings or do not differ, `MaskError` for a mask or
    selection that does not fit, and `RunFolderError` where the folder cannot be written.
    """
    if mask is not None and selection is not None:
        raise AdapterError(
            "a mask and a selection were given, and each says what to take: leave one out"
        )
    folder = RunDir.unused(output).path
    opened, theirs = open_tensors(base), open_tensors(tuned)
    siblings = Siblings(opened, theirs, masters)
    if masters and not siblings.is_wider:
        raise AdapterError(
            f"{theirs.label} is stored no more precisely than {opened.label}, so float32 masters would "
            "hold the same values again: leave them out"
        )
    if mask is not None:
        mask.verify(opened)
    with AdapterWriter(folder) as writer:
        chosen = writer.path / "mask.safetensors"
        if selection is not None:
            mask = _select(opened, tuned, selection, chosen, progress)
        counts = _write(writer, siblings, mask, progress)
        chosen.unlink(missing_ok=True)
        _check_made(counts, masters, opened, theirs)
        header = writer.finish(_origin((base, tuned), (opened, theirs), mask, provenance), teacher)
    k = sum(entry.count for entry in header.entries)
    numel = sum(opened.shape(name).numel() for name in opened.keys())
    size = (folder / WEIGHTS).stat().st_size
    return Extracted(folder, k, numel, counts.changed, counts.lost, counts.rounded, size)


def _write(
    writer: AdapterWriter, siblings: Siblings, mask: Mask | None, progress: Progress | None
) -> Counts:
    """Compare tensor by tensor, and hand each to the writer."""
    counts, done = Counts(), 0
    total = sum(siblings.bytes_of(name) for name in siblings.names)
    for name, found in siblings.tensors(mask):
        writer.add(
            name,
            found.bitmap,
            found.values,
            masters=found.masters,
            base_hash=found.base_hash,
            result_hash=found.result_hash,
        )
        counts += found.counts
        done += siblings.bytes_of(name)
        if progress is not None and total:
            progress("extract", done, total, "bytes")
    return counts


def _select(
    base: Tensors,
    tuned: Source,
    selection: Selection,
    output: Path,
    progress: Progress | None,
) -> Mask:
    """Choose a mask, in a file, so that memory does not grow with it."""
    compared = None if selection.selector in DATA_FREE else tuned
    reporting = labelled(progress, "choose")
    return select(base, compared, selection=selection, output=output, progress=reporting)


def _check_made(counts: Counts, masters: bool, base: Tensors, tuned: Tensors) -> None:
    """Raise `AdapterError` for an adapter that would change nothing."""
    if counts.changed and counts.lost == counts.changed:
        raise AdapterError(
            f"none of the {counts.changed:,} coordinates that changed is chosen, so the adapter would "
            "change nothing: give the mask that was trained, or none"
        )
    if not counts.changed and not counts.rounded:
        raise AdapterError(
            f"nothing differs between {base.label} and {tuned.label}: give a checkpoint that was "
            "trained further"
        )
    if not counts.changed and not masters:
        raise AdapterError(
            f"{tuned.label} differs from {base.label} only in bits that the base's dtype cannot hold "
            f"({counts.rounded:,} values): keep float32 masters, or give the base in the wider dtype"
        )


def _origin(
    given: tuple[Source, Source],
    opened: tuple[Tensors, Tensors],
    mask: Mask | None,
    known: Provenance | None,
) -> Provenance:
    """Describe an adapter; what is `known` already takes precedence over the mask's own provenance."""
    base, tuned = opened
    stored = {"base": _dtypes(base), "tuned": _dtypes(tuned)}
    by_mask = BIT_BY_BIT if mask is None else mask.provenance
    made = replace(
        by_mask,
        base=_called(given[0]) or by_mask.base,
        revision=base.revision or by_mask.revision,
        base_hashes={},
        tuned=_called(given[1]) or by_mask.tuned,
        stored_in=stored,
        version=sparseopd.__version__,
    )
    return replace(made, **({} if known is None else _filled(known)))


def _filled(known: Provenance) -> dict[str, Any]:
    """Return what a provenance says: a seed of 0 too, but not that no count of idle ones is known."""
    silent = Provenance()
    return {key: value for key, value in vars(known).items() if value != getattr(silent, key)}


def _called(source: Source) -> str:
    """Return the path or id of a model, empty for one that was made in memory."""
    if isinstance(source, (str, Path)):
        return str(source)
    if not isinstance(source, nn.Module):
        return source.label if source.folder else ""
    found = getattr(source, "name_or_path", "")
    return found if isinstance(found, str) else ""


def _dtypes(tensors: Tensors) -> list[str]:
    return sorted({str(tensors.dtype(name)).removeprefix("torch.") for name in tensors.keys()})
