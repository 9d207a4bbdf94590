"""The memory of a training process at its second step, item by item and phase by phase.

    held            weights and optimizer state, all the time
    sampling        KV cache of a batch of rollouts, logits
    scoring         what the student keeps for backward, one layer of the teacher
    loss            the same, tiles of logits, the output head's gradient, gradients of earlier passes
    last layer      the same without logits, and what a layer needs to go backward
    first layer     all gradients, and what a layer needs
    update          all gradients, and what the optimizer computes on the way

Between the last layer and the first, what is kept shrinks as evenly as gradients grow, so that one of
the two ends is the most. The peak is `held` and the largest of the others. benchmarks/memory_estimate.py compares it with
processes on the CPU. What an accelerator's allocator loses between blocks is not counted.
"""

from __future__ import annotations

from dataclasses import dataclass

from sparseopd.feasibility import phases
from sparseopd.feasibility.optimizers import state_bytes
from sparseopd.feasibility.plan import BYTES, Plan
from sparseopd.feasibility.shapes import ModelShape


@dataclass(frozen=True)
class Estimate:
    """Bytes by item: held all the time, and in each phase."""

    held: dict[str, int]
    phases: dict[str, dict[str, int]]

    def of(self, phase: str) -> int:
        """Return the bytes in use in a phase."""
        return sum(self.held.values()) + sum(self.phases[phase].values())

    @property
    def largest(self) -> str:
        """Return the phase that needs most."""
        return max(self.phases, key=self.of)

    @property
    def peak(self) -> int:
        """Return the bytes of that phase."""
        return self.of(self.largest)


def estimate(plan: Plan) -> Estimate:
    """Add up what a process needs; items that need nothing are left out."""
    found = {
        "sampling": phases.sampling(plan),
        "scoring": phases.scoring(plan),
        "loss": phases.loss(plan),
        "last layer": phases.last_layer(plan),
        "first layer": phases.first_layer(plan),
        "update": phases.update(plan),
    }
    some = {name: _some(items) for name, items in found.items()}
    return Estimate(_some(_held(plan)), {name: items for name, items in some.items() if items})


def weight_bytes(shape: ModelShape, dtype: str, quantization: str | None = None) -> int:
    """Return the bytes of a model's weights.

    8 bits have one float32 scale an output row (LLM.int8); 4 bits one byte a block of 64 and a float32
    for 256 of those (NF4 with quantized scales). Embeddings, norms and head are in `dtype`.
    """
    numels, each = shape.numels, BYTES[dtype]
    if quantization is None:
        return each * sum(numels.values())
    total, linear = 0.0, shape.linear
    for name, weight in shape.model.named_parameters():
        if name not in linear:
            total += each * weight.numel()
        elif quantization == "8bit":
            total += weight.numel() + 4 * weight.shape[0]
        else:
            total += weight.numel() * (0.5 + 1 / 64 + 4 / (64 * 256))
    return int(total)


def _held(plan: Plan) -> dict[str, int]:
    held = {"student weights": weight_bytes(plan.student, plan.dtype)}
    for name, one in plan.teachers_here.items():
        item = "teacher weights" if len(plan.teachers) == 1 else f"teacher weights ({name})"
        held[item] = weight_bytes(one.shape, one.settings.dtype, one.settings.quantization)
    shapes = {name: weight.shape for name, weight in plan.student.model.named_parameters()}
    masked = plan.masked is not None
    held["optimizer state"] = sum(
        state_bytes(plan.optimizer, k, None if masked else shapes[name])
        for name, k in plan.trained.items()
    )
    if masked:
        # A float32 master and the int32 place of each coordinate (optim/compact.py).
        held["masters and indices"] = 8 * plan.k
    held["vLLM"] = int(plan.vllm_share * plan.device_bytes)
    return held


def _some(items: dict[str, int]) -> dict[str, int]:
    return {name: size for name, size in items.items() if size}
