"""Read a model's tensors one at a time, by checkpoint name, from disk or from memory.

`open_tensors` gives the same small interface over a folder of (sharded) safetensors and over a
model in memory, so that selection, verification and comparison never need two whole models.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from sparseopd.errors import PairError
from sparseopd.pairs.loading import resolve_path
from sparseopd.pairs.parameters import checkpoint_pieces

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"


class Tensors(Protocol):
    """Tensors by checkpoint name; tied weights appear once."""

    label: str
    """What to call it in a sentence."""

    def keys(self) -> list[str]: ...
    def shape(self, name: str) -> torch.Size: ...
    def __getitem__(self, name: str) -> Tensor: ...


class FolderTensors:
    """The tensors of a checkpoint folder, each read from its (memory-mapped) shard when asked for."""

    def __init__(self, folder: Path) -> None:
        self.label = str(folder)
        tied = _tied_names(folder)
        shards = _shard_of_each(folder)
        self._shards = {name: folder / file for name, file in shards.items() if name not in tied}
        self._open: tuple[Path, safe_open] | None = None

    def keys(self) -> list[str]:
        """Return the names on disk, sorted."""
        return sorted(self._shards)

    def shape(self, name: str) -> torch.Size:
        """Return a tensor's shape without reading it."""
        return torch.Size(self._shard(name).get_slice(name).get_shape())

    def __getitem__(self, name: str) -> Tensor:
        return self._shard(name).get_tensor(name)

    def _shard(self, name: str) -> safe_open:
        path = self._shards[name]
        if self._open is None or self._open[0] != path:
            self._open = (path, _open_shard(path))
        return self._open[1]


class ModelTensors:
    """The parameters of a model in memory, under the names its checkpoint has."""

    def __init__(self, model: nn.Module) -> None:
        self.label = f"the {type(model).__name__} in memory"
        self._model = model
        self._parameters = dict(model.named_parameters())
        self._owner: dict[str, str] = {}
        self._shapes: dict[str, torch.Size] = {}
        for name, parameter in self._parameters.items():
            meta = torch.empty(parameter.shape, device="meta")
            for piece, tensor in checkpoint_pieces(model, name, meta).items():
                self._owner[piece], self._shapes[piece] = name, tensor.shape
        self._last: tuple[str, dict[str, Tensor]] = ("", {})

    def keys(self) -> list[str]:
        """Return the checkpoint names, sorted."""
        return sorted(self._owner)

    def shape(self, name: str) -> torch.Size:
        """Return a tensor's shape on disk."""
        return self._shapes[name]

    def __getitem__(self, name: str) -> Tensor:
        owner = self._owner[name]
        if self._last[0] != owner:  # the pieces of one parameter are asked for one after another
            self._last = (
                owner,
                checkpoint_pieces(self._model, owner, self._parameters[owner].detach()),
            )
        return self._last[1][name]


def open_tensors(source: str | Path | nn.Module) -> Tensors:
    """Open a checkpoint folder (or `bundled:…`) or a model in memory.

    Raises `PairError` when the folder has no safetensors weights.
    """
    if isinstance(source, nn.Module):
        return ModelTensors(source)
    folder = Path(resolve_path(str(source)))
    if not folder.is_dir():
        raise PairError(f"there is no model folder {source}")
    return FolderTensors(folder)


def tensor_hash(tensor: Tensor) -> str:
    """Return `dtype:digest` of a tensor's shape and bits (BLAKE2b, 128 bits, in hex)."""
    digest = hashlib.blake2b(str(tuple(tensor.shape)).encode(), digest_size=16)
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    if flat.numel():
        digest.update(flat.view(torch.uint8).numpy().data)
    return f"{str(tensor.dtype).removeprefix('torch.')}:{digest.hexdigest()}"


def matches_hash(tensor: Tensor, expected: str) -> bool:
    """Whether a tensor has the content `tensor_hash` saw, possibly held in a wider dtype since.

    A checkpoint stored in bfloat16 and loaded in float32 still matches: the cast back loses nothing.
    """
    stored = getattr(torch, expected.partition(":")[0], None)
    if not isinstance(stored, torch.dtype):
        return False
    cast = tensor.to(stored)
    return torch.equal(cast.to(tensor.dtype), tensor) and tensor_hash(cast) == expected


def _open_shard(path: Path) -> safe_open:
    try:
        return safe_open(path, framework="pt")
    except (OSError, SafetensorError) as error:
        raise PairError(f"cannot read the weights {path}: {error}") from error


def _tied_names(folder: Path) -> set[str]:
    """Return the names under which a checkpoint may repeat its embedding, where its config ties them."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        text = config.get("text_config") or {}
        tied = config.get("tie_word_embeddings", text.get("tie_word_embeddings", False))
    except (OSError, ValueError, AttributeError):
        return set()
    return {"lm_head.weight", "language_model.lm_head.weight"} if tied else set()


def _shard_of_each(folder: Path) -> dict[str, str]:
    """Map tensor names to file names, from the index if there is one."""
    if (folder / INDEX).is_file():
        try:
            shards = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"]
        except (ValueError, KeyError, TypeError) as error:
            raise PairError(f"{folder / INDEX} is not an index of shards") from error
        if any(Path(file).name != file for file in shards.values()):
            raise PairError(f"{folder / INDEX} names a shard outside its folder")
        return shards
    if not (folder / SINGLE).is_file():
        raise PairError(f"{folder} has no safetensors weights ({SINGLE} or {INDEX})")
    return dict.fromkeys(_open_shard(folder / SINGLE).keys(), SINGLE)
