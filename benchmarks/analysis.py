"""What does `sparseopd analyze` cost, beside a plain pipeline of `torch.linalg.svd`, and as models grow?

    python benchmarks/analysis.py            writes results/analysis.json and results/analysis_time.svg
    python benchmarks/analysis.py --parts pair size
    python benchmarks/analysis.py --parts gpu --models 8B
    python benchmarks/analysis.py --table    prints the tables of the committed results, draws the figure
    python benchmarks/analysis.py --smoke    tiny shapes, one round, into a temporary folder (1 minute)

pair  a bf16 Qwen3 of 61 M parameters: `analyze` without and with nulls, and svd_pipeline.py, by turns;
      and the largest relative differences between the figures of both (10 minutes)
size  `analyze` as layers of fixed shape are added, up to 502 M parameters, with a straight line through
      the times; and as matrices widen (17 minutes, 2 GB of disk)
gpu   `analyze --device cuda` on the shapes of Qwen3-1.7B and Qwen3-8B (33 GB of disk)

Every run is a process of its own, start and imports included; its user time and peak resident memory
are the system's. Weights are random; the updates are dense noise, low rank, few coordinates or nothing.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from analysis_pair import Shape, write_pair
from analysis_report import PLAIN, WITH, WITHOUT, draw, table
from machine import described
from svd_pipeline import differences

RESULTS = Path(__file__).parent / "results"
PIPELINE = Path(__file__).with_name("svd_pipeline.py")
MEASURE = """
import json, resource, subprocess, sys, time
started = time.perf_counter()
subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, check=True)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps({"seconds": time.perf_counter() - started, "user_seconds": used.ru_utime,
                  "system_seconds": used.ru_stime, "peak_bytes": 1024 * used.ru_maxrss}))
"""
"""Runs one command from a small process: a child's peak counts its parent's memory at the fork."""
Times = dict[str, float]


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    pair: Shape
    rounds: int
    layers: tuple[int, ...]
    """Of the models that grow in depth; all else as `pair`."""
    widths: Mapping[int, int]
    """Hidden sizes, all else in proportion, with the layers that make up about as many parameters."""
    gpu: Mapping[str, Shape]


FULL = Plan(
    Shape(hidden=768, layers=8, intermediate=2304),
    rounds=5,
    layers=(1, 8, 24, 72),
    widths={384: 12, 768: 3, 1536: 1},
    gpu={
        "1.7B": Shape(2048, 28, 6144, vocabulary=151_936, heads=16, kv_heads=8, head_dim=128),
        "8B": Shape(
            4096, 36, 12_288, vocabulary=151_936, heads=32, kv_heads=8, head_dim=128, tied=False
        ),
    },
)
TINY = Shape(
    hidden=96, layers=2, intermediate=192, vocabulary=256, heads=6, kv_heads=2, head_dim=16
)
SMOKE = Plan(TINY, rounds=1, layers=(1, 2, 4), widths={48: 4, 96: 2}, gpu={"tiny": TINY})


def main() -> None:
    """Run the parts asked for, or print the committed results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument(
        "--models", nargs="+", choices=FULL.gpu, help="of the part gpu; default: all"
    )
    parser.add_argument("--rounds", type=int, default=FULL.rounds, help="of the part pair")
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--table", action="store_true")
    instead.add_argument("--smoke", action="store_true")
    parser.add_argument("--folder", type=Path, help="where checkpoints go; default: temporary")
    given = parser.parse_args()
    models = {name: FULL.gpu[name] for name in given.models or FULL.gpu}
    plan = SMOKE if given.smoke else replace(FULL, rounds=given.rounds, gpu=models)
    path = (Path(tempfile.mkdtemp()) if given.smoke else RESULTS) / "analysis.json"
    if not given.table:
        for part in given.parts:
            with tempfile.TemporaryDirectory(dir=given.folder) as folder:
                _keep(path, part, PARTS[part](Path(folder), plan))
    results = _read(path)
    print(table(results))
    if "size" in results:
        draw(results["size"], path.with_name("analysis_time.svg"))


def _keep(path: Path, part: str, found: dict[str, Any]) -> None:
    """Put a part into the file. One without a GPU leaves what another machine measured on one."""
    results = _read(path) if path.is_file() else {}
    before = results.get(part, {})
    if part == "gpu" and before.get("models"):
        if found["models"] is None:
            return
        found["models"] = before["models"] | found["models"]
    conditions = {"date": date.today().isoformat(), "machine": described()}
    results[part] = conditions | {"threads": torch.get_num_threads()} | found
    path.write_text(json.dumps(results, indent=1) + "\n")


