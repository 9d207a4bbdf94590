"""What does a training step cost, in time and memory? `MaskedOptimizer` beside full AdamW and PEFT.

    python benchmarks/train_step.py                  runs both parts; writes results/train_step.json (12 minutes)
    python benchmarks/train_step.py --parts time --rounds 5 --arms "full, same layers" "sparseopd 10 %"
    python benchmarks/train_step.py --table          prints the tables of the committed results
    python benchmarks/train_step.py --figure X.svg   draws memory and time against the trained share

time    every arm in a process of its own; they take single steps in turn, in an order shuffled anew
        every round, so that only one of them runs at a time and all see the same machine
memory  every arm in fresh processes, one after the other; the most memory a step has resident above the
        loaded model, beside exact bytes of what the arm holds and of what forward saves for backward

The model is a random-weight Qwen3 of 61 M parameters in fp32, the batch 4 × 64 tokens, on two threads.
Arms are in `train_step_arms.py`, what a process does in `train_step_worker.py`, bars and tables in
`train_step_report.py`.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from machine import described
from train_step_arms import ARMS, BATCH, SHAPE, THREADS, adapted, load_model
from train_step_figure import draw
from train_step_report import bars, table

RESULTS = Path(__file__).parent / "results" / "train_step.json"
WORKER = Path(__file__).with_name("train_step_worker.py")
LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes")
RETURN_FREED = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
"""Have glibc give freed blocks back at once, so that what is resident is what is held."""


def main() -> None:
    """Run the parts asked for, or show the results there are."""
    given = _arguments()
    shown = given.table or given.figure
    results = json.loads(given.results.read_text()) if shown or given.results.is_file() else {}
    if not shown:
        for part in given.parts:
            when = {"date": date.today().isoformat(), "load_before": round(os.getloadavg()[0], 2)}
            results[part] = {**when, **PARTS[part](given)}
        results |= _conditions()
        results["bars"] = bars(results)
        given.results.write_text(json.dumps(results, indent=1) + "\n")
    if given.figure:
        draw(results, given.figure)
    else:
        print(table(results))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS), metavar="ARM")
    parser.add_argument("--rounds", type=int, default=15, help="Timed steps of every arm.")
    parser.add_argument("--memory-runs", type=int, default=3, help="Processes of every arm.")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--figure", type=Path)
    return parser.parse_args()


def _conditions() -> dict[str, Any]:
    with torch.device("meta"):
        model = load_model()
    return {
        "machine": described(),
        "versions": {name: version(name) for name in LIBRARIES},
        "model": {
            "parameters": sum(weight.numel() for weight in model.parameters()),
            "adapted": sum(weight.numel() for weight in adapted(model)),
            **SHAPE,
        },
        "batch": BATCH,
        "threads": THREADS,
    }


def measure_time(given: argparse.Namespace) -> dict[str, Any]:
    """Let all arms warm up, each alone; then take steps in turn."""
    arms: dict[str, dict[str, Any]] = {}
    running: dict[str, subprocess.Popen[str]] = {}
    for name in given.arms:
        worker = _start("time", name)
        arms[name] = _answer(worker)
        if "failed" not in arms[name]:
            running[name] = worker
            arms[name]["seconds"] = {}
    for number in range(given.rounds):
        for name in random.Random(number).sample(list(running), len(running)):
            for part, seconds in _ask(running[name]).items():
                arms[name]["seconds"].setdefault(part, []).append(round(seconds, 6))
        _say(f"round {number + 1} of {given.rounds}")
    for worker in running.values():
        worker.communicate()
    return {"arms": arms}


def measure_memory(given: argparse.Namespace) -> dict[str, Any]:
    """Run every arm in a fresh process, several times."""
    arms: dict[str, dict[str, Any]] = {}
    for number in range(given.memory_runs):
        for name in given.arms:
            worker = _start("memory", name, **RETURN_FREED)
            found = _answer(worker)
            worker.communicate()
            runs = arms.setdefault(name, {**found, "bytes": []})["bytes"]
            runs.extend([found["bytes"]] if "bytes" in found else [])
        _say(f"run {number + 1} of {given.memory_runs}")
    return {"arms": arms}


def _start(measure: str, name: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(WORKER), measure, name],
        env={**os.environ, **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def _ask(worker: subprocess.Popen[str]) -> dict[str, Any]:
    """Ask for one step and wait for it."""
    assert worker.stdin is not None
    print(file=worker.stdin, flush=True)
    found = _answer(worker)
    if "failed" in found:
        raise RuntimeError(f"an arm that had warmed up failed in a later step: {found['failed']}")
    return found


def _answer(worker: subprocess.Popen[str]) -> dict[str, Any]:
    assert worker.stdout is not None
    if line := worker.stdout.readline():
        return json.loads(line)
    return {"failed": f"its process ended with code {worker.wait()}"}


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr)


PARTS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "time": measure_time,
    "memory": measure_memory,
}

if __name__ == "__main__":
    main()
