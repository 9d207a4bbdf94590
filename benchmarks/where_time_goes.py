"""Where the time of a masked step goes: the parts of the optimizer step, and the weight gradient.

    python benchmarks/where_time_goes.py           writes results/where_time_goes.json (2 minutes)
    python benchmarks/where_time_goes.py --table   prints the tables of that file

steps     the model of `train_step.py`: norm of the gathered gradient, fused AdamW on the k-vectors, writing
          back; beside fused AdamW on the whole layers, and one pass over their weights (read and write)
writing   the ways torch and NumPy have to write k values into the weights, after other memory was used
products  a layer's weight gradient: the dense product, and sampled at the masked coordinates alone
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

import torch
from machine import described
from torch import Tensor
from train_step_arms import ARMS, FULL, THREADS, adapted, load_model
from train_step_worker import timed_step

from sparseopd.console import quiet_libraries
from sparseopd.optim import MaskedOptimizer
from sparseopd.optim.gradients import masked_norm, require_finite
from sparseopd.optim.sampled import sampled_product

RESULTS = Path(__file__).parent / "results" / "where_time_goes.json"
RUNS = 9
LAYER, TOKENS = (2304, 768), (256, 1024)
DENSITIES = (0.2, 0.1, 0.05, 0.01, 0.001)


def main() -> None:
    """Measure, or print the committed results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--table", action="store_true")
    if not parser.parse_args().table:
        quiet_libraries()
        torch.set_num_threads(THREADS)
        results = {
            "date": date.today().isoformat(),
            "machine": described(),
            "threads": THREADS,
            "runs": RUNS,
            "steps": {name: step_parts(name) for name in ("sparseopd 10 %", "sparseopd 1 %", FULL)},
            "writing": {f"{100 * d:g} %": ways_of_writing(d) for d in (0.1, 0.01)},
            "products": [products(tokens) for tokens in TOKENS],
        }
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    print(table(json.loads(RESULTS.read_text())))


def step_parts(name: str) -> dict[str, float]:
    """Return the median seconds of the parts of an arm's optimizer step, in real training."""
    arm, batches = ARMS[name](load_model()), torch.Generator().manual_seed(0)
    optimizer = arm.optimizer
    rows: list[dict[str, float]] = []

    def timed_parts(*_: Any) -> None:
        rows.append(_parts(optimizer, adapted(arm.model)))

    assert optimizer is not None
    optimizer.step = timed_parts  # pyright: ignore[reportAttributeAccessIssue]
    for _ in range(RUNS + 2):
        timed_step(arm, batches)
    return {part: median(row[part] for row in rows[2:]) for part in rows[0]}


def _parts(optimizer: Any, weights: list[torch.nn.Parameter]) -> dict[str, float]:
    if not isinstance(optimizer, MaskedOptimizer):
        return {"AdamW": seconds(lambda: type(optimizer).step(optimizer))}
    compacts = [*optimizer._compact.values()]
    return {
        "norm": seconds(lambda: require_finite(masked_norm(compacts, sharded=False), compacts)),
        "AdamW": seconds(optimizer.inner.step),
        "writing back": seconds(lambda: [compact.write_back() for compact in compacts]),
        "one pass over the weights": seconds(lambda: _touch(weights)),
    }


def ways_of_writing(density: float) -> dict[str, float]:
    """Return the median seconds of writing random coordinates of all layers' weights, by several ways."""
    weights = [weight.detach().reshape(-1) for weight in adapted(load_model())]
    index = [torch.nonzero(torch.rand(len(w)) < density).view(-1).int() for w in weights]
    values = [torch.randn(len(i)) for i in index]
    ways: dict[str, Callable[[Tensor, Tensor, Tensor], Any]] = {
        "index_copy_, int64 made on the way": lambda w, i, v: w.index_copy_(0, i.long(), v),
        "put_, int64 made on the way": lambda w, i, v: w.put_(i.long(), v),
        "scatter_, int64 made on the way": lambda w, i, v: w.scatter_(0, i.long(), v),
        "index_put_, int32": lambda w, i, v: w.index_put_((i,), v),
        "NumPy, int32": lambda w, i, v: w.numpy().__setitem__(i.numpy(), v.numpy()),
    }
    other = torch.zeros(80_000_000)  # so that no weight is left in a cache, as after backward

    def run(way: Callable[[Tensor, Tensor, Tensor], Any]) -> float:
        other.add_(1)
        return seconds(lambda: [way(*each) for each in zip(weights, index, values, strict=True)])

    return {name: median([run(way) for _ in range(RUNS + 1)][1:]) for name, way in ways.items()}


def products(tokens: int) -> dict[str, Any]:
    """Return the median seconds of one layer's weight gradient, dense and sampled."""
    rows, columns = LAYER
    grad, inputs = torch.randn(tokens, rows), torch.randn(tokens, columns)
    dense = median([seconds(lambda: grad.t() @ inputs) for _ in range(RUNS + 1)][1:])
    sampled = {}
    for density in DENSITIES:
        pattern = (torch.rand(LAYER) < density).float().to_sparse_csr()
        runs = [
            seconds(lambda p=pattern: sampled_product(p, grad, inputs)) for _ in range(RUNS + 1)
        ]
        sampled[f"{100 * density:g} %"] = median(runs[1:])
    return {"tokens": tokens, "layer": LAYER, "dense": dense, "sampled": sampled}


def seconds(action: Callable[[], Any]) -> float:
    """Return how long an action takes."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


@torch.no_grad()
def _touch(weights: list[torch.nn.Parameter]) -> None:
    for weight in weights:
        weight.mul_(1.0)


def table(results: dict[str, Any]) -> str:
    """Write the Markdown tables, in milliseconds."""
    lines = [
        "| ms of an optimizer step | " + " | ".join(results["steps"]) + " |",
        "| --- |" + " --- |" * 3,
    ]
    parts = dict.fromkeys(part for arm in results["steps"].values() for part in arm)
    for part in parts:
        cells = [arm.get(part) for arm in results["steps"].values()]
        lines.append(f"| {part} | " + " | ".join(map(_cell, cells)) + " |")
    lines += [
        "",
        "| ms to write | " + " | ".join(results["writing"]) + " |",
        "| --- |" + " --- |" * 2,
    ]
    for way in next(iter(results["writing"].values())):
        cells = [_cell(found[way]) for found in results["writing"].values()]
        lines.append(f"| {way} | " + " | ".join(cells) + " |")
    shares = list(results["products"][0]["sampled"])
    lines += [
        "",
        f"| ms a product | dense | {' | '.join(shares)} |",
        "| --- |" + " --- |" * (len(shares) + 1),
    ]
    for row in results["products"]:
        cells = [_cell(row["dense"]), *(_cell(row["sampled"][share]) for share in shares)]
        size = " × ".join(map(str, row["layer"]))
        lines.append(f"| {size}, {row['tokens']} tokens | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(value: float | None) -> str:
    return "–" if value is None else f"{1000 * value:.1f}"


if __name__ == "__main__":
    main()
