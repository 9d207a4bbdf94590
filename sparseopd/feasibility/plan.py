"""Everything the memory of a training process depends on, in numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from sparseopd.feasibility.activations import Batch, Numbers, numbers_of
from sparseopd.feasibility.shapes import ModelShape
from sparseopd.settings.models import Teacher
from sparseopd.settings.objective import Kind
from sparseopd.settings.optimizer import Optimizer

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
"""Of a number of each dtype."""


@dataclass(frozen=True)
class Lengths:
    """How long sequences become, in tokens."""

    prompt: int
    teacher_prompt: int
    """Where a teacher sees more than the student."""
    response: int
    image_tokens: int = 0
    """Of a prompt's images, among its tokens."""
    sampled: int = 0
    """Rows that were tokenized to know; 0 where the prompt's length is assumed."""


@dataclass(frozen=True)
class PlannedTeacher:
    """A teacher's dimensions and settings."""

    shape: ModelShape
    settings: Teacher
    beside: bool = True
    """Whether it is held on the student's device."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One training process at its second step, when the optimizer has its state."""

    student: ModelShape
    dtype: str
    """Of the student's weights."""
    teachers: Mapping[str, PlannedTeacher]
    kind: Kind
    lengths: Lengths
    micro: int
    """Completions of one forward and backward."""
    accumulation: int
    """Forward and backward passes of an update."""
    rollouts: int
    """Completions sampled at a time; 0 where they are not sampled here."""
    optimizer: Optimizer
    masked: Mapping[str, int] | None = None
    """Trained coordinates of each of the student's parameters; None trains all of them."""
    frozen: frozenset[str] = frozenset()
    """Parameters that stay as they are."""
    checkpointing: bool = False
    device: str = "cpu"
    autocast: bool = False
    vllm_share: float = 0.0
    """Share of the device that vLLM takes for itself."""
    device_bytes: int = field(default=0)

    @property
    def numbers(self) -> Numbers:
        """Return how the student computes."""
        return numbers_of(self.dtype, autocast=self.autocast)

    @property
    def batch(self) -> Batch:
        """Return what the student is given at once."""
        return Batch(self.micro, self.lengths.prompt + self.lengths.response)

    @property
    def teachers_here(self) -> dict[str, PlannedTeacher]:
        """Return the teachers that take memory of the student's device."""
        return {name: one for name, one in self.teachers.items() if one.beside}

    @cached_property
    def trained(self) -> dict[str, int]:
        """Return the trained coordinates of each parameter that has any."""
        numels = self.student.numels if self.masked is None else self.masked
        return {name: k for name, k in numels.items() if k and name not in self.frozen}

    @property
    def k(self) -> int:
        """Return how many coordinates are trained."""
        return sum(self.trained.values())

    @property
    def trains_head(self) -> bool:
        """Whether the gradient of the output head is needed."""
        return self.student.head in self.trained
