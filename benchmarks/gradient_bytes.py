"""What two data-parallel processes send a step: dense gradients under DDP, or k-vectors.

    python benchmarks/gradient_bytes.py           launches two processes; writes results/gradient_bytes.json
    python benchmarks/gradient_bytes.py --table   prints the table of that file (1 minute)

The same Qwen3 of 7 M parameters under `DistributedDataParallel`, trained by AdamW over everything, and
by MaskedOptimizer over random masks. Two figures a step and process: the bytes given to the averages (a
DDP communication hook counts its buckets), and the bytes that Linux saw pass the loopback device, half
of them each way. Two backward passes lead to a step, the first under `no_sync`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from datetime import date
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from machine import described
from torch import Tensor
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel
from transformers import Qwen3Config, Qwen3ForCausalLM

from sparseopd import MaskedOptimizer
from sparseopd.masks import select

RESULTS = Path(__file__).parent / "results" / "gradient_bytes.json"
DENSITIES = (0.2, 0.1, 0.01, 0.001)
STEPS, WARM_UP, ROUNDS = 4, 2, 5
LAUNCH = (
    "-m accelerate.commands.launch --multi_gpu --num_processes 2 --num_machines 1 "
    "--main_process_port 0 --mixed_precision no --dynamo_backend no"
)


def main() -> None:
    """Launch the two processes, or print the committed results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--table", action="store_true")
    if not parser.parse_args().table:
        environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
        subprocess.run([sys.executable, *LAUNCH.split(), __file__], check=True, env=environment)
    print(table(json.loads(RESULTS.read_text())))


def measure() -> None:
    """Measure every arm in this process of two; the first writes the file."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    arms = [Arm(None), *(Arm(density) for density in DENSITIES)]
    for arm in arms:
        arm.steps(WARM_UP)
    rounds = [[arm.steps(STEPS) for arm in arms] for _ in range(ROUNDS)]
    rows = [arm.summary([one[place] for one in rounds]) for place, arm in enumerate(arms)]
    if dist.get_rank() == 0:
        results = {
            "date": date.today().isoformat(),
            "machine": described(),
            "processes": dist.get_world_size(),
            "backend": "gloo",
            "parameters": arms[0].numel,
            "steps_a_round": STEPS,
            "rounds": ROUNDS,
            "arms": rows,
        }
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    dist.destroy_process_group()


class Arm:
    """One model under DDP and its optimizer."""

    def __init__(self, density: float | None) -> None:
        """Args: `density` of the random mask, None for AdamW over everything."""
        torch.manual_seed(0)
        self.density, self.given = density, 0
        model = Qwen3ForCausalLM(
            Qwen3Config(
                vocab_size=4096,
                hidden_size=256,
                intermediate_size=768,
                num_hidden_layers=8,
                num_attention_heads=4,
                num_key_value_heads=2,
                head_dim=64,
                tie_word_embeddings=True,
            )
        )
        self.numel = sum(weight.numel() for weight in model.parameters())
        self.k = self.numel
        if density is not None:  # before DDP, which then leaves the gradients alone
            mask = select(model, selector="random", density=density)
            self.optimizer: torch.optim.Optimizer = MaskedOptimizer(model, mask, lr=1e-4)
            self.k = mask.count()
        self.wrapped = DistributedDataParallel(model)
        if density is None:
            self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
            self.wrapped.register_comm_hook(None, self._count)
        self.data = batches(dist.get_rank())

    def steps(self, count: int) -> dict[str, float]:
        """Train; return bytes given and passed by, and seconds, a step."""
        dist.barrier()
        given, passed, started = self._given(), loopback_bytes(), time.perf_counter()
        for _ in range(count):
            for last in (False, True):
                tokens = next(self.data)
                with nullcontext() if last else self.wrapped.no_sync():
                    self.wrapped(input_ids=tokens, labels=tokens).loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
        dist.barrier()
        return {
            "given": (self._given() - given) / count,
            "passed": (loopback_bytes() - passed) / count / dist.get_world_size(),
            "seconds": (time.perf_counter() - started) / count,
        }

    def summary(self, rounds: list[dict[str, float]]) -> dict[str, Any]:
        """Return the medians over rounds."""
        medians = {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}
        return {"density": self.density, "k": self.k, **medians}

    def _given(self) -> int:
        ours = isinstance(self.optimizer, MaskedOptimizer)
        return self.optimizer.bytes_sent if ours else self.given  # pyright: ignore

    def _count(self, _, bucket):  # DDP refuses annotations that are strings
        self.given += bucket.buffer().nbytes
        return allreduce_hook(dist.group.WORLD, bucket)  # pyright: ignore[reportArgumentType]


def batches(rank: int) -> Iterator[Tensor]:
    """Random tokens (4, 64) of this process."""
    generator = torch.Generator().manual_seed(rank)
    while True:
        yield torch.randint(0, 4096, (4, 64), generator=generator)


def loopback_bytes() -> int:
    """Return the bytes the loopback device has received since the machine started."""
    lines = Path("/proc/net/dev").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.strip().startswith("lo:"))


def table(results: dict[str, Any]) -> str:
    """Write the Markdown table."""
    dense = results["arms"][0]
    lines = [
        "| gradients averaged | k | given a step | on the wire | of dense | whole step |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for arm in results["arms"]:
        name = "dense, DDP" if arm["density"] is None else f"k-vectors, {100 * arm['density']:g} %"
        lines.append(
            f"| {name} | {arm['k']:,} | {arm['given'] / 1e6:.3f} MB | {arm['passed'] / 1e6:.3f} MB "
            f"| {arm['passed'] / dense['passed']:.4f} | {arm['seconds'] / dense['seconds']:.2f} × |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    measure() if "RANK" in os.environ else main()
