"""How near is the memory that `sparseopd check` foresees to what a process takes?

    python benchmarks/memory_estimate.py           measures; writes results/memory_estimate.json (3 minutes)
    python benchmarks/memory_estimate.py --table   prints the table of that file

A random Qwen3 of 66 M parameters as student, and one as its teacher, take two steps on the CPU, each
case in a process of its own: batched `generate`, both forwards, TRL's divergence over the whole
vocabulary, backward, AdamW or MaskedOptimizer. Measured is the most memory that was resident (VmHWM of
Linux) above the process as it was before the models, over all and in the phases of the second step.
Freed memory is given back at once (glibc's thresholds are set), so that what is resident is in use.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

import torch
import transformers
from machine import described, forget_peak, resident, settled
from torch import Tensor
from transformers import Qwen3Config, Qwen3ForCausalLM
from trl.kernels.chunked_divergence import ChunkedDivergenceFunction

from sparseopd import Mask, MaskedOptimizer
from sparseopd.feasibility.memory import estimate
from sparseopd.feasibility.plan import Lengths, Plan, PlannedTeacher
from sparseopd.feasibility.shapes import ModelShape, shape_of
from sparseopd.recipe import Optimizer, Teacher

RESULTS = Path(__file__).parent / "results" / "memory_estimate.json"
RETURN_FREED = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
SHAPE = {
    "vocab_size": 8192,
    "hidden_size": 768,
    "intermediate_size": 2304,
    "num_hidden_layers": 8,
    "num_attention_heads": 12,
    "num_key_value_heads": 4,
    "head_dim": 64,
}
CASES: dict[str, dict[str, Any]] = {
    "full, 4 x 96, tied": {"rows": 4, "prompt": 88, "response": 8, "tied": True},
    "full, 6 x 96": {"rows": 6, "prompt": 88, "response": 8},
    "full, 6 x 96, checkpointing": {
        "rows": 6, "prompt": 88, "response": 8, "checkpointing": True,
    },
    "full, 4 x 2 x 96": {"rows": 2, "prompt": 80, "response": 16, "accumulation": 4},
    "10 % mask, 6 x 96": {"rows": 6, "prompt": 88, "response": 8, "density": 0.1},
    "10 % mask, 6 x 96, checkpointing": {
        "rows": 6, "prompt": 88, "response": 8, "density": 0.1, "checkpointing": True,
    },
    "10 % mask, 1 x 640, tied, SGD": {
        "rows": 1, "prompt": 632, "response": 8, "density": 0.1, "optimizer": "sgd", "tied": True,
    },
    "1 % mask, 2 x 48, bf16 weights": {
        "rows": 2, "prompt": 40, "response": 8, "density": 0.01, "dtype": "bfloat16",
    },
}  # fmt: skip
"""Completions of a forward x tokens of each; of three factors, the first is forwards of an update."""

TRAINING = ("scoring", "loss", "last layer", "first layer")
"""Phases that are measured as one."""


def main() -> None:
    """Measure every case and write the file, or print the committed one."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--case", help="measure one case in this process")
    chosen = parser.parse_args()
    if chosen.case:
        print(json.dumps(measure(CASES[chosen.case])))
        return
    if not chosen.table:
        found = {"conditions": conditions(), "cases": {name: compare(name) for name in CASES}}
        RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    print(table(json.loads(RESULTS.read_text())))


def compare(name: str) -> dict[str, Any]:
    """Return estimated and measured bytes of a case."""
    planned = estimate(plan(CASES[name]))
    ran = subprocess.run(
        [sys.executable, __file__, "--case", name],
        env={**os.environ, **RETURN_FREED}, check=True, capture_output=True, text=True,
    )  # fmt: skip
    measured = json.loads(ran.stdout.splitlines()[-1])
    held = sum(planned.held.values())
    foreseen = {
        "peak": planned.peak,
        "held": held,
        "sampling": planned.of("sampling"),
        "training": max(planned.of(phase) for phase in TRAINING),
        "update": planned.of("update"),
    }
    found = {"estimated": foreseen, "measured": measured}
    print(name, {key: f"{foreseen[key] / measured[key]:.2f}" for key in foreseen}, file=sys.stderr)
    beyond = [one["peak"] - one["held"] for one in (foreseen, measured)]
    return found | {
        "ratio": round(foreseen["peak"] / measured["peak"], 3),
        "ratio beyond held": round(beyond[0] / beyond[1], 3),
    }


def plan(case: dict[str, Any]) -> Plan:
    """Return what `sparseopd check` would plan for a case."""
    shape, density = shape_of(config(case)), case.get("density")
    return Plan(
        student=shape,
        dtype=case.get("dtype", "float32"),
        teachers={
            "teacher": PlannedTeacher(
                shape, Teacher(path="", dtype=case.get("dtype", "float32")), beside=True
            )
        },
        kind="reverse-kl",
        lengths=Lengths(case["prompt"], case["prompt"], case["response"]),
        micro=case["rows"],
        accumulation=case.get("accumulation", 1),
        rollouts=case["rows"] * case.get("accumulation", 1),
        optimizer=Optimizer(name=case.get("optimizer", "adamw")),
        masked=None if density is None else counts(shape, density),
        checkpointing=case.get("checkpointing", False),
    )


def counts(shape: ModelShape, density: float) -> dict[str, int]:
    """Return a mask's coordinates of each parameter."""
    return {name: round(density * numel) for name, numel in shape.numels.items()}


