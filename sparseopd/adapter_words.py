"""What the adapter commands say and print as JSON; no output, only text and figures."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.filesize import decimal

from sparseopd.adapter_files.adapter import SparseAdapter
from sparseopd.adapter_files.card_text import one_line, value_text
from sparseopd.adapter_files.format import WEIGHTS
from sparseopd.pairs.locate import weights_folder

if TYPE_CHECKING:
    from sparseopd.adapter_files.convert import Converted
    from sparseopd.adapter_files.extract import Extracted

DIGITS = 12
"""Digits of a digest that a person is shown."""


def extracted(made: Extracted) -> dict[str, Any]:
    """Return what `extract --json` prints."""
    return {
        **asdict(made),
        "adapter": str(made.adapter),
        "density": made.k / made.numel,
        "bits_per_value": 8 * made.bytes / made.k,
        "exact": not made.lost and not made.rounded,
    }


def faithfulness(made: Extracted, base: str, tuned: str, masters: bool) -> list[str]:
    """Return sentences on how the base with the adapter differs from the tuned checkpoint."""
    lines = []
    if not made.lost and not made.rounded:
        lines.append(f"applied to {base}, it gives {tuned}, every weight bit for bit")
    if made.lost:
        lines.append(
            f"{made.lost:,} of the {made.changed:,} changed weights are left out: applied to {base}, "
            f"it gives another model than {tuned}"
        )
    if made.rounded:
        kept = "; float32 masters keep those among its own values" if masters else ""
        lines.append(
            f"{made.rounded:,} weights of {tuned} have bits that the dtype of {base} cannot hold, and "
            f"it gives them rounded{kept}"
        )
    same = made.k - (made.changed - made.lost)
    if same:
        lines.append(f"{same:,} of its values are the base's own: chosen, and not changed")
    return lines


def stored(adapter: SparseAdapter) -> dict[str, Any]:
    """Return what `show --json` prints, but for provenance and layout."""
    dtypes = {str(adapter.dtype(name)).removeprefix("torch.") for name in adapter.touched}
    size = _size(adapter)
    return {
        "k": adapter.count(),
        "numel": adapter.mask.numel(),
        "density": adapter.mask.density(),
        "tensors": len(adapter.names),
        "touched": len(adapter.touched),
        "dtypes": sorted(dtypes),
        "bytes": size,
        "bits_per_value": 8 * size / adapter.count(),
        "masters": adapter.has_masters,
        "teacher": adapter.teacher,
        "base_state": adapter.base_state(),
        "result_state": adapter.result_state(),
    }


def description(adapter: SparseAdapter, facts: dict[str, Any]) -> list[str]:
    """Return sentences on what an adapter is, and where it came from; no foreign text steers a terminal."""
    known = adapter.mask.provenance
    revision = f" at {known.revision}" if known.revision else ""
    masters = "and in float32 too" if adapter.has_masters else "without float32 masters"
    settings = value_text(known.settings)
    selector = f"selector {known.selector or 'unknown'}"
    lines = [
        f"{share(facts['k'], facts['numel'])}, in {facts['touched']:,} of {facts['tensors']:,} tensors",
        f"stored in {' and '.join(facts['dtypes'])}, {masters}: {decimal(facts['bytes'])}, "
        f"{facts['bits_per_value']:.3g} bits a value",
        f"base {known.base or 'unknown'}{revision}, {_state(facts['base_state'])}",
        f"result {_state(facts['result_state'])}",
        f"teacher {adapter.teacher or 'not recorded'}",
        selector + (f" ({settings})" if settings else ""),
    ]
    if known.tuned:
        lines.append(f"values of {known.tuned}")
    if known.steps:
        lines.append(f"{known.steps:,} training steps behind the choice")
    return [one_line(line) for line in lines]


def legible(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the layout of a mask with names that are safe to print."""
    return [{**row, "module": one_line(row["module"])} for row in rows]


def converted(done: Converted, source: str, is_ours: bool) -> str:
    """Say how many of the values of an adapter, counted where it is ours, another one holds."""
    if not is_ours:
        return f"{done.folder} holds {done.k:,} values of {source}"
    total = SparseAdapter.load(source).count()
    return f"{done.folder} holds {done.k:,} of the {total:,} values of {source}"


def share(k: int, numel: int) -> str:
    """Say how many values there are, and in how many coordinates."""
    return f"{k:,} new values for {numel:,} coordinates ({100 * k / numel:.3g} %)"


def _size(adapter: SparseAdapter) -> int:
    """Bytes of the weights file."""
    return (weights_folder(adapter.label) / WEIGHTS).stat().st_size


def _state(digest: str) -> str:
    return f"state {digest[:DIGITS]}" if digest else "state unknown"
