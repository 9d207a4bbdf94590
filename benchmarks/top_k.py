"""What does an objective cost at a vocabulary of 151,936? Top-k and sampled-token beside the full one.

    python benchmarks/top_k.py           measures; writes results/top_k.json (8 minutes, 8 GB of memory)
    python benchmarks/top_k.py --table   prints the table of the committed results

Heads of random fp32 weights, the student's of width 1024, the teacher's of width 2048, and as many hidden
states as tokens: forward and backward of the mean loss. "materialised" holds both models' (tokens,
vocabulary) logits; "reverse-kl" is TRL's chunked function.

time    one process; all objectives in turn, in an order shuffled anew every round. On one thread, in
        processor seconds, which other processes disturb least; the file has the clock's too
memory  every objective in a process of its own: the most that is resident above the inputs, with a head
        that is trained, whose gradient alone is 594 MiB, and with a frozen one
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import torch
from machine import described, forget_peak, resident, settled
from torch import Tensor
from train_step import RETURN_FREED

from sparseopd.console import quiet_libraries
from sparseopd.distill.objectives import Head, Predictions, Tokens, objective_of
from sparseopd.recipe import Objective
from sparseopd.settings.objective import check_objective

RESULTS = Path(__file__).parent / "results" / "top_k.json"
VOCABULARY, STUDENT, TEACHER = 151_936, 1024, 2048
TOKENS, ROUNDS, THREADS = (256, 1024), 3, 1
HEADS = ("trained", "frozen")
FULL, NAIVE = "reverse-kl", "materialised"
CLOCKS: dict[str, Callable[[], float]] = {"processor": time.process_time, "wall": time.perf_counter}
Loss = Callable[[Predictions, Predictions, Tokens], Tensor]


def main() -> None:
    """Measure, or print the committed results; `--memory ARM` is what a process of its own does."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--memory", choices=ARMS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    quiet_libraries()
    torch.set_num_threads(THREADS)
    if given.memory:
        print(json.dumps(memory_of(given.memory)))
        return
    if not given.table:
        load = round(os.getloadavg()[0], 2)
        results = {
            "date": date.today().isoformat(),
            "load_before": load,
            "machine": described(),
            "versions": {name: version(name) for name in ("torch", "trl")},
            "threads": THREADS,
            "vocabulary": VOCABULARY,
            "hidden": {"student": STUDENT, "teacher": TEACHER},
            "bytes": {name: _in_own_process(name) for name in ARMS},
            "seconds": seconds(),
            "load_after": round(os.getloadavg()[0], 2),
        }
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    print(table(json.loads(RESULTS.read_text())))


def materialised(student: Predictions, teacher: Predictions, tokens: Tokens) -> Tensor:
    """Return the reverse KL from both models' logits held in full."""
    ours = (student.hidden @ student.head.weight.t()).log_softmax(1)
    with torch.no_grad():
        theirs = (teacher.hidden @ teacher.head.weight.t()).log_softmax(1)
    return (ours.exp() * (ours - theirs)).sum(1)


def _objective(kind: Any, **given: Any) -> Loss:
    settings = Objective(kind=kind, **given)
    check_objective(settings)
    objective = objective_of(settings)
    return lambda *inputs: objective(*inputs).loss


ARMS: dict[str, Loss] = {
    FULL: _objective(FULL),
    "teacher-top-k, 32, bucket": _objective("teacher-top-k", k=32, outside="bucket"),
    "student-top-k, 32, renormalise": _objective("student-top-k", k=32, outside="renormalise"),
    "sampled-token": _objective("sampled-token"),
    NAIVE: materialised,
}


