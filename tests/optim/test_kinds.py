"""Whatever optimizer steps on the k-vectors, only they move; what cannot step on them is refused."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import bitsandbytes
import pytest
import torch
from torch import nn
from transformers import Qwen3ForCausalLM

from sparseopd import Mask, MaskedOptimizer
from sparseopd.errors import OptimizerError
from sparseopd.masks import select
from tests.conftest import make_qwen3
from tests.optim.test_masked import backward, everything

PLAIN = {
    "Adadelta": {},
    "Adafactor": {},
    "Adagrad": {},
    "Adam": {"amsgrad": True},
    "Adamax": {},
    "AdamW": {"weight_decay": 0.1},
    "ASGD": {},
    "NAdam": {"weight_decay": 0.1, "decoupled_weight_decay": True},
    "RAdam": {},
    "RMSprop": {"momentum": 0.9, "centered": True},
    "Rprop": {},
    "SGD": {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
}
"""Every optimizer of torch that steps on gradients of vectors."""


def steps(model: nn.Module, optimizer: torch.optim.Optimizer, count: int = 5) -> None:
    for step in range(count):
        backward(model, step)
        optimizer.step()
        optimizer.zero_grad()


def moved_off(model: nn.Module, before: nn.Module, mask: Mask) -> tuple[int, float]:
    """How many coordinates off the mask changed, and what share of those on it did."""
    off = on = 0
    for (name, old), new in zip(before.named_parameters(), model.parameters(), strict=True):
        differs = old != new
        off += int((differs & ~mask[name]).sum())
        on += int((differs & mask[name]).sum())
    return off, on / mask.count()


@pytest.mark.parametrize("name", PLAIN)
def test_any_torch_optimizer_moves_the_mask_alone(name: str, qwen3: Qwen3ForCausalLM) -> None:
    before, mask = copy.deepcopy(qwen3), select(qwen3, selector="random", density=0.1)
    kind: Any = getattr(torch.optim, name)
    steps(qwen3, MaskedOptimizer(qwen3, mask, kind, lr=1e-2, max_grad_norm=1.0, **PLAIN[name]))
    off, on = moved_off(qwen3, before, mask)
    assert off == 0
    assert on > 0.5


@pytest.mark.parametrize("name", sorted(PLAIN.keys() - {"Adafactor"}))
def test_with_a_full_mask_it_is_that_optimizer_bit_for_bit(name: str) -> None:
    plain, masked = make_qwen3(), make_qwen3()
    kind: Any = getattr(torch.optim, name)
    steps(plain, kind(plain.parameters(), lr=1e-2, **PLAIN[name]))
    steps(masked, MaskedOptimizer(masked, everything(masked), kind, lr=1e-2, **PLAIN[name]))
    for one, other in zip(plain.parameters(), masked.parameters(), strict=True):
        assert torch.equal(one, other)


def test_adafactor_treats_a_vector_as_a_vector() -> None:
    """It factors matrices only, so it equals the plain one over vectors that hold the same values."""
    values = torch.randn(50, generator=torch.Generator().manual_seed(0))
    plain, model = nn.Parameter(values.clone()), nn.Module()
    model.matrix = nn.Parameter(values.clone().view(5, 10))
    masked = MaskedOptimizer(
        model,
        Mask.from_tensors({"matrix": torch.ones(5, 10, dtype=torch.bool)}),
        torch.optim.Adafactor,
        lr=1e-2,
    )
    for optimizer, weight in (
        (torch.optim.Adafactor([plain], lr=1e-2), plain),
        (masked, model.matrix),
    ):
        for _ in range(5):
            (weight**2).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
    assert torch.equal(plain, model.matrix.detach().view(-1))


@pytest.mark.parametrize("settings", [{"fused": True}, {"foreach": True}, {"foreach": False}])
@pytest.mark.parametrize("clip", [None, 0.1])
def test_200_steps_of_any_implementation_are_adamw(
    settings: dict[str, bool], clip: float | None
) -> None:
    plain, masked = make_qwen3(), make_qwen3()
    dense = torch.optim.AdamW(plain.parameters(), lr=1e-3, weight_decay=0.1, **settings)
    ours = MaskedOptimizer(
        masked,
        everything(masked),
        torch.optim.AdamW,
        lr=1e-3,
        weight_decay=0.1,
        max_grad_norm=clip,
        **settings,
    )
    for step in range(200):
        backward(plain, step)
        if clip:
            nn.utils.clip_grad_norm_(plain.parameters(), clip)
        dense.step()
        dense.zero_grad()
        backward(masked, step)
        ours.step()
    for one, other in zip(plain.parameters(), masked.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("kind", [bitsandbytes.optim.AdamW8bit, bitsandbytes.optim.PagedAdamW8bit])
def test_8_bit_states_take_a_byte_each(kind: Callable[..., Any]) -> None:
    model = nn.Sequential(nn.Linear(300, 200), nn.Linear(200, 1))
    before, mask = copy.deepcopy(model), select(model, selector="random", density=0.5)
    optimizer = MaskedOptimizer(model, mask, kind, lr=1e-2, weight_decay=0.1)
    for _ in range(3):
        model(torch.ones(4, 300)).square().mean().backward()
        optimizer.step()
    assert moved_off(model, before, mask)[0] == 0
    state = optimizer.state[next(optimizer.parameters())]
    assert state["state1"].dtype == state["state2"].dtype == torch.uint8
    # Two bytes of state and eight for every block of 256; the code books and small vectors beside.
    assert optimizer.memory()["state"] < 2.1 * optimizer.numel() + 4096
    weights = copy.deepcopy(model.state_dict())
    resumed = copy.deepcopy(before)
    resumed.load_state_dict(weights)
    other = MaskedOptimizer(resumed, mask, kind, lr=1e-2, weight_decay=0.1)
    other.load_state_dict(optimizer.state_dict())
    for net, stepper in ((model, optimizer), (resumed, other)):
        net(torch.ones(4, 300)).square().mean().backward()
        stepper.step()
    for one, two in zip(model.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, two)


def test_memory_is_twelve_bytes_a_coordinate_and_an_index(qwen3: Qwen3ForCausalLM) -> None:
    optimizer = MaskedOptimizer(qwen3, select(qwen3, selector="random", density=0.1))
    steps(qwen3, optimizer, 1)
    memory, k = optimizer.memory(), optimizer.numel()
    assert memory["masters"] == memory["index"] == 4 * k
    assert memory["state"] == 8 * k + 4 * len(list(optimizer.parameters()))  # and a step each


@pytest.mark.parametrize(
    ("kind", "settings", "sentence"),
    [
        (torch.optim.LBFGS, {}, "LBFGS evaluates the loss itself"),
        (torch.optim.SparseAdam, {}, "SparseAdam wants sparse gradients"),
        (torch.optim.Muon, {}, "Muon cannot be built over k-vectors: .*2D"),
        (torch.optim.AdamW, {"momentum": 0.9}, "AdamW cannot be built.*momentum"),
        (torch.optim.AdamW, {"lr": -1.0}, "AdamW cannot be built.*learning rate"),
    ],
)
def test_what_cannot_step_on_vectors_is_refused(
    kind: Any, settings: dict[str, Any], sentence: str, qwen3: Qwen3ForCausalLM
) -> None:
    with pytest.raises(OptimizerError, match=sentence):
        MaskedOptimizer(qwen3, everything(qwen3), kind, **settings)
    assert all(weight.requires_grad for weight in qwen3.parameters())
