"""A safetensors file that holds the same parts, NAME.PART, of each of its tensors."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from sparseopd.adapter_files.format import HEADER
from sparseopd.errors import AdapterFileError


class PlainFile:
    """Reads the parts of tensors, one at a time."""

    def __init__(self, path: Path, parts: tuple[str, ...]) -> None:
        """Read the header. Raises `AdapterFileError` unless each tensor has all parts and no others."""
        self.label = str(path)
        try:
            self._file = safe_open(path, framework="pt")
        except (SafetensorError, OSError) as error:
            raise AdapterFileError(f"cannot read {path}: {error}") from error
        self.metadata: dict[str, str] = self._file.metadata() or {}
        split = [key.rpartition(".") for key in self._file.keys()]
        found = {(name, part) for name, _, part in split}
        self.names = sorted({name for name, _ in found})
        wanted = {(name, part) for name in self.names for part in parts}
        if not found or found != wanted:
            odd = ".".join(min(found ^ wanted)) if found else "everything"
            state = "has" if odd in self._file.keys() else "lacks"
            raise AdapterFileError(
                f"{path} {state} {odd}, and should hold {', '.join(parts)} of each tensor"
            )

    def tensor(self, name: str, part: str) -> Tensor:
        """Return a part. Raises `AdapterFileError`."""
        try:
            return self._file.get_tensor(f"{name}.{part}")
        except (SafetensorError, OSError) as error:
            raise AdapterFileError(f"{self.label} is damaged in {name}: {error}") from error


def has_header(path: Path) -> bool:
    """Whether a file is a safetensors file with the header of an adapter of our own."""
    with suppress(SafetensorError, OSError), safe_open(path, framework="pt") as file:
        return HEADER in file.keys()
    return False


def format_of(path: Path) -> str:
    """Return what a safetensors file's metadata calls its format, empty if nothing or no such file."""
    try:
        with safe_open(path, framework="pt") as file:
            return (file.metadata() or {}).get("format", "")
    except (SafetensorError, OSError):
        return ""
