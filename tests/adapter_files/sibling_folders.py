"""Small checkpoint folders of arbitrary bits, sharded in any way, and what was trained from them."""

from __future__ import annotations

import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from sparseopd.adapter_files.bits import as_integers

Tensors = dict[str, Tensor]
SHAPES = ((), (0, 3), (1,), (5,), (17, 9), (3, 2, 4))
FLOATS = (torch.bfloat16, torch.float16, torch.float32)
SPECIAL = ("nan", "-nan", "inf", "-inf", "-0.0", "0.0", "1e-45", "65504")


def write_folder(folder: Path, tensors: Tensors, shards: int = 1, **config: object) -> Path:
    """Save a checkpoint in a number of files; a single one has no index."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        return folder
    names, index = list(tensors), {}
    for number in range(shards):
        file = f"model-{number}.safetensors"
        mine = {name: tensors[name] for name in names[number::shards]}
        save_file(mine, folder / file, {"format": "pt"})
        index |= dict.fromkeys(mine, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    return folder


def read_folder(folder: Path) -> Tensors:
    """Return all tensors of all its files."""
    found: Tensors = {}
    for path in sorted(folder.glob("*.safetensors")):
        found |= load_file(path)
    return found


def same_bits(ours: Tensors, theirs: Tensors) -> bool:
    """Whether two checkpoints agree in names, dtypes, shapes and bits."""
    return ours.keys() == theirs.keys() and all(
        one.dtype == theirs[name].dtype
        and one.shape == theirs[name].shape
        and torch.equal(bits_of(one), bits_of(theirs[name]))
        for name, one in ours.items()
    )


def bits_of(tensor: Tensor) -> Tensor:
    """Return a tensor's bits as integers, flat."""
    return as_integers(tensor.reshape(-1))


def drawn_bits(seed: int, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    """Return a tensor of random bits: every kind of NaN, subnormals, both zeros."""
    generator = torch.Generator().manual_seed(seed)
    numel = torch.Size(shape).numel() * dtype.itemsize
    content = torch.randint(0, 256, (numel,), dtype=torch.uint8, generator=generator)
    return content.view(dtype).reshape(shape) if numel else torch.empty(shape, dtype=dtype)


def moved(base: Tensor, seed: int, share: float) -> Tensor:
    """Return a copy in which a share of coordinates has other, often special, values."""
    generator = torch.Generator().manual_seed(seed)
    flat = base.clone().reshape(-1)
    where = torch.rand(flat.shape, generator=generator) < share
    special = torch.tensor([float(text) for text in SPECIAL]).to(base.dtype)
    picked = special[torch.randint(0, len(SPECIAL), flat.shape, generator=generator)]
    noise = drawn_bits(seed + 1, base.dtype, tuple(flat.shape))
    other = torch.where(torch.rand(flat.shape, generator=generator) < 0.5, picked, noise)
    bits_of(flat)[where] = bits_of(other)[where]
    return flat.reshape(base.shape)


@st.composite
def siblings(draw: st.DrawFn) -> tuple[Tensors, Tensors]:
    """Draw a base of a few tensors in mixed dtypes and shapes, and one that differs in at least a bit."""
    kinds = st.tuples(st.sampled_from(SHAPES), st.sampled_from(FLOATS))
    seed = draw(st.integers(0, 2**20))
    base = {
        f"layer.{number}": drawn_bits(seed + number, dtype, shape)
        for number, (shape, dtype) in enumerate(draw(st.lists(kinds, min_size=1, max_size=5)))
    }
    base["norm"] = torch.tensor([1.0, 0.0, -0.0, 2.0])
    share = draw(st.sampled_from([0.0, 0.1, 0.6, 1.0]))
    tuned = {name: moved(one, seed, share) for name, one in base.items()}
    tuned["norm"][1] = -0.0
    return base, tuned


@contextmanager
def full_disk(limit: int) -> Iterator[None]:
    """Let no file grow beyond a number of bytes, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
