"""A base, a checkpoint tuned from it at some coordinates, and the adapter between them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedModel

from sparseopd.adapter_files.adapter import SparseAdapter
from sparseopd.adapter_files.extract import extract
from sparseopd.masks.bitmap import ones


@dataclass(frozen=True)
class Trio:
    """The three folders."""

    base: Path
    tuned: Path
    adapter: Path

    def open(self) -> SparseAdapter:
        return SparseAdapter.load(self.adapter)


def sparse_tuned(
    folder: Path,
    model: PreTrainedModel,
    dtype: torch.dtype = torch.float32,
    density: float = 0.1,
    only: str = "",
) -> Trio:
    """Save a model and what a sparse update makes of it; `only` parameters with that in their name.

    Of the moved values some shrink so far, or become −0.0, that no sum with a rounded difference
    reaches them.
    """
    trio = Trio(folder / "base", folder / "tuned", folder / "adapter")
    model.to(dtype).save_pretrained(trio.base)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if only in name:
                moved = torch.rand(weight.shape, generator=generator) < density
                noise = torch.randn(weight.shape, generator=generator) * 1e-2
                small = torch.rand(weight.shape, generator=generator) < 0.05
                new = torch.where(small, noise * 1e-7, weight.float() + noise)
                new[new.abs() < 1e-10] = -0.0
                weight.copy_(torch.where(moved, new, weight.float()))
    model.save_pretrained(trio.tuned)
    extract(trio.base, trio.tuned, trio.adapter)
    return trio


def contents(folder: Path) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint of one file."""
    return load_file(folder / "model.safetensors")


def applied(adapter: SparseAdapter, base: Path) -> dict[str, Tensor]:
    """Return the base's tensors with an adapter's values written over them."""
    tensors = contents(base)
    for name in adapter.touched:
        where = torch.from_numpy(ones(adapter.mask.bitmaps[name].bits)).long()
        tensors[name].view(-1)[where] = adapter.values(name)
    return tensors


def bits(tensor: Tensor) -> Tensor:
    """Return the bits of 16- or 32-bit floats as integers."""
    return tensor.view({2: torch.int16, 4: torch.int32}[tensor.dtype.itemsize])


def same_bits(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    """Whether two checkpoints hold the same bits."""
    return ours.keys() == theirs.keys() and all(
        torch.equal(bits(ours[name]), bits(theirs[name])) for name in ours
    )


def counted(sentences: list[str], about: str) -> int:
    """Return the first number of the sentence that has these words, 0 if there is none."""
    found = [sentence for sentence in sentences if about in sentence]
    return int(re.findall(r"\d[\d,]*", found[0])[0].replace(",", "")) if found else 0
