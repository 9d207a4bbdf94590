"""Given the same gradients, a masked step is the dense step at the mask and no step elsewhere."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sparseopd import Mask, MaskedOptimizer

SHAPES = {"matrix": (3, 5), "vector": (4,), "scalar": (), "experts": (2, 3, 2)}
KINDS: dict[str, tuple[type[torch.optim.Optimizer], dict[str, Any]]] = {
    "adamw": (torch.optim.AdamW, {"weight_decay": 0.1}),
    "adam": (torch.optim.Adam, {"weight_decay": 0.1, "amsgrad": True}),
    "sgd": (torch.optim.SGD, {"weight_decay": 0.1, "momentum": 0.9, "nesterov": True}),
}


class Weights(nn.Module):
    """Parameters of every shape, whose gradients are whatever they are multiplied by."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        for name, shape in SHAPES.items():
            setattr(self, name, nn.Parameter(torch.randn(shape, generator=generator)))

    def trained(self) -> dict[str, torch.Tensor]:
        """The weights as they are now."""
        return {name: weight.detach().clone() for name, weight in self.named_parameters()}


@pytest.mark.parametrize("kind", KINDS)
@given(st.integers(0, 10_000), st.floats(0.05, 0.95), st.floats(1e-4, 1.0), st.integers(1, 3))
@settings(max_examples=25, deadline=None)
def test_masked_is_dense_at_the_mask_and_still_elsewhere(
    kind: str, seed: int, density: float, lr: float, accumulated: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    chosen = {
        name: torch.rand(shape, generator=generator) < density for name, shape in SHAPES.items()
    }
    chosen["matrix"][0, 0] = True  # never empty
    optimizer, more = KINDS[kind]
    before = Weights(seed).trained()

    def run(masked: bool) -> dict[str, torch.Tensor]:
        model = Weights(seed)
        if masked:
            stepper: Any = MaskedOptimizer(
                model, Mask.from_tensors(chosen), optimizer, lr=lr, **more
            )
        else:
            stepper = optimizer(model.parameters(), lr=lr, **more)
        for step in range(4):
            for part in range(accumulated):
                pull_all(model, seed + 10 * step + part)
            stepper.step()
            stepper.zero_grad()
        return model.trained()

    dense, sparse = run(False), run(True)
    for name, flags in chosen.items():
        assert torch.equal(sparse[name][flags], dense[name][flags])
        assert torch.equal(sparse[name][~flags], before[name][~flags])


def pull_all(model: Weights, seed: int) -> None:
    """The same gradient for every weight, whichever of them still want one."""
    generator = torch.Generator().manual_seed(seed)
    pulls = [
        (weight * pull).sum()
        for weight in model.parameters()
        for pull in [torch.randn(weight.shape, generator=generator)]
        if weight.requires_grad
    ]
    sum(pulls[1:], pulls[0]).backward()
