"""How often does `analyze` find structure where there is none? Dense Gaussian updates of small models.

    python benchmarks/false_alarms.py            writes results/false_alarms.json (30 seeds, 4 minutes)
    python benchmarks/false_alarms.py --table    prints the table of the committed results

Models of one and four layers with mixed shapes, heavy-tailed weights and norms, in bfloat16 and float32; of
the last kind three layers in four did not move. An alarm is any first finding but "No evidence".
"""

from __future__ import annotations

import argparse
import json
import tempfile
from datetime import date
from itertools import product
from pathlib import Path
from typing import Any

import torch
from machine import described
from safetensors.torch import save_file
from torch import Tensor

from sparseopd.analysis import analyze

RESULTS = Path(__file__).parent / "results" / "false_alarms.json"
SHAPES = {
    "self_attn.q": (64, 48),
    "self_attn.k": (16, 48),
    "self_attn.v": (16, 48),
    "self_attn.o": (48, 64),
    "mlp.gate": (96, 48),
    "mlp.down": (48, 96),
}
LAYERS = ((1, 0), (4, 0), (4, 3))
"""How many, and how many of them did not move."""
DTYPES = ("bfloat16", "float32")
SIZES = (2e-6, 2e-5, 3e-4)


def main() -> None:
    """Count alarms, or print the table of the committed results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=30)
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    if not given.table:
        RESULTS.write_text(json.dumps(count(given.seeds), indent=1) + "\n")
    print(table(json.loads(RESULTS.read_text())))


def count(seeds: int) -> dict[str, Any]:
    """Analyse every kind of update for every seed."""
    rows = []
    for (layers, still), dtype, size in product(LAYERS, DTYPES, SIZES):
        alarms = []
        for seed in range(seeds):
            with tempfile.TemporaryDirectory() as folder:
                write(Path(folder), layers, still, getattr(torch, dtype), size, seed)
                first = analyze(f"{folder}/base", f"{folder}/tuned").findings[0]
            if not first.startswith("No evidence"):
                alarms.append(first)
        rows.append(
            {"layers": layers, "still": still, "dtype": dtype, "size": size, "alarms": alarms}
        )
        print(rows[-1], flush=True)
    return {
        "date": date.today().isoformat(),
        "machine": described(),
        "seeds": seeds,
        "rows": rows,
    }


def write(
    folder: Path, layers: int, still: int, dtype: torch.dtype, size: float, seed: int
) -> None:
    """Write base and tuned checkpoints that differ by dense noise, but for the first `still` layers."""
    generator = torch.Generator().manual_seed(77_000 + seed)
    sides: tuple[dict[str, Tensor], dict[str, Tensor]] = ({}, {})
    for layer in range(layers):
        for module, shape in (*SHAPES.items(), ("input_layernorm", (48,))):
            weight = torch.ones(shape)
            if len(shape) == 2:
                tail = torch.rand(shape, generator=generator).clamp_min(0.1) ** 0.3
                weight = torch.randn(shape, generator=generator) * 0.02 / tail
            weight = weight.to(dtype)
            change = torch.randn(shape, generator=generator) * (0 if layer < still else size)
            name = f"model.layers.{layer}.{module}{'_proj' if len(shape) == 2 else ''}.weight"
            sides[0][name], sides[1][name] = weight, (weight.float() + change).to(dtype)
    for side, tensors in zip(("base", "tuned"), sides, strict=True):
        (folder / side).mkdir()
        save_file(tensors, folder / side / "model.safetensors")


def table(results: dict[str, Any]) -> str:
    """Return a row a kind of model and dtype, over all sizes of update."""
    lines = ["| layers | of them still | dtype | false alarms |", "| --- | --- | --- | --- |"]
    for (layers, still), dtype in product(LAYERS, DTYPES):
        rows = [
            row
            for row in results["rows"]
            if (row["layers"], row["still"], row["dtype"]) == (layers, still, dtype)
        ]
        alarms = sum(len(row["alarms"]) for row in rows)
        lines.append(
            f"| {layers} | {still} | {dtype} | {alarms} of {len(rows) * results['seeds']} |"
        )
    total = sum(len(row["alarms"]) for row in results["rows"])
    return "\n".join([*lines, "", f"All: {total} of {len(results['rows']) * results['seeds']}."])


if __name__ == "__main__":
    main()
