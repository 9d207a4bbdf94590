"""The mask file, format 1.

One safetensors file. For each covered checkpoint tensor a U8 tensor of the same name and
⌈numel / 8⌉ bytes: the coordinates row-major, eight to the byte, lowest bit first, spare bits zero.
The header's metadata has four strings:

    format       "sparseopd-mask"
    version      "1"
    tensors      JSON: {name: {"shape": […], "count": chosen, "checksum": BLAKE2b-64 in hex}}
    provenance   JSON: artifacts.Provenance

Why: safetensors gives names, lengths and offsets checked before anything is read and single tensors
without the rest; the bitmap costs n/8 bytes at any density; the checksum finds every flipped bit.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from sparseopd.artifacts import Provenance, written_whole
from sparseopd.errors import MaskFileError
from sparseopd.masks.bitmap import Bitmap

FORMAT, VERSION = "sparseopd-mask", "1"


def write(path: Path, bitmaps: Mapping[str, Bitmap], provenance: Provenance) -> None:
    """Write a mask; the same content gives the same bytes."""
    described = {
        name: {"shape": list(bitmap.shape), "count": bitmap.count, "checksum": _checksum(bitmap)}
        for name, bitmap in bitmaps.items()
    }
    metadata = {
        "format": FORMAT,
        "version": VERSION,
        "tensors": json.dumps(described, sort_keys=True),
        "provenance": json.dumps(asdict(provenance), sort_keys=True),
    }
    content = _with_sorted_header(
        save({name: bitmap.bits for name, bitmap in bitmaps.items()}), metadata
    )
    with written_whole(path) as temporary:
        temporary.write_bytes(content)


def read(path: Path) -> tuple[dict[str, Bitmap], Provenance]:
    """Read and check a mask. Raises `MaskFileError` saying what is wrong with the file."""
    if not path.is_file():
        raise MaskFileError(f"there is no mask file {path}")
    try:
        with safe_open(path, framework="np") as content:
            described, provenance = _header(path, content.metadata() or {})
            if set(described) != set(content.keys()):
                raise MaskFileError(
                    f"{path} is inconsistent: its header and tensors differ in names"
                )
            bitmaps = {name: _bitmap(path, name, content, described[name]) for name in described}
    except (SafetensorError, OSError) as error:
        raise MaskFileError(f"{path} is not a mask file, or is cut short ({error})") from error
    return bitmaps, provenance


def digest(bitmaps: Mapping[str, Bitmap]) -> str:
    """Return 32 hex digits over names, shapes and bits."""
    total = hashlib.blake2b(digest_size=16)
    for name in sorted(bitmaps):
        total.update(json.dumps([name, *bitmaps[name].shape]).encode())
        total.update(bitmaps[name].bits.data)
    return total.hexdigest()


def _header(path: Path, metadata: dict[str, str]) -> tuple[dict[str, Any], Provenance]:
    if metadata.get("format") != FORMAT:
        raise MaskFileError(f"{path} is a safetensors file but not a mask (format is not {FORMAT})")
    if metadata.get("version") != VERSION:
        raise MaskFileError(
            f"{path} is a mask of format {metadata.get('version')}, this sparseopd reads {VERSION}: upgrade it"
        )
    try:
        described, provenance = json.loads(metadata["tensors"]), json.loads(metadata["provenance"])
        return dict(described), Provenance(**provenance)
    except (KeyError, ValueError, TypeError) as error:
        raise MaskFileError(f"{path} has a damaged header ({error})") from error


def _bitmap(path: Path, name: str, content: safe_open, described: Any) -> Bitmap:
    """Read one tensor's bitmap; every length is checked before the bytes are read."""
    try:
        shape = tuple(int(size) for size in described["shape"])
        count, checksum = int(described["count"]), str(described["checksum"])
    except (KeyError, TypeError, ValueError) as error:
        raise MaskFileError(f"{path} has a damaged header for {name} ({error})") from error
    numel = 1
    for size in shape:
        numel *= size
    stored = content.get_slice(name)
    if (
        min(shape, default=0) < 0
        or stored.get_shape() != [(numel + 7) // 8]
        or stored.get_dtype() != "U8"
    ):
        raise MaskFileError(
            f"{path} is inconsistent: {name} does not hold a bitmap of shape {shape}"
        )
    bitmap = Bitmap(shape, content.get_tensor(name))
    if _checksum(bitmap) != checksum or bitmap.count != count or _has_spare_bits(bitmap):
        raise MaskFileError(f"{path} is damaged: the bits of {name} do not match their checksum")
    return bitmap


def _checksum(bitmap: Bitmap) -> str:
    content = hashlib.blake2b(str(bitmap.shape).encode(), digest_size=8)
    content.update(bitmap.bits.data)
    return content.hexdigest()


def _has_spare_bits(bitmap: Bitmap) -> bool:
    spare = bitmap.numel % 8
    return bool(spare and bitmap.bits[-1] >> spare)


def _with_sorted_header(content: bytes, metadata: dict[str, str]) -> bytes:
    """Add metadata to serialized safetensors; the library itself writes it in a random order."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    text = json.dumps({"__metadata__": metadata, **header}, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + content[8 + length :]
