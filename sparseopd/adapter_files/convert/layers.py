"""The linear layers of a base model: what each weight is called on disk, and its module in memory."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from sparseopd.adapter_files.adapter import SparseAdapter
from sparseopd.adapter_files.convert.result import share
from sparseopd.errors import AdapterError, PairError
from sparseopd.masks.mask import listing
from sparseopd.pairs.skeleton import name_on_disk, skeleton
from sparseopd.pairs.tensors import Source, Tensors, open_tensors

if TYPE_CHECKING:  # transformers takes seconds to import
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Architecture:
    """The modules of a model, by the names it has in memory."""

    linear: dict[str, str]
    """Checkpoint tensor → module, for weights of linear layers that lie on disk as in memory.

    A weight that another module shares is left out: an adapter of one would change the other, too.
    """
    modules: list[str]
    """All modules."""

    def targets(self, chosen: Sequence[str]) -> list[str] | str:
        """Return PEFT's `target_modules` for exactly these modules.

        PEFT takes the names in a list for ends of names as well; where that would match another
        module, it is a regular expression instead.
        """
        ends, own = tuple(f".{name}" for name in chosen), set(chosen)
        if any(name.endswith(ends) and name not in own for name in self.modules):
            return "|".join(re.escape(name) for name in sorted(own))
        return sorted(own)


@dataclass(frozen=True)
class Layer:
    """A linear layer in which an adapter has values."""

    module: str
    tensor: str
    """Its weight's checkpoint name."""
    rows: int
    columns: int
    k: int
    """Values of the adapter."""

    @property
    def numel(self) -> int:
        """Number of coordinates of the weight."""
        return self.rows * self.columns


@dataclass(frozen=True)
class Plan:
    """What a format for linear layers can hold of an adapter, and what it cannot."""

    base: Tensors
    architecture: Architecture
    layers: list[Layer]
    losses: list[str]

    @property
    def k(self) -> int:
        """Number of values in the layers."""
        return sum(layer.k for layer in self.layers)


def plan(adapter: SparseAdapter, base: Source | None, title: str) -> Plan:
    """Sort an adapter's tensors into linear layers and others, having checked that the base is its own.

    Raises `AdapterError` without a base or a linear layer, `AdapterMismatchError` for a foreign base.
    """
    if base is None:
        raise AdapterError(
            f"{title} holds differences from the base, and no base was given: give the checkpoint the "
            "adapter was made for"
        )
    tensors = open_tensors(base)
    adapter.verify(tensors)
    architecture = architecture_of(base, tensors)
    linear = architecture.linear
    layers = [
        Layer(
            linear[name], name, adapter.shape(name)[0], adapter.shape(name)[1], adapter.count(name)
        )
        for name in adapter.touched
        if name in linear
    ]
    others = [name for name in adapter.touched if name not in linear]
    if not layers:
        raise AdapterError(
            f"{adapter.label} has values in {listing(others)} and in no linear layer, and {title} has no "
            "place for others: convert it to coo or vllm-patch"
        )
    return Plan(tensors, architecture, layers, _left_out(adapter, others, title))


def architecture_of(base: Source, tensors: Tensors) -> Architecture:
    """Return the modules of a model in memory, or of one that is built without weights.

    Raises `AdapterError` where the base is neither a model nor a checkpoint folder with a config.json
    that transformers knows.
    """
    model = base if isinstance(base, nn.Module) else _skeleton(tensors)
    names = set(tensors.keys())
    uses = Counter(id(one) for _, one in model.named_parameters(remove_duplicate=False))
    linear = {
        tensor: module
        for module, layer in model.named_modules()
        if isinstance(layer, nn.Linear) and uses[id(layer.weight)] == 1
        if (tensor := _saved_as(model, f"{module}.weight", layer.weight.shape, names))
    }
    return Architecture(linear, [name for name, _ in model.named_modules()])


def _saved_as(model: nn.Module, parameter: str, shape: torch.Size, names: set[str]) -> str | None:
    """Return the checkpoint tensor that a parameter is saved as, None if it is split or reordered."""
    from sparseopd.pairs.parameters import checkpoint_pieces

    probe = torch.empty(shape)  # never written to, so that it takes no memory
    pieces = checkpoint_pieces(model, parameter, probe)
    name, piece = next(iter(pieces.items()))
    as_it_is = piece.data_ptr() == probe.data_ptr() and piece.stride() == probe.stride()
    if len(pieces) > 1 or not as_it_is or piece.shape != shape:
        return None
    found = name_on_disk(model, name, names)
    return found if found in names else None


def _skeleton(tensors: Tensors) -> PreTrainedModel:
    """Return the model of a checkpoint folder without weights; takes a second, and transformers."""
    folder = tensors.folder
    if folder is None or not (folder / "config.json").is_file():
        raise AdapterError(
            f"which layers of {tensors.label} are linear, and what they are called in memory, is said by "
            "its config.json, which is missing: give the base as a checkpoint folder"
        )
    try:
        return skeleton(folder)
    except PairError as error:
        raise AdapterError(
            f"{error}, so its layers are not known: convert to coo or vllm-patch, which need only the "
            "names on disk"
        ) from error


def _left_out(adapter: SparseAdapter, others: list[str], title: str) -> list[str]:
    if not others:
        return []
    lost = sum(adapter.count(name) for name in others)
    return [
        f"{title} holds linear layers alone, so {share(lost, adapter.count())} are left out, in "
        f"{len(others)} tensors: {listing(others)}"
    ]
