"""What `analysis.py` shows of its results: the tables of the README, and time against model size."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sparseopd.report.file import save_figure
from sparseopd.report.svg import house_style

PLAIN, WITHOUT, WITH = "plain torch.linalg.svd", "analyze --no-null", "analyze"
LABELS = {WITH: "with nulls", WITHOUT: "without nulls"}
COLORS = {WITH: "#d55e00", WITHOUT: "#0072b2"}
SIZE = (9.4, 3.3)
"""Inches, both panels with their labels."""


def table(results: dict[str, Any]) -> str:
    """Write the markdown of whatever parts there are."""
    return "\n\n".join(TABLES[part](results[part]) for part in TABLES if part in results)


def _pair_table(part: dict[str, Any]) -> str:
    lines = [
        f"| Qwen3 of {part['parameters'] / 1e6:.0f} M parameters, bf16 | time | user time | peak memory |",
        "| --- | --- | --- | --- |",
    ]
    rows = {
        PLAIN: f"{PLAIN}, no nulls",
        WITHOUT: f"`sparseopd {WITHOUT}`",
        WITH: f"`sparseopd {WITH}`, {part['draws']} draws of both nulls",
    }
    for way, label in rows.items():
        found = part["median"][way]
        lines.append(
            f"| {label} | {found['seconds']:.1f} s | {found['user_seconds']:.1f} s "
            f"| {found['peak_bytes'] / 2**20:.0f} MiB |"
        )
    worst = sorted(part["differences"].items(), key=lambda one: -one[1])
    listed = ", ".join(f"{kind} {found:.0e}" for kind, found in worst) or "none"
    return "\n".join([*lines, "", f"Largest relative differences between the two: {listed}."])


def _size_table(part: dict[str, Any]) -> str:
    lines = [
        "| parameters | hidden | layers | without nulls | with nulls | peak memory with nulls |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in (*part["depth"], *part["width"]):
        shape, (without, with_nulls) = row["shape"], (row["ways"][way] for way in (WITHOUT, WITH))
        lines.append(
            f"| {row['parameters'] / 1e6:.0f} M | {shape['hidden']} | {shape['layers']} "
            f"| {without['seconds']:.1f} s | {with_nulls['seconds']:.1f} s "
            f"| {with_nulls['peak_bytes'] / 2**20:.0f} MiB |"
        )
    fits = (
        f"{LABELS[way]} {fit['start_seconds']:.1f} s and {fit['seconds_a_million']:.3f} s a million "
        f"parameters (R² {fit['r_squared']:.4f})"
        for way, fit in part["fits"].items()
    )
    return "\n".join([*lines, "", f"Lines through the deeper models: {'; '.join(fits)}."])


def _gpu_table(part: dict[str, Any]) -> str:
    if part["models"] is None:
        return f"On a GPU: not measured, {part['why']}."
    lines = [
        "| on a GPU | parameters | without nulls | with nulls | peak memory of the host |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, row in part["models"].items():
        without, with_nulls = (row["ways"][way] for way in (WITHOUT, WITH))
        lines.append(
            f"| Qwen3-{name} | {row['parameters'] / 1e6:,.0f} M | {without['seconds'] / 60:.1f} min "
            f"| {with_nulls['seconds'] / 60:.1f} min | {with_nulls['peak_bytes'] / 2**30:.1f} GiB |"
        )
    return "\n".join(lines)


TABLES: dict[str, Callable[[dict[str, Any]], str]] = {
    "pair": _pair_table,
    "size": _size_table,
    "gpu": _gpu_table,
}


def draw(part: dict[str, Any], path: Path) -> None:
    """Draw time against depth, with its lines, and the price of a parameter against width."""
    with house_style():
        figure = Figure(figsize=SIZE)
        left, right = (figure.add_axes((at, 0.16, 0.32, 0.78)) for at in (0.065, 0.565))
        _depth_panel(left, part)
        _width_panel(right, part)
    save_figure(figure, path, _describe(part))


def _depth_panel(axes: Axes, part: dict[str, Any]) -> None:
    axes.set_xlabel(f"parameters, millions (hidden size {part['depth'][0]['shape']['hidden']})")
    axes.set_ylabel("seconds")
    last = max(row["parameters"] for row in part["depth"]) / 1e6
    for way, fit in part["fits"].items():
        ends = [fit["start_seconds"] + fit["seconds_a_million"] * at for at in (0, last)]
        axes.plot((0, last), ends, color=COLORS[way], linewidth=1.2)
    for way, points in _depths(part):
        axes.plot(*zip(*points, strict=True), "o", color=COLORS[way], markersize=5, clip_on=False)
        _label(axes, way, points[-1])
    axes.set_xlim(0, None)
    axes.set_ylim(0, None)


def _width_panel(axes: Axes, part: dict[str, Any]) -> None:
    sizes = [row["parameters"] / 1e6 for row in part["width"]]
    axes.set_xlabel(
        f"hidden size (models of {min(sizes):.0f} to {max(sizes):.0f} million parameters)"
    )
    axes.set_ylabel("seconds a million parameters")
    for way, points in _widths(part):
        axes.plot(*zip(*points, strict=True), "o-", color=COLORS[way], markersize=5, linewidth=1.2)
        _label(axes, way, points[-1])
    axes.set_xticks([row["shape"]["hidden"] for row in part["width"]])
    axes.set_xlim(0, None)
    axes.set_ylim(0, None)


def _label(axes: Axes, way: str, end: tuple[float, float]) -> None:
    axes.annotate(LABELS[way], end, (9, 0), textcoords="offset points", va="center")


def _depths(part: dict[str, Any]) -> Iterator[tuple[str, list[tuple[float, float]]]]:
    for way in LABELS:
        yield way, [(row["parameters"] / 1e6, row["ways"][way]["seconds"]) for row in part["depth"]]


def _widths(part: dict[str, Any]) -> Iterator[tuple[str, list[tuple[float, float]]]]:
    for way in LABELS:
        yield (
            way,
            [
                (row["shape"]["hidden"], row["ways"][way]["seconds"] / row["parameters"] * 1e6)
                for row in part["width"]
            ],
        )


def _describe(part: dict[str, Any]) -> str:
    """List the figures, for those who cannot see the drawing."""
    depths, widths = (
        "; ".join(
            f"{LABELS[way]} " + ", ".join(f"{height:.2g} at {at:.0f}" for at, height in points)
            for way, points in panel(part)
        )
        for panel in (_depths, _widths)
    )
    return (
        f"Seconds of an analysis against millions of parameters: {depths}. Seconds a million "
        f"parameters against hidden size: {widths}."
    )
