"""Amounts of memory and counts, as people write and read them."""

from __future__ import annotations

import re

from sparseopd.errors import RequestError

UNITS = {
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
}


def parse_size(text: str) -> int:
    """Return the bytes of "24GiB", "80GB" or "500 MiB". Raises `RequestError` for anything else."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]+)\s*", text)
    units = {name.lower(): size for name, size in UNITS.items()}
    if found is None or found[2].lower() not in units:
        raise RequestError(
            f"{text!r} is not a size: write a number and a unit ({', '.join(UNITS)}), such as 24GiB"
        )
    return int(float(found[1]) * units[found[2].lower()])


def readable(size: int) -> str:
    """Return bytes in the binary unit that suits them: "23.5 GiB"."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        amount = size / UNITS[unit]
        if amount >= 1:
            return f"{amount:.3g} {unit}" if amount < 1000 else f"{amount:,.0f} {unit}"
    return f"{size} B"


def parameters(count: int) -> str:
    """Return a number of parameters in thousands, millions or billions: "1.72 B"."""
    for size, unit in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return str(count)