def pair(folder: Path, plan: Plan) -> dict[str, Any]:
    """Run all three by turns; compare their figures."""
    write_pair(folder, plan.pair)
    theirs = folder / "figures.json"
    rounds: dict[str, list[Times]] = {way: [] for way in (PLAIN, WITHOUT, WITH)}
    for number in range(plan.rounds):
        commands = {
            PLAIN: [sys.executable, str(PIPELINE), *_sides(folder), "-o", str(theirs)],
            WITHOUT: _analyze(folder, folder / f"ours-{number}", "--no-null"),
            WITH: _analyze(folder, folder / f"nulls-{number}"),
        }
        for way in list(commands)[:: -1 if number % 2 else 1]:
            rounds[way].append(run(way, commands[way]))
    ours, nulls = (_read(folder / f"{name}-0" / "analysis.json") for name in ("ours", "nulls"))
    found = {row["name"]: row["observed"] for row in ours["tensors"]}
    return {
        "parameters": plan.pair.parameters(),
        "shape": asdict(plan.pair),
        "draws": nulls["settings"]["draws"],
        "rounds": rounds,
        "median": {
            way: {key: statistics.median(one[key] for one in ran) for key in ran[0]}
            for way, ran in rounds.items()
        },
        "differences": differences(found, _read(theirs)["tensors"]),
    }


def size(folder: Path, plan: Plan) -> dict[str, Any]:
    """Time both ways on deeper and deeper models, and on wider and wider ones."""
    deeper = [replace(plan.pair, layers=layers) for layers in plan.layers]
    wider = [
        replace(plan.pair, layers=layers).widened(hidden) for hidden, layers in plan.widths.items()
    ]
    depth = [_grown(folder, shape) for shape in deeper]
    return {
        "depth": depth,
        "fits": {way: _fit(depth, way) for way in (WITHOUT, WITH)},
        "width": [_grown(folder, shape) for shape in wider],
    }


def gpu(folder: Path, plan: Plan) -> dict[str, Any]:
    """Time both ways on the GPU, where there is one."""
    if not torch.cuda.is_available():
        return {"models": None, "why": "no GPU was at hand"}
    return {"models": {name: _grown(folder, shape, "cuda") for name, shape in plan.gpu.items()}}


def _grown(folder: Path, shape: Shape, device: str = "cpu") -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=folder) as name:
        own = Path(name)
        write_pair(own, shape, device)
        torch.cuda.empty_cache()  # the command is another process, and wants the GPU for itself
        extra = ("--device", device)
        ways = {
            WITHOUT: _analyze(own, own / "ours", "--no-null", *extra),
            WITH: _analyze(own, own / "nulls", *extra),
        }
        return {
            "parameters": shape.parameters(),
            "shape": asdict(shape),
            "ways": {way: run(way, command) for way, command in ways.items()},
        }


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def _sides(folder: Path) -> tuple[str, str]:
    return str(folder / "base"), str(folder / "tuned")


def _analyze(folder: Path, output: Path, *options: str) -> list[str]:
    words = [sys.executable, "-m", "sparseopd", "analyze", *_sides(folder), "-o", str(output)]
    return [*words, *options]


def run(way: str, command: list[str]) -> Times:
    """Run a command in a process of its own; return its seconds and its peak of resident bytes."""
    ran = subprocess.run(
        [sys.executable, "-S", "-c", MEASURE, *command], capture_output=True, text=True
    )
    if ran.returncode:
        sys.exit(f"{way} failed:\n{ran.stderr}")
    found = json.loads(ran.stdout)
    print(
        f"{way}: {found['seconds']:.1f} s, {found['peak_bytes'] / 2**20:.0f} MiB", file=sys.stderr
    )
    return found


def _fit(rows: list[dict[str, Any]], way: str) -> Times:
    """Fit a straight line to seconds against millions of parameters."""
    millions = np.array([row["parameters"] / 1e6 for row in rows])
    seconds = np.array([row["ways"][way]["seconds"] for row in rows])
    slope, start = np.polyfit(millions, seconds, 1)
    left = np.square(seconds - start - slope * millions).sum()
    explained = 1 - left / np.square(seconds - seconds.mean()).sum()
    return {"seconds_a_million": slope, "start_seconds": start, "r_squared": explained}


PARTS: dict[str, Callable[[Path, Plan], dict[str, Any]]] = {"pair": pair, "size": size, "gpu": gpu}

if __name__ == "__main__":
    main()