def measure(case: dict[str, Any]) -> dict[str, int]:
    """Take two steps in this process; return bytes above what it took before the models."""
    small = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1}
    _Run(config(case, **small), case).step()  # the code that this loads must not count
    before = settled()
    forget_peak()
    run = _Run(config(case), case)
    run.step()
    peak = run.peak
    held = settled() - before
    run.step()
    return {
        "peak": max(peak, run.peak) - before,
        "held": held,
        **{name: size - before for name, size in run.peaks.items()},
    }


class _Run:
    """A student, a teacher and an optimizer, with the peaks of the last step's phases."""

    def __init__(self, shape: Qwen3Config, case: dict[str, Any]) -> None:
        self._case = case
        dtype = getattr(torch, case.get("dtype", "float32"))
        self._student: Any = Qwen3ForCausalLM._from_config(shape, dtype=dtype).train()
        self._teacher = Qwen3ForCausalLM._from_config(shape, dtype=dtype).eval()
        self._teacher.requires_grad_(False)
        if case.get("checkpointing"):
            self._student.gradient_checkpointing_enable({"use_reentrant": False})
        self._optimizer = self._build()
        self.peaks: dict[str, int] = {}
        self.peak = 0

    def _build(self) -> torch.optim.Optimizer:
        kind = {"adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}[
            self._case.get("optimizer", "adamw")
        ]
        if "density" not in self._case:
            return kind(self._student.parameters(), lr=1e-5)
        generator = torch.Generator().manual_seed(0)
        chosen = {
            name: torch.rand(weight.shape, generator=generator) < self._case["density"]
            for name, weight in self._student.named_parameters()
        }
        return MaskedOptimizer(self._student, Mask.from_tensors(chosen), kind, lr=1e-5)

    def step(self) -> None:
        """Sample a batch of rollouts, go forward and back, update."""
        rows, several = self._case["rows"], self._case.get("accumulation", 1)
        forget_peak()
        rollouts, mask = self._sample(rows * several)
        self._end("sampling")
        self._student.train()
        for ids, seen in zip(rollouts.split(rows), mask.split(rows), strict=True):
            self._loss(ids, seen).backward()
        self._end("training")
        self._optimizer.step()
        self._optimizer.zero_grad()
        self._end("update")

    def _sample(self, rows: int) -> tuple[Tensor, Tensor]:
        prompt, response = self._case["prompt"], self._case["response"]
        ids = torch.randint(3, SHAPE["vocab_size"], (rows, prompt))
        mask = torch.ones_like(ids)
        mask[0, :5] = 0  # a shorter prompt, padded on the left
        self._student.eval()
        with torch.no_grad():
            said = self._student.generate(
                ids, attention_mask=mask, max_new_tokens=response, min_new_tokens=response,
                do_sample=True, top_k=0, pad_token_id=0,
            )  # fmt: skip
        return said, torch.nn.functional.pad(mask, (0, response), value=1)  # pyright: ignore

    def _loss(self, ids: Tensor, mask: Tensor) -> Tensor:
        response = self._case["response"]
        given = {"input_ids": ids, "attention_mask": mask, "use_cache": False}
        student = self._student.model(**given).last_hidden_state[:, -response - 1 : -1]
        with torch.no_grad():
            teacher = self._teacher.model(**given).last_hidden_state[:, -response - 1 : -1]
        divergence, _ = ChunkedDivergenceFunction.apply(  # pyright: ignore
            student.flatten(0, 1), self._student.lm_head.weight, None,
            teacher.flatten(0, 1), self._teacher.lm_head.weight, None, 1.0,
        )  # fmt: skip
        return divergence.mean()

    def _end(self, phase: str) -> None:
        self.peaks[phase] = resident("VmHWM")
        self.peak = max(self.peak, self.peaks[phase])
        forget_peak()


def config(case: dict[str, Any], **changes: int) -> Qwen3Config:
    """Return the shape of both models."""
    shape: dict[str, Any] = {**SHAPE, **changes}
    return Qwen3Config(**shape, tie_word_embeddings=case.get("tied", False))


def conditions() -> dict[str, str]:
    """Say where and with what it was measured."""
    return {
        "date": date.today().isoformat(),
        "machine": described(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "model": f"Qwen3, {shape_of(config({})).parameters:,} parameters (untied), student and teacher alike",
    }


def table(found: dict[str, Any]) -> str:
    """Return a Markdown table of estimated and measured MiB, and of their ratios."""
    phases = ("held", "sampling", "training", "update")
    lines = [
        f"| case | estimated | measured | ratio | beyond held | {' | '.join(phases)} |",
        f"| --- |{' --: |' * (4 + len(phases))}",
    ]
    for name, case in found["cases"].items():
        expected, measured = case["estimated"], case["measured"]
        cells = [f"{one['peak'] / 2**20:,.0f} MiB" for one in (expected, measured)]
        cells += [f"{case[ratio]:.2f}" for ratio in ("ratio", "ratio beyond held")]
        cells += [f"{expected[phase] / measured[phase]:.2f}" for phase in phases]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    worst = max(found["cases"].values(), key=lambda case: abs(1 - case["ratio"]))["ratio"]
    return "\n".join([*lines, "", f"{found['conditions']}; furthest off: {worst:.2f}"])


if __name__ == "__main__":
    main()