class Inputs:
    """Both heads, and hidden states of the most tokens."""

    def __init__(self, vocabulary: int = VOCABULARY) -> None:
        generator = torch.Generator().manual_seed(0)

        def draw(rows: int, width: int) -> Tensor:
            return torch.empty(rows, width).normal_(0, width**-0.5, generator=generator)

        self.student, self.teacher = draw(vocabulary, STUDENT), draw(vocabulary, TEACHER)
        self.student.requires_grad_()
        # Logits of a spread of about 3, so that distributions are neither flat nor one token.
        self.states = [3 * width**0.5 * draw(max(TOKENS), width) for width in (STUDENT, TEACHER)]
        self.sampled = torch.randint(vocabulary, (max(TOKENS),), generator=generator)

    def step(self, loss: Loss, tokens: int) -> None:
        """Run forward and backward, and drop the gradients."""
        ours, theirs = (states[:tokens].detach() for states in self.states)
        ours.requires_grad_()
        student, teacher = (
            Predictions(ours, Head(self.student)),
            Predictions(theirs, Head(self.teacher)),
        )
        loss(student, teacher, Tokens(self.sampled[:tokens])).mean().backward()
        self.student.grad = None


def memory_of(name: str) -> dict[str, dict[str, int]]:
    """Read from the system what a step adds to the inputs, at each number of tokens."""
    Inputs(vocabulary=100).step(ARMS[name], 2)  # the code that this loads must not count
    inputs = Inputs()
    found: dict[str, dict[str, int]] = {}
    for tokens in TOKENS:
        found[str(tokens)] = {}
        for head in HEADS:
            inputs.student.requires_grad_(head == "trained")
            before = settled()
            forget_peak()
            inputs.step(ARMS[name], tokens)
            found[str(tokens)][head] = resident("VmHWM") - before
    return found


def _in_own_process(name: str) -> dict[str, dict[str, int]]:
    print(f"memory of {name}", file=sys.stderr)
    ran = subprocess.run(
        [sys.executable, __file__, "--memory", name],
        env={**os.environ, **RETURN_FREED},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return json.loads(ran.stdout.splitlines()[-1])


def seconds() -> dict[str, dict[str, dict[str, list[float]]]]:
    """Time every objective at each number of tokens, several rounds of them in turn."""
    inputs = Inputs()
    found: dict[str, dict[str, dict[str, list[float]]]] = {
        name: {str(tokens): {clock: [] for clock in CLOCKS} for tokens in TOKENS} for name in ARMS
    }
    for number in range(ROUNDS):
        for name in random.Random(number).sample(list(ARMS), len(ARMS)):
            inputs.step(ARMS[name], 8)  # caches and allocator as this objective leaves them
            for tokens in TOKENS:
                started = [clock() for clock in CLOCKS.values()]
                inputs.step(ARMS[name], tokens)
                for (kind, clock), before in zip(CLOCKS.items(), started, strict=True):
                    found[name][str(tokens)][kind].append(round(clock() - before, 4))
        print(f"round {number + 1} of {ROUNDS}", file=sys.stderr)
    return found


def table(results: dict[str, Any]) -> str:
    """Write the markdown table, each figure beside its share of the full divergence's."""
    lines = [
        f"Vocabulary {results['vocabulary']:,}; {results['machine']}, {results['threads']} thread; "
        f"torch {results['versions']['torch']}, trl {results['versions']['trl']}; {results['date']}.",
        "",
        "| tokens | objective | processor time | of reverse-kl | peak, head trained | of reverse-kl | peak, head frozen | of reverse-kl |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for tokens in next(iter(results["seconds"].values())):
        times = {
            name: median(found[tokens]["processor"]) for name, found in results["seconds"].items()
        }
        sizes = {name: found[tokens] for name, found in results["bytes"].items()}
        for name in times:
            cells = [f"{times[name]:.2f} s", f"{times[name] / times[FULL]:.2f} ×"]
            for head in HEADS:
                share = sizes[name][head] / sizes[FULL][head]
                cells += [f"{sizes[name][head] / 2**20:,.0f} MiB", f"{share:.2f} ×"]
            lines.append(f"| {tokens} | {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
