"""The mask file, format 2; docs/mask-file.md is its specification.

One safetensors file: for each covered checkpoint tensor a U8 payload (`coding.py`), and in the header
what it covers and where it came from. It is written tensor by tensor into a header of reserved
length, and read the same way, so neither needs the memory of a whole mask.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import xxhash
from pydantic import TypeAdapter
from safetensors import SafetensorError, safe_open

from sparseopd.artifacts import Provenance, written_whole
from sparseopd.errors import MaskError, MaskFileError
from sparseopd.masks.bitmap import Bitmap, Bitmaps, numel_of
from sparseopd.masks.coding import longest
from sparseopd.masks.payload import is_plausible, pack, unpack

FORMAT, VERSION = "sparseopd-mask", "2"


@dataclass(frozen=True)
class _Entry:
    """What the header says of a tensor."""

    shape: tuple[int, ...]
    count: int
    checksum: str
    """XXH3-64 of shape and payload, in hex."""
    base_hash: str | None


def write(
    path: Path, bitmaps: Bitmaps, provenance: Provenance, *, if_empty: str | None = None
) -> None:
    """Write a mask, one tensor in memory at a time; the same content gives the same bytes.

    Raises `MaskError` with the sentence `if_empty`, if given, instead of naming a file that chooses
    nothing.
    """
    reserved = _reserve(bitmaps, provenance)
    entries: dict[str, _Entry] = {}
    ends: list[int] = []
    with written_whole(path) as temporary, temporary.open("wb") as file:
        file.write(bytes(8 + reserved))
        for name in bitmaps:
            bitmap = bitmaps[name]
            payload, checksum = pack(bitmap)
            file.write(payload.data)
            base_hash = provenance.base_hashes.get(name)
            entries[name] = _Entry(bitmap.shape, bitmap.count, checksum, base_hash)
            ends.append((ends[-1] if ends else 0) + len(payload))
        if if_empty is not None and not any(entry.count for entry in entries.values()):
            raise MaskError(if_empty)
        file.seek(0)
        file.write(reserved.to_bytes(8, "little"))
        file.write(_header(entries, ends, provenance).ljust(reserved))


def read(path: Path) -> tuple[Bitmaps, Provenance]:
    """Open a mask: read and check the header; each payload is read and checked when asked for.

    Raises `MaskFileError` saying what is wrong with the file.
    """
    if not path.is_file():
        raise MaskFileError(f"there is no mask file {path}")
    try:
        content = safe_open(path, framework="np")
        names, metadata = sorted(content.keys()), content.metadata() or {}
        entries, provenance = _parse(path, names, metadata)
        for name, entry in entries.items():
            _check_stored(path, name, entry, content)
    except (SafetensorError, OSError) as error:
        raise MaskFileError(f"{path} is not a mask file, or is cut short ({error})") from error

    def load(name: str) -> Bitmap:
        return _load(path, name, entries[name], content)

    shapes = {name: entry.shape for name, entry in entries.items()}
    return Bitmaps(shapes, load, {name: entry.count for name, entry in entries.items()}), provenance


def digest(bitmaps: Bitmaps) -> str:
    """Return 32 hex digits over names, shapes and bits."""
    total = hashlib.blake2b(digest_size=16)
    for name in bitmaps:
        total.update(json.dumps([name, *bitmaps.shape(name)]).encode())
        total.update(bitmaps[name].bits.data)
    return total.hexdigest()


def _reserve(bitmaps: Bitmaps, provenance: Provenance) -> int:
    """Return a length that the header cannot exceed, whatever the counts will be."""
    entries, ends, end = {}, [], 0
    for name in bitmaps:
        shape = bitmaps.shape(name)
        end += longest(numel_of(shape))
        ends.append(end)
        base_hash = provenance.base_hashes.get(name)
        entries[name] = _Entry(shape, numel_of(shape), "0" * 16, base_hash)
    length = len(_header(entries, ends, provenance))
    return length + -length % 8


def _header(entries: Mapping[str, _Entry], ends: list[int], provenance: Provenance) -> bytes:
    """Return the safetensors header; the library itself can only write what is all in memory."""
    hashed = any(entry.base_hash for entry in entries.values())
    described = [
        [list(entry.shape), entry.count, entry.checksum, *([entry.base_hash] if hashed else [])]
        for entry in entries.values()
    ]
    tensors, known = _json(described), _json(asdict(replace(provenance, base_hashes={})))
    metadata = {
        "format": FORMAT,
        "version": VERSION,
        "tensors": tensors,
        "provenance": known,
        "checksum": _header_checksum(list(entries), tensors, known),
    }
    header: dict[str, Any] = {"__metadata__": metadata}
    for name, begin, end in zip(entries, [0, *ends], ends, strict=False):
        header[name] = {"dtype": "U8", "shape": [end - begin], "data_offsets": [begin, end]}
    return _json(header).encode()


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=True)


def _parse(
    path: Path, names: list[str], metadata: dict[str, str]
) -> tuple[dict[str, _Entry], Provenance]:
    if metadata.get("format") != FORMAT:
        raise MaskFileError(f"{path} is a safetensors file but not a mask (format is not {FORMAT})")
    if metadata.get("version") != VERSION:
        raise MaskFileError(
            f"{path} is a mask of format {metadata.get('version')}, and this sparseopd reads format "
            f"{VERSION}: make the mask again, or install the sparseopd that wrote it"
        )
    try:
        tensors, known = metadata["tensors"], metadata["provenance"]
        if metadata["checksum"] != _header_checksum(names, tensors, known):
            raise ValueError("it does not match its checksum")
        described = json.loads(tensors)
        if len(described) != len(names):
            raise ValueError(f"{len(described)} tensors described, {len(names)} stored")
        entries = {name: _entry(*row) for name, row in zip(names, described, strict=True)}
        hashes = {name: entry.base_hash for name, entry in entries.items() if entry.base_hash}
        values = {**json.loads(known), "base_hashes": hashes}
        Provenance(**values)  # refuses unknown keys, which pydantic would drop
        return entries, TypeAdapter(Provenance).validate_python(values)
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        reason = str(error).split("\n")[0]
        raise MaskFileError(f"{path} has a damaged header ({reason})") from error


def _entry(shape: Any, count: Any, checksum: Any, base_hash: Any = None) -> _Entry:
    sizes = tuple(shape)
    if not all(type(size) is int and size >= 0 for size in (*sizes, count)):
        raise ValueError(f"shape {shape} and count {count} are not whole numbers")
    if not (isinstance(checksum, str) and isinstance(base_hash, (str, type(None)))):
        raise ValueError("a checksum is not text")
    return _Entry(sizes, count, checksum, base_hash)


def _check_stored(path: Path, name: str, entry: _Entry, content: safe_open) -> None:
    """Check a payload's length against what the header says, before anything is allocated."""
    stored = content.get_slice(name)
    size = stored.get_shape()
    is_bytes = stored.get_dtype() == "U8" and len(size) == 1
    if not (is_bytes and is_plausible(entry.shape, entry.count, size[0])):
        raise MaskFileError(
            f"{path} is inconsistent: {name} does not hold a mask of shape {entry.shape} with "
            f"{entry.count} coordinates"
        )


def _load(path: Path, name: str, entry: _Entry, content: safe_open) -> Bitmap:
    try:
        return unpack(entry.shape, entry.count, entry.checksum, content.get_tensor(name))
    except (SafetensorError, OSError, ValueError) as error:
        raise MaskFileError(f"{path} is damaged in {name}: {error}") from error


def _header_checksum(names: list[str], tensors: str, provenance: str) -> str:
    return xxhash.xxh3_64(_json([names, tensors, provenance]).encode()).hexdigest()
