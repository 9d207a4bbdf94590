"""The bars that `train_step.py` is held to, and its Markdown tables, all from its results.

A median of times is over rounds, one of memory over processes; ratios are ratios of medians. MB are
10⁶ bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from statistics import median, quantiles
from typing import Any

from train_step_arms import EIGHT_BIT, FLOOR, FULL

Results = dict[str, Any]
OWN = "sparseopd"
RATIOS: tuple[tuple[str, str, str, float], ...] = (
    ("peak", "sparseopd 10 %", FULL, 0.4),
    ("peak", "sparseopd 10 %", "SHiRA 10 %", 0.55),
    ("peak", "sparseopd 10 %", "SUPERTUNING 10 %", 0.55),
    ("peak", "sparseopd 1 %", "LoRA r=32", 0.7),
    ("optimizer", "sparseopd 10 %", FULL, 0.5),
    ("optimizer", "sparseopd 1 %", FULL, 0.2),
    ("step", "sparseopd 10 %", FULL, 0.85),
    ("step", "sparseopd 10 %", "SUPERTUNING 10 %", 0.8),
    ("step", "sparseopd 10 %", "SHiRA 10 %", 0.75),
    ("step", "sparseopd 1 %", "LoRA r=32", 1.1),
    ("step", "sparseopd 1 %", "LoRA 1 %", 1.1),
    ("step", "sparseopd sampled 10 %", FULL, 0.85),
    ("step", "sparseopd sampled 10 %", "SUPERTUNING 10 %", 0.8),
    ("step", "sparseopd sampled 10 %", "SHiRA 10 %", 0.75),
    ("step", "sparseopd sampled 1 %", "LoRA r=32", 1.1),
    ("step", "sparseopd sampled 1 %", "LoRA 1 %", 1.1),
)
"""What is measured, of which arm, beside which one, and the most that its ratio may be."""
MEASURES = {"peak": "Peak memory", "optimizer": "Optimizer step", "step": "Whole step"}


def bars(results: Results) -> list[dict[str, Any]]:
    """Return every bar whose arms were measured: its name, the figure, the bar, and whether it is met.

    "floor" is what forward and backward alone would reach: where that is above the bar, no optimizer
    that waits for the dense gradient can meet it; sampled gradients do not wait.
    """
    ratios = [
        {
            "name": f"{MEASURES[measure]}: {arm} / {beside}",
            "figure": figure,
            "bar": bar,
            "met": figure <= bar,
            "floor": None if measure == "optimizer" else _ratio(results, measure, FLOOR, beside),
        }
        for measure, arm, beside, bar in RATIOS
        if (figure := _ratio(results, measure, arm, beside)) is not None
    ]
    return [*ratios, *_byte_bars(results)]


def _byte_bars(results: Results) -> Iterator[dict[str, Any]]:
    """Yield the bars on exact bytes, each on the worst of the arms that it is about.

    They hold to a hundredth of a byte: AdamW also keeps a step counter of 4 B for every tensor.
    """
    own = [name for name in measured(results, "peak") if name.startswith(f"{OWN} ")]
    wide = [name for name in own if name != EIGHT_BIT]
    saved = [value(results, "saved", name) for name in own]
    about = (
        ("State and masters, B a coordinate", _each(results, wide, "state", "masters"), 12.0),
        ("Index, B a coordinate", _each(results, own, "index"), 4.0),
        (
            "State and masters with 8-bit AdamW, B a coordinate",
            _each(results, [name for name in own if name == EIGHT_BIT], "state", "masters"),
            6.0,
        ),
    )
    for name, figures, bar in about:
        if figures:
            figure = round(max(figures), 2)
            yield {"name": f"{name}, {OWN}", "figure": figure, "bar": bar, "met": figure <= bar}
    if saved and FLOOR in measured(results, "peak"):
        figure = max(saved) / value(results, "saved", FLOOR)
        name = f"Bytes saved for backward: {OWN} / unmodified model"
        yield {"name": name, "figure": figure, "bar": 1.0, "met": figure <= 1}


def _each(results: Results, names: list[str], *kinds: str) -> list[float]:
    """Return the bytes of those kinds for a trained coordinate, of every arm."""
    return [
        sum(value(results, kind, name) for kind in kinds) / _arm(results, "peak", name)["trained"]
        for name in names
    ]


def _ratio(results: Results, measure: str, arm: str, beside: str) -> float | None:
    if not {arm, beside} <= set(measured(results, measure)):
        return None
    return value(results, measure, arm) / value(results, measure, beside)


def _part(measure: str) -> str:
    return "time" if measure in ("forward", "backward", "optimizer", "step") else "memory"


def _arm(results: Results, measure: str, name: str) -> dict[str, Any]:
    return results[_part(measure)]["arms"][name]


def measured(results: Results, measure: str) -> list[str]:
    """Return the arms that have the measure."""
    arms = results.get(_part(measure), {}).get("arms", {})
    return [name for name, arm in arms.items() if "failed" not in arm]


def _samples(results: Results, measure: str, name: str) -> list[float]:
    arm = _arm(results, measure, name)
    if _part(measure) == "time":
        return arm["seconds"][measure]
    return [run[measure] for run in arm["bytes"]]


def value(results: Results, measure: str, name: str) -> float:
    """Return the median of a measure, in seconds or bytes."""
    return median(_samples(results, measure, name))


def table(results: Results) -> str:
    """Write the Markdown tables of whatever parts there are."""
    model = results["model"]
    written = [
        f"{model['num_hidden_layers']}-layer Qwen3, {model['parameters']:,} parameters, of which the adapted "
        f"layers have {model['adapted']:,}; fp32, {' × '.join(map(str, results['batch']))} tokens, "
        f"{results['threads']} threads, {results['machine']}."
    ]
    if "time" in results and "memory" in results:
        written.append(_summary(results))
    if "time" in results:
        written.append(_time_table(results))
    if "memory" in results:
        written += [_memory_table(results), _bytes_table(results)]
    return "\n\n".join([*written, _bars_table(results["bars"])])


def _rows(results: Results, measure: str, row: Callable[[str], list[str]]) -> list[list[str]]:
    """Write a row an arm: its name, what it trains, and what `row` says; or why it did not run."""
    written = []
    for name, arm in results[_part(measure)]["arms"].items():
        if "failed" in arm:
            written.append([name, f"did not run: {arm['failed']}"])
            continue
        note = f" ({arm['note']})" if arm["note"] else ""
        written.append([name + note, f"{arm['trained']:,}" if arm["trained"] else "–", *row(name)])
    return written


def _summary(results: Results) -> str:
    """Write the arms side by side: memory and time in one table."""

    def row(name: str) -> list[str]:
        if name not in measured(results, "peak"):
            return []
        times, peak = ("optimizer", "step"), value(results, "peak", name) / 1e6
        return [
            f"{peak:.0f} MB ({_ratio(results, 'peak', name, FULL):.2f} ×)",
            *(f"{1000 * value(results, part, name):.1f} ms" for part in times),
            f"{_ratio(results, 'step', name, FULL):.2f} ×",
        ]

    heads = ["", "trained", f"peak memory (of {FULL})", "optimizer step", "whole step"]
    return _markdown([*heads, f"of {FULL}"], _rows(results, "step", row))


def _time_table(results: Results) -> str:
    def row(name: str) -> list[str]:
        beside = [_ratio(results, "step", name, other) for other in (FULL, FLOOR)]
        return [
            *(_milliseconds(results, part, name) for part in ("forward", "backward", "optimizer")),
            _milliseconds(results, "step", name),
            *("–" if ratio is None else f"{ratio:.2f} ×" for ratio in beside),
        ]

    heads = ["ms: median (quartiles)", "trained", "forward", "backward", "optimizer", "whole step"]
    return _markdown([*heads, f"of {FULL}", f"of {FLOOR}"], _rows(results, "step", row))


def _milliseconds(results: Results, part: str, name: str) -> str:
    samples = [1000 * seconds for seconds in _samples(results, part, name)]
    digits = 1 if part == "optimizer" else 0
    if len(samples) < 2:
        return f"{samples[0]:.{digits}f}"
    low, middle, high = quantiles(samples, n=4, method="inclusive")
    return f"{middle:.{digits}f} ({low:.{digits}f}–{high:.{digits}f})"


def _memory_table(results: Results) -> str:
    def row(name: str) -> list[str]:
        ratio = _ratio(results, "peak", name, FULL)
        shown = [value(results, kind, name) for kind in ("peak", "built", "building", "saved")]
        figures = [f"{each / 1e6:.1f}" for each in shown]
        return [figures[0], "–" if ratio is None else f"{ratio:.2f} ×", *figures[1:]]

    heads = ["MB above the loaded model", "trained", "peak of a step", f"of {FULL}"]
    heads += ["left by building", "peak of building", "saved for backward"]
    return _markdown(heads, _rows(results, "peak", row))


def _bytes_table(results: Results) -> str:
    kinds = ("state", "masters", "index")

    def row(name: str) -> list[str]:
        trained = _arm(results, "peak", name)["trained"]
        if not trained:
            return ["–"] * (len(kinds) + 2)
        figures = [value(results, kind, name) / trained for kind in kinds]
        whole = sum(value(results, kind, name) for kind in kinds)
        return [*(f"{each:.2f}" for each in (*figures, sum(figures))), f"{whole / 1e6:.1f} MB"]

    heads = ["bytes a trained coordinate, exact", "trained", "optimizer state", "masters", "index"]
    return _markdown([*heads, "sum", "altogether"], _rows(results, "peak", row))


def _bars_table(rows: list[dict[str, Any]]) -> str:
    heads = ["bar", "figure", "at most", "met", f"{FLOOR} alone"]
    written = []
    for row in rows:
        floor = row.get("floor")
        met = "yes" if row["met"] else "**no**"
        cells = [f"{row['figure']:.2f}", f"{row['bar']:g}", met]
        written.append([row["name"], *cells, "–" if floor is None else f"{floor:.2f}"])
    return _markdown(heads, written)


def _markdown(heads: list[str], rows: list[list[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *(row + [""] * (len(heads) - len(row)) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
