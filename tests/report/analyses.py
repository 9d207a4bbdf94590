"""Small analyses for the tests of tables, figures and pages: made once, of checkpoints in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import torch
from torch import Tensor

from sparseopd.analysis import Analysis, AnalysisSettings, analyze

HOSTILE = (
    "<script>alert(1)</script></svg>\"'{{ 7*7 }}{% if %} $x_1$ &lt; --> ]]> [red]漢\x1b[31m\x00\n,="
)
SIZES = {
    "model.embed_tokens.weight": (60, 40),
    **{
        f"model.layers.{layer}.{name}.weight": shape
        for layer in range(2)
        for name, shape in (
            ("input_layernorm", (40,)),
            ("self_attn.q_proj", (40, 40)),
            ("self_attn.k_proj", (20, 40)),
            ("mlp.up_proj", (64, 40)),
            ("mlp.down_proj", (40, 64)),
        )
    },
}


class Held:
    """A checkpoint in memory, read as one on disk is."""

    revision = None
    folder = None

    def __init__(self, label: str, tensors: dict[str, Tensor]) -> None:
        self.label, self.tensors = label, tensors

    def keys(self) -> list[str]:
        return list(self.tensors)

    def shape(self, name: str) -> torch.Size:
        return self.tensors[name].shape

    def dtype(self, name: str) -> torch.dtype:
        return self.tensors[name].dtype

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def flat(self, name: str, start: int, stop: int) -> Tensor:
        return self.tensors[name].flatten()[start:stop]


def low_rank(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """An update of rank 1 on a third of the coordinates; of a vector, nothing."""
    if len(shape) == 1:
        return torch.zeros(shape)
    left, right = (torch.randn(size, generator=generator) for size in shape)
    return 3e-4 * left.outer(right) * (torch.rand(shape, generator=generator) < 0.3)


def dense(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Noise in every coordinate."""
    return 4e-5 * torch.randn(shape, generator=generator)


def still(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """No update."""
    return torch.zeros(shape)


def made(
    update: Callable[[tuple[int, ...], torch.Generator], Tensor] = low_rank,
    sizes: dict[str, tuple[int, ...]] | None = None,
    *,
    draws: int = 3,
    tuned: torch.dtype = torch.bfloat16,
    base: torch.dtype = torch.bfloat16,
    name: str = "made",
) -> Analysis:
    """Analyse an update of small random weights."""
    generator = torch.Generator().manual_seed(0)
    before, after = {}, {}
    for tensor, shape in (SIZES if sizes is None else sizes).items():
        before[tensor] = (0.03 * torch.randn(shape, generator=generator)).to(base)
        after[tensor] = (before[tensor].float() + update(shape, generator)).to(tuned)
    found = analyze(
        Held("base", before), Held(f"tuned-{name}", after), settings=AnalysisSettings(draws=draws)
    )
    return replace(found, name=name, seconds=1.5)


@cache
def structured() -> Analysis:
    """An update with structure, beside three draws of each null."""
    return made(name="structured")


@cache
def with_master() -> Analysis:
    """The same, known before rounding."""
    return made(tuned=torch.float32, name="with-master")


@cache
def without_nulls() -> Analysis:
    """The same, with no nulls."""
    return made(draws=0, name="without-nulls")


@cache
def hostile() -> Analysis:
    """Names that would break a page, a table or a figure if they were not escaped."""
    sizes = {
        f"model.layers.0.{HOSTILE}.weight": (30, 30),
        f"$\\frac{{a}}{{b}}$ {'x' * 300}": (30, 30),
    }
    return made(sizes=sizes, name=HOSTILE)


ODD: dict[str, Callable[[], Analysis]] = {
    "no nulls": lambda: without_nulls(),
    "one draw": lambda: made(draws=1),
    "dense": lambda: made(dense),
    "wide": lambda: made(base=torch.float32, tuned=torch.float32),
    "nothing moved": lambda: made(still),
    "vectors alone": lambda: made(dense, {"norm.weight": (50,)}),
    "one matrix": lambda: made(sizes={"w": (30, 24)}),
    "one coordinate": lambda: made(_one, {"w": (30, 24), "layers.0.v_proj.weight": (24, 24)}),
}
"""Analyses that lack something."""


@cache
def odd(name: str) -> Analysis:
    """One of `ODD`."""
    return ODD[name]()


def _one(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    change = torch.zeros(shape)
    change.view(-1)[7] = 0.5
    return change
