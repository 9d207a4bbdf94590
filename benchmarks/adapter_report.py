"""The bars that `adapter.py` is held to, and its tables, all from its results."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from adapter_disk import COPY as COPYFILE
from adapter_disk import OURS as TO_FOLDER
from adapter_rounds import described, interval, ratio, spread
from adapter_run import ADAPTER, BARE
from adapter_run import OURS as LOADED
from adapter_switch import COPY, LORA, OURS
from train_step_arms import FLOOR

Results = dict[str, Any]
SIZE_BARS = {"SUPERTUNING": 0.45, "SHiRA": 0.3}
LORA_BAR, COPY_BAR, FORWARD_BAR, DISK_BAR = 5.0, 3.0, 1.0, 3.0


def bars(results: Results) -> list[dict[str, Any]]:
    """Return every bar whose part was measured: its name, the figure, the bar, and whether it is met."""
    return [bar for part, make in BARS.items() if part in results for bar in make(results[part])]


def table(results: Results) -> str:
    """Write the tables of whatever parts there are, and the bars."""
    parts = [TABLES[part](results[part]) for part in TABLES if part in results]
    rows = [
        (bar["name"], bar["figure"], bar["bar"], "yes" if bar["met"] else "NO")
        for bar in results["bars"]
    ]
    return "\n\n".join([*parts, _table(("bar", "figure", "bar", "met"), rows)])


def _size_bars(part: Results) -> Iterator[dict[str, Any]]:
    for row in part["beside_peers"]:
        most = SIZE_BARS[row["peer"]]
        figure = max(row["ours"], row["extracted"]) / row["theirs"]
        name = f"File size at {100 * row['density']:g} % / {row['peer']}"
        yield _bar(name, f"{figure:.3f}", f"≤ {most:g}", figure <= most)


def _switch_bars(part: Results) -> Iterator[dict[str, Any]]:
    for row in part["rows"]:
        seconds, what = row["seconds"], f"{row['model']} {row['dtype']}"
        faster = ratio(seconds[LORA], seconds[OURS])
        slower = ratio(seconds[OURS], seconds[COPY])
        met = faster["median"] >= LORA_BAR
        yield _bar(f"Switch, {what}: LoRA / ours", interval(faster), f"≥ {LORA_BAR:g}", met)
        met = slower["median"] <= COPY_BAR
        yield _bar(f"Switch, {what}: ours / copy", interval(slower), f"≤ {COPY_BAR:g}", met)


def _forward_bars(part: Results) -> Iterator[dict[str, Any]]:
    for row in part["rows"]:
        found = ratio(row["seconds"][LOADED], row["seconds"][BARE])
        name = f"Inference, {row['dtype']} {row['use']} / bare"
        # "1.00 ×" to the hundredth that it is stated in
        met = round(found["median"], 2) <= FORWARD_BAR
        yield _bar(name, interval(found, 3), f"≤ {FORWARD_BAR:.2f}", met)


def _disk_bars(part: Results) -> Iterator[dict[str, Any]]:
    for row in part["rows"]:
        if "seconds" in row:
            found = ratio(row["seconds"][TO_FOLDER], row["seconds"][COPYFILE])
            met = found["median"] <= DISK_BAR
            yield _bar("Apply on disk / copyfile", interval(found), f"≤ {DISK_BAR:g}", met)


def _bar(name: str, figure: str, bar: str, met: bool) -> dict[str, Any]:
    return {"name": name, "figure": figure, "bar": bar, "met": bool(met)}


def _size_table(part: Results) -> str:
    beside = [
        (
            f"{100 * row['density']:g} % {row['peer']}",
            f"{row['k'] / 1e6:.2f} M",
            *(f"{row[key] / row['k']:.3f}" for key in ("ours", "extracted", "limit", "theirs")),
            f"{row['ours'] / row['theirs']:.3f}",
            f"{row['ours'] / row['theirs_in_bf16']:.3f}",
        )
        for row in part["beside_peers"]
    ]
    head = ("drawn by", "k", "ours", "extract", "limit", "theirs", "ratio", "bf16")
    own = [
        (
            f"{100 * row['density']:g} % clusters",
            f"{row['k'] / 1e6:.2f} M",
            *(f"{row[key] / row['k']:.3f}" for key in ("ours", "extracted", "limit")),
            "", "", "",
        )
        for row in part["clustered"]
    ]  # fmt: skip
    return (
        f"File size, bytes a trained value; {part['model']['adapted'] / 1e6:.0f} M adapted, bf16\n"
        "(ours: through PEFT; limit: entropy + 16 bits; bf16: the ratio, were their values\n"
        "cast first, which PEFT keeps in fp32)\n\n" + _table(head, [*beside, *own])
    )


def _switch_table(part: Results) -> str:
    rows = {f"{row['model']}, {row['dtype']}": row for row in part["rows"]}
    shown = (OURS, LORA, COPY)
    times = [
        (name, *(described(row["seconds"][way]) for way in shown)) for name, row in rows.items()
    ]
    written = [
        (
            name,
            f"{row['k'] / 1e6:.2f} M",
            f"{row['lora_values'] / 1e6:.2f} M (r {row['lora_rank']})",
            f"{row['bytes_written'] / 1e6:.0f} MB",
            *(
                f"{row['base_coordinates_changed'][way] / row['adapted']:.0%}"
                for way in (OURS, LORA)
            ),
        )
        for name, row in rows.items()
    ]
    others = [way for way in part["rows"][0]["seconds"] if way not in shown]
    heads = [f"{row['model'].split()[-1]} {row['dtype']}" for row in rows.values()]
    rest = [
        (way, *(f"{1000 * spread(row['seconds'][way])[1]:.0f}" for row in rows.values()))
        for way in others
    ]
    return "\n\n".join(
        (
            "Switching between two adapters of 10 %, ms: median (quartiles)",
            _table(("model", "set_adapter", "LoRA", "index_copy_"), times),
            "Values of an adapter, bytes a switch writes, and adapted weights whose bits are\n"
            "no longer the base's after all these switches, with the adapters off",
            _table(("model", "k", "LoRA's", "written", "changed", "by LoRA"), written),
            _table(("also, ms", *heads), rest),
        )
    )


def _forward_table(part: Results) -> str:
    lines = []
    for dtype in dict.fromkeys(row["dtype"] for row in part["rows"]):
        uses = [row for row in part["rows"] if row["dtype"] == dtype]
        names = [*uses[0]["seconds"], *uses[0]["failed"]]
        cells = [(name, *(_beside_bare(row, name) for row in uses)) for name in names]
        lines.append(_table((dtype, *(row["use"] for row in uses)), cells))
    head = (
        "Inference with adapters of 10 %, ratio to the bare model (95 % interval);\n"
        f"prompt: {part['tokens']} tokens, decode: one more after them"
    )
    return "\n\n".join([head, *lines])


def _beside_bare(row: Results, name: str) -> str:
    if name in row["failed"]:
        return "fails"
    seconds = row["seconds"]
    if name == BARE:
        return f"{described(seconds[name])} ms"
    return interval(ratio(seconds[name], seconds[BARE]), 3)


def _training_table(part: Results) -> str:
    floor = part["seconds"][FLOOR]
    rows = [
        (
            name,
            f"{part['trained'][name] / 1e6:.2f} M",
            described(seconds),
            f"{ratio(seconds, floor)['median']:.2f}",
            f"{part['saved_bytes'][name] / 1e6:.1f} MB",
        )
        for name, seconds in part["seconds"].items()
    ]
    head = ("fp32, 4 × 64 tokens", "trained", "step, ms", "ratio", "saved")
    own = part["seconds"][ADAPTER]
    beside = interval(ratio(own, part["seconds"]["sparseopd 10 %"]))
    return (
        "Training with 10 %: a step, its ratio to forward + backward alone, and what\n"
        'forward saves for backward; "sparseopd" is MaskedOptimizer\n\n'
        + _table(head, rows)
        + f"\n\nAdapter / MaskedOptimizer, one step: {beside}"
    )


def _disk_table(part: Results) -> str:
    rows = [
        (
            f"{row['bytes'] / 1e6:.0f} MB",
            f"{row['adapter_bytes'] / 1e6:.0f} MB",
            *(
                described(row["seconds"][way]) if "seconds" in row else ""
                for way in (TO_FOLDER, COPYFILE)
            ),
            *(f"{row[key] / 1e6:.0f} MB" for key in ("peak", "peak_own")),
        )
        for row in part["rows"]
    ]
    head = ("bf16 file", "adapter", "apply, ms", "copyfile, ms", "peak", "own")
    return (
        "Applying to a base on disk: page cache warm, no fsync on either side. Peak: the\n"
        "most resident memory it adds; own: without the pages of mapped files\n\n"
        + _table(head, rows)
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Write a Markdown table whose columns are aligned."""
    lines = [head, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    rule = ["-" * width for width in widths]
    return "\n".join(
        "| "
        + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        + " |"
        for line in (head, rule, *rows)
    )


BARS = {
    "size": _size_bars,
    "switch": _switch_bars,
    "forward": _forward_bars,
    "disk": _disk_bars,
}
TABLES = {
    "size": _size_table,
    "switch": _switch_table,
    "forward": _forward_table,
    "training": _training_table,
    "disk": _disk_table,
}
