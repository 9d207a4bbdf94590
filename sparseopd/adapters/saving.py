"""From a sparse adapter on a model to the tensors of its file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from sparseopd.adapter_files.format import HEADER, Entry, Header
from sparseopd.adapter_files.writer import stored
from sparseopd.adapters.adapted import Adapted
from sparseopd.adapters.config import SparseConfig
from sparseopd.adapters.layer import SparseLayer, key_of
from sparseopd.errors import AdapterError
from sparseopd.masks.mask import Mask
from sparseopd.pairs.parameters import checkpoint_pieces
from sparseopd.pairs.tensors import open_tensors, stored_hash, tensor_hash


def hashed(mask: Mask, model: nn.Module) -> Mask:
    """Check that a mask belongs to a model, and return it with the hashes of the model's tensors.

    Raises `MaskMismatchError` naming the tensors that do not fit; `AdapterError` for an empty mask.
    """
    if not mask.count():
        raise AdapterError("the mask is empty: nothing would be trained")
    mask.verify(model)
    known, tensors = mask.provenance, open_tensors(model)
    missing = [name for name in mask.names if name not in known.base_hashes]
    found = {name: stored_hash(tensors, name) for name in missing}
    # A mask made from a model in memory does not know where that came from; the model may.
    if known.base in ("", tensors.label):
        commit = getattr(getattr(model, "config", None), "_commit_hash", None)
        known = replace(known, base=getattr(model, "name_or_path", ""), revision=commit)
    # What the mask was found with is not where the values come from.
    known = replace(known, tuned="", base_hashes={**known.base_hashes, **found})
    return Mask(mask.bitmaps, known)


def adapter_tensors(
    model: nn.Module,
    config: SparseConfig,
    adapter: str,
    layers: Mapping[str, SparseLayer],
    held: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """Return what the file of an adapter holds, by key.

    Args:
        model: the model whose checkpoint names the mask has.
        layers: by their names in the state dict `held`, whose values are the ones that count.
    """
    mask, hashes = config.chosen, config.chosen.provenance.base_hashes
    values, results = {}, {}
    for place, layer in layers.items():
        adapted = layer.adapted(adapter)
        if adapted is not None:
            current = held.get(f"{place}.{key_of(adapter)}", adapted.values)
            current = current if adapted.masters is None else adapted.exact
            values |= adapted.placed.split(current.detach().cpu())
            results |= _results(model, layer, adapted)
    entries: list[Entry] = []
    tensors: dict[str, Tensor] = {}
    for name in mask.names:
        new = values.get(name)
        dtype = _dtype_of(hashes.get(name), new)
        rounded = None if new is None else new.to(dtype)
        lossless = new is None or rounded is None or torch.equal(rounded.to(new.dtype), new)
        entry, parts = stored(
            name,
            mask.bitmaps[name],
            rounded,
            masters=None if lossless or not config.save_masters else new,
            base_hash=hashes.get(name),
            result_hash=results.get(name) if _is_of(results.get(name), dtype) else None,
        )
        entries.append(entry)
        tensors |= parts
    header = Header(entries, mask.provenance).to_tensor()
    return {**tensors, HEADER: header}


def _results(model: nn.Module, layer: SparseLayer, adapted: Adapted) -> dict[str, str]:
    """The hashes of a weight's checkpoint tensors, if it holds this adapter's values and no other's."""
    if layer.stack.applied != [adapted.overlay] or not adapted.overlay.is_written:
        return {}
    pieces = checkpoint_pieces(model, layer.name, layer.weight.detach().cpu())
    return {name: tensor_hash(piece) for name, piece in pieces.items()}


def _dtype_of(base_hash: str | None, values: Tensor | None) -> torch.dtype:
    """The dtype in which the base stores a tensor, or, where that is not known, that of the values."""
    stored_in = getattr(torch, (base_hash or "").partition(":")[0], None)
    if isinstance(stored_in, torch.dtype):
        return stored_in
    return torch.float32 if values is None else values.dtype


def _is_of(digest: str | None, dtype: torch.dtype) -> bool:
    return digest is not None and digest.startswith(f"{str(dtype).removeprefix('torch.')}:")
