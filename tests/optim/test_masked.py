"""The masked optimizer trains the mask, exactly, and nothing else."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from transformers import Qwen3ForCausalLM

from sparseopd import MaskedOptimizer
from sparseopd.errors import MaskMismatchError, OptimizerError, TrainingError
from sparseopd.masks import Mask, select
from tests.conftest import make_moe, make_qwen3


def backward(model: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, 40, (2, 8), generator=generator)
    model(input_ids=tokens, labels=tokens).loss.backward()


def everything(model: nn.Module) -> Mask:
    return select(model, selector="random", density=1.0)


@pytest.mark.parametrize("settings", [{}, {"weight_decay": 0.1}, {"foreach": True}])
def test_full_mask_is_adamw_bit_for_bit(settings: dict[str, Any]) -> None:
    plain, masked = make_qwen3(), make_qwen3()
    dense = torch.optim.AdamW(plain.parameters(), lr=1e-3, **settings)
    ours = MaskedOptimizer(masked, everything(masked), torch.optim.AdamW, lr=1e-3, **settings)
    for step in range(20):
        for model, optimizer in ((plain, dense), (masked, ours)):
            backward(model, step)
            optimizer.step()
            optimizer.zero_grad()
    for one, other in zip(plain.parameters(), masked.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.SGD])
@pytest.mark.parametrize("make", [make_qwen3, make_moe])
def test_off_mask_bits_never_change(
    make: Callable[[], nn.Module], kind: type[torch.optim.Optimizer], dtype: torch.dtype
) -> None:
    model = make().to(dtype)
    before = copy.deepcopy(model)
    mask = select(model, selector="random", density=0.1)
    more = {"momentum": 0.9} if kind is torch.optim.SGD else {}
    optimizer = MaskedOptimizer(
        model, mask, kind, lr=1e-2, weight_decay=0.1, max_grad_norm=1.0, **more
    )
    for step in range(10):
        backward(model, step)
        optimizer.step()
    from sparseopd.pairs import open_tensors

    old, new = open_tensors(before), open_tensors(model)
    moved = 0
    for name in mask.names:
        differs = old[name] != new[name]
        assert not bool((differs & ~mask[name]).any()), name
        moved += int(differs.sum())
    assert moved > 0.5 * mask.count()


def test_gradients_are_gathered_freed_and_accumulated(qwen3: Qwen3ForCausalLM) -> None:
    reference = copy.deepcopy(qwen3)
    mask = select(qwen3, selector="random", density=0.2)
    optimizer = MaskedOptimizer(qwen3, mask, torch.optim.SGD, lr=1.0)
    for seed in (0, 1):
        backward(reference, seed)
        backward(qwen3, seed)
    assert all(weight.grad is None for weight in qwen3.parameters())
    gathered = torch.cat([values.grad for values in optimizer.parameters()])  # pyright: ignore
    expected = torch.cat(
        [
            weight.grad[mask[name]]  # pyright: ignore
            for name, weight in reference.named_parameters()
            if mask.count(name)
        ]
    )
    assert torch.equal(gathered, expected)
    norm = optimizer.clip_grad_norm_(1e-3)
    assert float(norm) == pytest.approx(float(expected.norm()), rel=1e-5)
    clipped = torch.cat([values.grad for values in optimizer.parameters()])  # pyright: ignore
    assert float(clipped.norm()) == pytest.approx(1e-3, rel=1e-3)


def test_the_step_consumes_its_gradients(qwen3: Qwen3ForCausalLM) -> None:
    optimizer = MaskedOptimizer(qwen3, everything(qwen3), torch.optim.SGD, lr=1e-2)
    backward(qwen3, 0)
    optimizer.step()
    after = copy.deepcopy(qwen3.state_dict())
    optimizer.step()  # Trainer never calls zero_grad on the optimizer
    assert all(torch.equal(after[name], weight) for name, weight in qwen3.state_dict().items())


def test_empty_tensors_stop_requiring_gradients_until_closed(qwen3: Qwen3ForCausalLM) -> None:
    mask = select(qwen3, selector="random", density=0.5, scope=["*.mlp.*"])
    optimizer = MaskedOptimizer(qwen3, mask, torch.optim.AdamW, lr=1e-3)
    requires = {name for name, weight in qwen3.named_parameters() if weight.requires_grad}
    assert requires == {name for name in mask.names if ".mlp." in name}
    optimizer.close()
    assert all(weight.requires_grad for weight in qwen3.parameters())
    backward(qwen3, 0)
    assert all(weight.grad is not None for weight in qwen3.parameters())


def test_torchs_deterministic_mode_ends_in_the_same_bits() -> None:
    def run(deterministic: bool) -> Qwen3ForCausalLM:
        model = make_qwen3()
        optimizer = MaskedOptimizer(model, select(model, selector="random", density=0.1), lr=1e-2)
        torch.use_deterministic_algorithms(deterministic)
        try:
            for step in range(3):
                backward(model, step)
                optimizer.step()
        finally:
            torch.use_deterministic_algorithms(False)
        return model

    for one, other in zip(run(False).parameters(), run(True).parameters(), strict=True):
        assert torch.equal(one, other)


def test_schedulers_and_state_survive_a_round_trip() -> None:
    def run(split: bool) -> Qwen3ForCausalLM:
        model = make_qwen3()
        mask = select(model, selector="random", density=0.1)
        optimizer = MaskedOptimizer(model, mask, torch.optim.AdamW, lr=1e-2)
        for step in range(6):
            if split and step == 3:
                state, weights = optimizer.state_dict(), copy.deepcopy(model.state_dict())
                model = make_qwen3()
                model.load_state_dict(weights)
                optimizer = MaskedOptimizer(model, mask, torch.optim.AdamW, lr=1e-2)
                optimizer.load_state_dict(state)
            scheduler = torch.optim.lr_scheduler.LambdaLR(
                optimizer, lambda _, now=step: 1 / (now + 1)
            )
            assert optimizer.inner.param_groups[0]["lr"] == scheduler.get_last_lr()[0]
            backward(model, step)
            optimizer.step()
        return model

    whole, resumed = run(False), run(True)
    for one, other in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)


def test_state_of_another_mask_is_refused(qwen3: Qwen3ForCausalLM) -> None:
    masks = [select(qwen3, selector="random", density=0.1, seed=seed) for seed in (0, 1)]
    one = MaskedOptimizer(qwen3, masks[0], torch.optim.AdamW, lr=1e-3)
    other = MaskedOptimizer(make_qwen3(), masks[1], torch.optim.AdamW, lr=1e-3)
    with pytest.raises(OptimizerError, match="another mask"):
        other.load_state_dict(one.state_dict())


def test_a_gradient_that_is_not_finite_names_its_parameter(qwen3: Qwen3ForCausalLM) -> None:
    before = copy.deepcopy(qwen3.state_dict())
    optimizer = MaskedOptimizer(qwen3, everything(qwen3), torch.optim.AdamW, lr=1e-3)
    backward(qwen3, 0)
    optimizer.named_values()  # masters are readable at any time
    next(c for n, c in optimizer._compact.items() if "q_proj" in n).values.grad.fill_(float("nan"))
    with pytest.raises(TrainingError, match=r"layers\.0\.self_attn\.q_proj\.weight is not finite"):
        optimizer.step()
    assert all(torch.equal(before[name], weight) for name, weight in qwen3.state_dict().items())


def test_what_cannot_be_trained_is_refused(qwen3: Qwen3ForCausalLM) -> None:
    full = everything(qwen3)
    with pytest.raises(OptimizerError, match="mask is empty"):
        MaskedOptimizer(qwen3, full - full, torch.optim.AdamW, lr=1e-3)
    with pytest.raises(MaskMismatchError, match="lacks"):
        MaskedOptimizer(make_moe(), full, torch.optim.AdamW, lr=1e-3)
    with pytest.raises(OptimizerError, match="no closure"):
        MaskedOptimizer(qwen3, full, torch.optim.SGD, lr=1e-3).step(lambda: 0)  # pyright: ignore
