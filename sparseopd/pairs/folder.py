"""The tensors of a checkpoint folder, read piece by piece from (sharded) safetensors."""

from __future__ import annotations

import json
from collections.abc import Collection
from contextlib import ExitStack
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sparseopd.errors import PairError
from sparseopd.pairs.locate import revision_of

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
RESIDENT_BYTES = 128 << 20
"""A memory map keeps every page it has shown, so maps are closed after this much was read."""
AROUND_BYTES = 2 << 20
"""What the kernel may show around a page that is touched."""

FLOATS = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
"""The floating-point dtypes of safetensors."""
_NOTHING: tuple[str, Tensor] = ("", torch.empty(0))
_BUFFERS = ("inv_freq", "masked_bias", "running_mean", "running_var")
"""Ends of the names of tensors that a checkpoint may hold and no optimizer trains."""


class FolderTensors:
    """The floating-point weights of a checkpoint folder; implements `Tensors`.

    Left out: integer tensors, buffers that are no parameters, and an output head that the config ties
    to the embedding (some checkpoints repeat it).
    """

    def __init__(
        self, folder: Path, *, label: str | None = None, only: Collection[str] | None = None
    ) -> None:
        """Read the headers only; `only` leaves out all other names.

        Raises `PairError` on missing, damaged or quantized weights.
        """
        self.label = label or str(folder)
        self._only = only
        self.folder = folder
        self.revision = revision_of(folder)
        config = _config(folder)
        if config.get("quantization_config"):
            raise PairError(
                f"the weights in {folder} are quantized, so their coordinates cannot be compared or "
                "trained: give the unquantized checkpoint"
            )
        self._shards: dict[str, Path] = {}
        self._facts: dict[str, tuple[torch.Size, torch.dtype]] = {}
        self._open: dict[Path, safe_open] = {}
        self._stack = ExitStack()
        self._shown = 0
        self._flat = _NOTHING
        self._lock = Lock()  # several threads ask, and whoever finds maps too large closes them
        self._read_headers(_tied_names(config))

    def keys(self) -> list[str]:
        """Return the names on disk, sorted."""
        return sorted(self._facts)

    def shape(self, name: str) -> torch.Size:
        """Return a tensor's shape without reading it."""
        return self._facts[name][0]

    def dtype(self, name: str) -> torch.dtype:
        """Return the dtype a tensor is stored in."""
        return self._facts[name][1]

    def __getitem__(self, name: str) -> Tensor:
        with self._lock:
            return self._tensor(name, self.shape(name).numel())

    def flat(self, name: str, start: int, stop: int) -> Tensor:
        """Return the coordinates start…stop of a tensor, row-major: (stop - start,) in its dtype."""
        with self._lock:
            if self._shown > RESIDENT_BYTES or self._flat[0] != name:
                self._flat = name, self._tensor(name, 0).reshape(-1)
            self._shown += max(AROUND_BYTES, (stop - start) * self.dtype(name).itemsize)
            return self._flat[1][start:stop]

    def _tensor(self, name: str, shown: int) -> Tensor:
        """A view of the mapped file; its pages are read when they are touched."""
        if self._shown > RESIDENT_BYTES:
            self._stack.close()  # what still looks at a map keeps it alive until it is done
            self._open, self._shown, self._flat = {}, 0, _NOTHING
        self._shown += shown * self.dtype(name).itemsize
        return self._shard(self._shards[name]).get_tensor(name)

    def _shard(self, path: Path) -> safe_open:
        if path not in self._open:
            try:
                self._open[path] = self._stack.enter_context(safe_open(path, framework="pt"))
            except (OSError, SafetensorError) as error:
                raise PairError(f"cannot read the weights {path}: {error}") from error
        return self._open[path]

    def _read_headers(self, tied: set[str]) -> None:
        expected = _shard_of_each(self.folder)
        for path in sorted({self.folder / file for file in expected.values()}) or [
            self.folder / SINGLE
        ]:
            shard = self._shard(path)
            for name in shard.keys():
                stored = shard.get_slice(name)
                dtype = FLOATS.get(stored.get_dtype())
                if dtype is None and name.endswith("weight"):
                    raise PairError(
                        f"{name} in {path} holds {stored.get_dtype()} numbers, as quantized weights do: "
                        "give the unquantized checkpoint"
                    )
                if dtype is None or name in tied or _is_buffer(name, stored.get_shape()):
                    continue
                if self._only is not None and name not in self._only:
                    continue
                self._shards[name] = path
                self._facts[name] = torch.Size(stored.get_shape()), dtype
            for name, file in expected.items():
                if self.folder / file == path and name not in shard.keys():
                    raise PairError(f"{path} lacks {name}, which the index {INDEX} says it holds")


def _is_buffer(name: str, shape: list[int]) -> bool:
    """Whether a tensor is no parameter; GPT-2's attn.bias of four dimensions is its causal mask."""
    return name.endswith(_BUFFERS) or (name.endswith("attn.bias") and len(shape) == 4)


def _config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}


def _tied_names(config: dict[str, Any]) -> set[str]:
    """Return the names under which a checkpoint may repeat its embedding, where its config ties them."""
    text = config.get("text_config")
    inner = text.get("tie_word_embeddings", False) if isinstance(text, dict) else False
    tied = config.get("tie_word_embeddings", inner)
    return {"lm_head.weight", "language_model.lm_head.weight"} if tied else set()


def _shard_of_each(folder: Path) -> dict[str, str]:
    """Map tensor names to file names, from the index; empty for a checkpoint of one file."""
    if (folder / INDEX).is_file():
        try:
            shards = dict(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"])
        except (ValueError, KeyError, TypeError) as error:
            raise PairError(f"{folder / INDEX} is not an index of shards") from error
        if any(not isinstance(file, str) or Path(file).name != file for file in shards.values()):
            raise PairError(f"{folder / INDEX} names a shard outside its folder")
        return shards
    if (folder / "adapter_config.json").is_file():
        raise PairError(f"{folder} is an adapter, not a model: give the model it was trained on")
    if not (folder / SINGLE).is_file():
        raise PairError(f"{folder} has no safetensors weights ({SINGLE} or {INDEX})")
    return {}
