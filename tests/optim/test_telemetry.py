"""Telemetry says what plain formulas over the dense tensors say, and changes nothing."""

from __future__ import annotations

import copy
from typing import Any

import bitsandbytes
import pytest
import torch
from torch import Tensor, nn
from transformers import Qwen3ForCausalLM

from sparseopd import MaskedOptimizer
from sparseopd.masks import select
from sparseopd.optim.telemetry import watch_moments
from tests.conftest import make_qwen3
from tests.optim.test_masked import backward, everything


def flat(tensors: Any) -> Tensor:
    return torch.cat([tensor.detach().reshape(-1).double() for tensor in tensors])


def test_it_is_what_plain_adamw_shows() -> None:
    plain, masked = make_qwen3(), make_qwen3()
    dense = torch.optim.AdamW(plain.parameters(), lr=1e-3)
    ours = MaskedOptimizer(
        masked, everything(masked), lr=1e-3, telemetry_every=3, track_full_norm=True
    )
    seen: list[dict[str, float]] = []
    watch_moments(dense, lambda: step == 2, seen.append)
    for step in range(3):
        before = flat(plain.parameters())
        backward(plain, step)
        dense.step()
        grad = flat(weight.grad for weight in plain.parameters())
        dense.zero_grad()
        backward(masked, step)
        ours.step()
    first = flat(dense.state[weight]["exp_avg"] for weight in plain.parameters())
    root = flat(dense.state[weight]["exp_avg_sq"].sqrt() for weight in plain.parameters())
    after = flat(plain.parameters())
    cosine = float(first @ grad / first.norm() / grad.norm())
    spread = float(root.std(correction=0) / root.mean())
    assert seen == [pytest.approx({"cos_m_g": cosine, "cv_sqrt_v": spread}, rel=1e-5)]
    assert ours.telemetry == pytest.approx(
        {
            "step": 3,
            "grad_norm": float(grad.norm()),
            "full_grad_norm": float(grad.norm()),
            "cos_m_g": cosine,
            "cv_sqrt_v": spread,
            "update_to_weight": float((after - before).norm() / before.norm()),
            "moved_share": float((after != before).double().mean()),
            "moved_since_start": ours.telemetry["moved_since_start"],
            "pending": 0.0,
        },
        rel=1e-4,
    )


def test_bits_that_moved_are_counted_in_the_dtype_they_are_stored_in() -> None:
    model = make_qwen3().to(torch.bfloat16)
    mask = select(model, selector="random", density=0.3)
    optimizer = MaskedOptimizer(model, mask, lr=1e-5, telemetry_every=1)
    start = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    for step in range(3):
        before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
        backward(model, step)
        optimizer.step()
    counts = [
        sum(
            int((weight != then[name])[mask[name]].sum())
            for name, weight in model.named_parameters()
        )
        for then in (before, start)
    ]
    found = optimizer.telemetry
    assert found["moved_share"] == pytest.approx(counts[0] / mask.count())
    assert found["moved_since_start"] == pytest.approx(counts[1] / mask.count())
    assert 0 < found["moved_share"] < found["moved_since_start"] < 1
    masters = optimizer.named_values()
    stored = flat(w[mask[name]] for name, w in model.named_parameters() if name in masters)
    exact = flat(masters[name] for name, _ in model.named_parameters() if name in masters)
    assert found["pending"] == pytest.approx(
        float((exact - stored).norm() / exact.norm()), rel=1e-4
    )


def test_8_bit_moments_are_read_back() -> None:
    def cosine(kind: Any) -> dict[str, float]:
        torch.manual_seed(0)
        model = nn.Linear(200, 100)
        optimizer = MaskedOptimizer(model, everything(model), kind, lr=1e-3, telemetry_every=2)
        for step in range(2):
            generator = torch.Generator().manual_seed(step)
            model(torch.randn(8, 200, generator=generator)).square().mean().backward()
            optimizer.step()
        return {name: optimizer.telemetry[name] for name in ("cos_m_g", "cv_sqrt_v")}

    exact = cosine(torch.optim.AdamW)
    assert cosine(bitsandbytes.optim.AdamW8bit) == pytest.approx(exact, rel=0.02)


def test_an_optimizer_without_moments_has_none_to_show(qwen3: Qwen3ForCausalLM) -> None:
    optimizer = MaskedOptimizer(
        qwen3, everything(qwen3), torch.optim.SGD, lr=1e-2, telemetry_every=1
    )
    backward(qwen3, 0)
    optimizer.step()
    assert "cos_m_g" not in optimizer.telemetry
    assert optimizer.telemetry["update_to_weight"] > 0


@pytest.mark.parametrize("stochastic", [False, True])
def test_watching_changes_no_bit(stochastic: bool) -> None:
    def run(every: int) -> nn.Module:
        model = make_qwen3().to(torch.bfloat16)
        mask = select(model, selector="random", density=0.3)
        optimizer = MaskedOptimizer(
            model, mask, lr=1e-3, telemetry_every=every, stochastic_rounding=stochastic
        )
        for step in range(4):
            backward(model, step)
            optimizer.step()
        assert bool(optimizer.telemetry) == bool(every)
        return model

    for one, other in zip(run(0).parameters(), run(2).parameters(), strict=True):
        assert torch.equal(one, other)


def test_both_norms_of_the_gradient(qwen3: Qwen3ForCausalLM) -> None:
    reference = copy.deepcopy(qwen3)
    mask = select(qwen3, selector="random", density=0.2)
    optimizer = MaskedOptimizer(qwen3, mask, max_grad_norm=1e-3, track_full_norm=True)
    backward(reference, 0)
    backward(qwen3, 0)
    optimizer.step()
    grads = {name: weight.grad for name, weight in reference.named_parameters()}
    full = flat(grads.values()).norm()
    masked = flat(grad[mask[name]] for name, grad in grads.items() if grad is not None).norm()
    assert float(optimizer.grad_norm or 0) == pytest.approx(float(masked), rel=1e-5)
    assert float(optimizer.full_grad_norm or 0) == pytest.approx(float(full), rel=1e-5)
    backward(qwen3, 1)
    backward(qwen3, 2)
    optimizer.step()
    assert optimizer.full_grad_norm is not None and optimizer.full_grad_norm.isnan()
