"""The adapter file, format 1: what its header says of each tensor; docs/adapter-file.md specifies it.

One safetensors file. For a base tensor with chosen coordinates it has `NAME.mask`, coded as in mask
files, `NAME.values`, the new values in the base's dtype, and perhaps `NAME.masters`, the same in float32.
The tensor `sparseopd` is the header, as bytes, so that a library which writes tensors alone keeps it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
import xxhash
from pydantic import TypeAdapter
from torch import Tensor

from sparseopd.artifacts import Provenance

FORMAT, VERSION = "sparseopd-adapter", "1"
WEIGHTS, CONFIG, CARD = "adapter_model.safetensors", "adapter_config.json", "README.md"
HEADER = "sparseopd"
"""The name of the header among the tensors."""
PEFT_TYPE = "SPARSEOPD"
"""What adapter_config.json calls this kind of adapter."""
PARTS = ("mask", "values", "masters")
"""What is stored of a tensor, in the order of its checksums."""


@dataclass(frozen=True)
class Entry:
    """What the header says of one tensor of the base."""

    name: str
    shape: tuple[int, ...]
    count: int
    base_hash: str | None = None
    """Of the tensor before (pairs.tensor_hash)."""
    result_hash: str | None = None
    """Of the tensor with the new values; None if it is not changed, or unknown."""
    checksums: tuple[str, ...] = ()
    """XXH3-64 of mask, values and, where there are any, masters; none if no coordinate is chosen."""

    @property
    def has_masters(self) -> bool:
        """Whether the new values are stored in float32 as well."""
        return len(self.checksums) == len(PARTS)


@dataclass(frozen=True)
class Header:
    """What an adapter says of itself."""

    entries: list[Entry]
    """Every tensor of the base, sorted by name."""
    provenance: Provenance
    """Of the mask; its base hashes are those of the entries."""
    teacher: str = ""

    def to_tensor(self) -> Tensor:
        """Return the header as JSON bytes: uint8 (n,)."""
        rows = [
            [e.name, list(e.shape), e.count, e.base_hash, e.result_hash, *e.checksums]
            for e in self.entries
        ]
        body = [rows, asdict(replace(self.provenance, base_hashes={})), self.teacher]
        known = {"format": FORMAT, "version": VERSION, "checksum": _checksum_of(body), "body": body}
        return torch.frombuffer(bytearray(_json(known)), dtype=torch.uint8)

    @classmethod
    def from_bytes(cls, content: bytes) -> Header:
        """Read a header. Raises `ValueError` saying what is wrong with it."""
        try:
            known = json.loads(content)
            if not isinstance(known, dict) or known.get("format") != FORMAT:
                raise ValueError(f"its format is not {FORMAT}")
            if known.get("version") != VERSION:
                raise ValueError(
                    f"it has format {known.get('version')}, and this sparseopd reads format {VERSION}"
                )
            if known["checksum"] != _checksum_of(known["body"]):
                raise ValueError("its header does not match its checksum")
            rows, described, teacher = known["body"]
            entries = [_entry(*row) for row in rows]
            return cls(entries, _provenance(described, entries), _text(teacher))
        except (KeyError, TypeError, RecursionError) as error:
            raise ValueError(f"its header is damaged ({str(error).splitlines()[0]})") from error


def checksum(tensor: Tensor) -> str:
    """Return the XXH3-64 of a tensor's dtype, shape and bytes, in hex."""
    content = xxhash.xxh3_64(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
    content.update(raw(tensor))
    return content.hexdigest()


def raw(tensor: Tensor) -> memoryview:
    """Return the bytes of a contiguous tensor on the CPU."""
    flat = tensor.detach().reshape(-1)
    return flat.view(torch.uint8).numpy().data if flat.numel() else memoryview(b"")


def state(hashes: Mapping[str, str]) -> str:
    """Return 32 hex digits that identify the content of a checkpoint by its tensors' hashes."""
    total = hashlib.blake2b(digest_size=16)
    for name in sorted(hashes):
        total.update(_json([name, hashes[name]]))
    return total.hexdigest()


def config(header: Header) -> dict[str, Any]:
    """Return what adapter_config.json holds, so that PEFT can load the adapter."""
    known = header.provenance
    k = sum(entry.count for entry in header.entries)
    return {
        "peft_type": PEFT_TYPE,
        "task_type": None,
        "base_model_name_or_path": known.base or None,
        "revision": known.revision,
        "inference_mode": True,
        "k": k,
        "save_masters": any(entry.has_masters for entry in header.entries),
    }


def _entry(
    name: Any, shape: Any, count: Any, base_hash: Any, result_hash: Any, *sums: Any
) -> Entry:
    sizes = tuple(shape)
    if not all(type(size) is int and size >= 0 for size in (*sizes, count)):
        raise ValueError(f"shape {shape} and count {count} are not whole numbers")
    texts = (name, *(text for text in (base_hash, result_hash) if text is not None), *sums)
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("a name or hash is not text")
    if len(sums) not in ((2, 3) if count else (0,)):
        raise ValueError(f"{name} has {len(sums)} checksums")
    return Entry(name, sizes, count, base_hash, result_hash, tuple(sums))


def _provenance(described: Any, entries: Sequence[Entry]) -> Provenance:
    hashes = {entry.name: entry.base_hash for entry in entries if entry.base_hash}
    values = {**described, "base_hashes": hashes}
    Provenance(**values)  # refuses unknown keys, which pydantic would drop
    return TypeAdapter(Provenance).validate_python(values)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("the teacher is not text")
    return value


def _checksum_of(body: Any) -> str:
    return xxhash.xxh3_64(_json(body)).hexdigest()


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=True).encode()
