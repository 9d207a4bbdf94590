"""What loops wrap around model and optimizer changes no bit of a masked run.

Activation checkpointing, `torch.compile`, `GradScaler` and learning-rate schedulers.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import (
    CosineAnnealingWarmRestarts,
    LambdaLR,
    LRScheduler,
    OneCycleLR,
    ReduceLROnPlateau,
)
from torch.utils.checkpoint import checkpoint

from sparseopd import Mask, MaskedOptimizer
from tests.conftest import make_qwen3
from tests.optim.runs import (
    assert_only_the_mask_moved,
    assert_same_weights,
    loss_of,
    make_mask,
    weights_of,
)

STEPS = 4


def train(model: nn.Module, optimizer: MaskedOptimizer) -> None:
    """Steps of two backward passes each."""
    model.train()
    for step in range(STEPS):
        for part in (0, 1):
            (loss_of(model, 2 * step + part) / 2).backward()
        optimizer.step()


def trained(
    prepare: Callable[[nn.Module], nn.Module] = lambda model: model,
    *,
    after: bool = False,
    **choice: Any,
) -> dict[str, Tensor]:
    """The weights after masked training of a model that `prepare` wraps, before or `after` building."""
    model = make_qwen3()
    before, mask = weights_of(model), make_mask(model, **choice)
    wrapped = model if after else prepare(model)
    optimizer = MaskedOptimizer(wrapped, mask, lr=1e-2, max_grad_norm=0.5)
    train(prepare(model) if after else wrapped, optimizer)
    assert_only_the_mask_moved(before, model, mask)
    return weights_of(model)


@pytest.mark.parametrize("scope", [[], ["*.mlp.*"]], ids=["everywhere", "mlp"])
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpointed_activations_change_no_bit(use_reentrant: bool, scope: list[str]) -> None:
    """Also where the embedding needs no gradient, which a reentrant checkpoint has to pass through."""
    calls = []

    def counted(*given: Any) -> Any:
        calls.append(1)
        return checkpoint(*given, use_reentrant=use_reentrant)

    def prepare(model: Any) -> nn.Module:
        model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
        for layer in model.model.layers:
            layer._gradient_checkpointing_func = counted
        return model

    assert_same_weights(trained(scope=scope), trained(prepare, scope=scope))
    assert len(calls) == 2 * 2 * STEPS  # layers, backward passes


@pytest.mark.parametrize("when", ["before", "before and run", "after"])
def test_a_compiled_model_trains_the_same_coordinates(when: str) -> None:
    """Compiled, and perhaps run with every weight trained, before the optimizer is built, or after."""
    torch.compiler.reset()
    graphs = []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

    def prepare(model: nn.Module) -> nn.Module:
        compiled: Any = torch.compile(model, backend=backend)
        if when == "before and run":
            loss_of(compiled.train(), 0).backward()
            compiled.zero_grad()
        return compiled

    assert_same_weights(trained(), trained(prepare, after=when == "after"))
    assert graphs


SCALE = 2.0**10


def scaled_steps(
    seeds: list[int | None],
    *,
    dtype: torch.dtype = torch.float32,
    drop: str = "optimizer",
    parts: int = 1,
    clip: bool = False,
    wrap: Callable[[nn.Module], nn.Module] = lambda model: model,
) -> tuple[dict[str, Tensor], list[tuple[float, float]]]:
    """Steps on batches by seed under `GradScaler`; None is a batch whose gradient overflows.

    After each step `drop` forgets its gradients; `clip` clips before the step, outside of it. The
    optimizer is built from what `wrap` makes of the model, which then is wrapped anew. Returns the
    weights, and the two norms after each step that was taken.
    """
    model = make_qwen3().to(dtype)
    mask = make_mask(model, 0.2)
    optimizer = MaskedOptimizer(wrap(model), mask, lr=1e-2, track_full_norm=True)
    droppers = {"optimizer": optimizer, "model": model, "wrapper": wrap(model)}
    scaler = torch.amp.GradScaler("cpu", init_scale=SCALE)
    norms = []
    for seed in seeds:
        before = weights_of(model)
        for part in range(parts):
            loss = loss_of(model, 0 if seed is None else 10 * seed + part)
            overflows = seed is None and part == 0
            scaler.scale(loss * math.inf if overflows else loss).backward()
        if clip:
            scaler.unscale_(optimizer)
            optimizer.clip_grad_norm_(0.5)
        scaler.step(optimizer)
        scaler.update(SCALE)  # as ever, so that gradients in fp16 round as they did
        droppers[drop].zero_grad()
        if seed is None:
            assert_same_weights(before, weights_of(model))
        else:
            assert_only_the_mask_moved(before, model, mask)
            norms.append((float(optimizer.grad_norm), float(optimizer.full_grad_norm)))  # pyright: ignore
    assert optimizer.state_dict()["steps"] == len(norms)
    return weights_of(model), norms


@pytest.mark.parametrize("drop", ["optimizer", "model"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_an_overflow_is_skipped_and_forgotten(dtype: torch.dtype, drop: str) -> None:
    skipped, norms = scaled_steps([0, None, 1, 2], dtype=dtype, drop=drop)
    unseen, expected = scaled_steps([0, 1, 2], dtype=dtype, drop=drop)
    assert_same_weights(skipped, unseen)
    assert norms == expected


@pytest.mark.parametrize("drop", ["optimizer", "model"])
def test_an_overflow_in_one_of_two_passes_skips_both(drop: str) -> None:
    skipped, _ = scaled_steps([0, None, 1], drop=drop, parts=2)
    unseen, _ = scaled_steps([0, 1], drop=drop, parts=2)
    assert_same_weights(skipped, unseen)


@pytest.mark.parametrize("drop", ["optimizer", "model"])
def test_norms_after_an_overflow_that_was_clipped(drop: str) -> None:
    skipped, norms = scaled_steps([0, None, 1, 2], drop=drop, clip=True)
    unseen, expected = scaled_steps([0, 1, 2], drop=drop, clip=True)
    assert_same_weights(skipped, unseen)
    assert norms == expected


@pytest.mark.parametrize("wrap", [torch.compile, nn.DataParallel])
@pytest.mark.parametrize("drop", ["model", "wrapper"])
def test_an_overflow_is_forgotten_by_wrapped_models(
    drop: str, wrap: Callable[[nn.Module], nn.Module]
) -> None:
    """`Trainer` calls `zero_grad` on what accelerate has wrapped the model in."""
    skipped, _ = scaled_steps([0, None, 1], drop=drop, wrap=wrap)
    unseen, _ = scaled_steps([0, 1])
    assert_same_weights(skipped, unseen)


@pytest.mark.parametrize("clip", [False, True])
def test_norms_are_those_of_the_unscaled_gradients(clip: bool) -> None:
    _, [(masked, full)] = scaled_steps([0], clip=clip)
    model = make_qwen3()
    mask = make_mask(model, 0.2)
    loss_of(model, 0).backward()
    dense = {name: w.grad for name, w in model.named_parameters() if mask.count(name)}
    expected = torch.cat([grad[mask[name]] for name, grad in dense.items()])  # pyright: ignore
    assert masked == pytest.approx(float(expected.norm()), rel=1e-6)
    assert full == pytest.approx(float(nn.utils.get_total_norm(dense.values())), rel=1e-6)  # pyright: ignore


class TwoWeights(nn.Module):
    """A weight and a norm, trained as two groups."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(6, 4, generator=generator))
        self.norm = nn.Parameter(torch.randn(4, generator=generator))

    def forward(self, inputs: Tensor) -> Tensor:
        return (inputs @ self.weight * self.norm).square().mean()


SCHEDULERS: dict[str, Callable[[torch.optim.Optimizer], LRScheduler]] = {
    "lambda": lambda o: LambdaLR(o, [lambda step: 1 / (1 + step), lambda step: 0.5**step]),
    "one cycle": lambda o: OneCycleLR(o, max_lr=[0.1, 0.02], total_steps=13),
    "restarts": lambda o: CosineAnnealingWarmRestarts(o, T_0=3, T_mult=2),
    "plateau": lambda o: ReduceLROnPlateau(o, factor=0.5, patience=0, threshold=0.5),
}
CHANGING = {"lambda": {"lr"}, "one cycle": {"lr", "betas"}, "restarts": {"lr"}, "plateau": {"lr"}}


def scheduled(masked: bool, kind: str) -> tuple[list[list[dict[str, Any]]], dict[str, Tensor]]:
    """Twelve steps, the optimizer's state reloaded after five; the groups' settings at each step."""
    model = TwoWeights()
    optimizer: torch.optim.Optimizer
    norm = {"lr": 0.05, "weight_decay": 0.0}
    if masked:
        mask = Mask.from_tensors(
            {n: torch.ones_like(w).bool() for n, w in model.named_parameters()}
        )
        optimizer = MaskedOptimizer(model, mask, groups=[{"match": "norm", **norm}], lr=0.01)
        inner = optimizer.inner
    else:
        groups = [{"params": [model.norm], **norm}, {"params": [model.weight]}]
        inner = optimizer = torch.optim.AdamW(groups, lr=0.01)
    scheduler: Any = SCHEDULERS[kind](optimizer)
    seen = []
    for step in range(12):
        loss = model(torch.randn(3, 6, generator=torch.Generator().manual_seed(step)))
        loss.backward()
        seen.append([{key: group[key] for key in ("lr", "betas")} for group in inner.param_groups])
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step(*[loss.detach()] * (kind == "plateau"))
        if step == 5:
            optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    return seen, weights_of(model)


@pytest.mark.parametrize("kind", SCHEDULERS)
def test_schedulers_reach_the_inner_optimizer(kind: str) -> None:
    plain, masked = scheduled(False, kind), scheduled(True, kind)
    assert masked[0] == plain[0]
    assert_same_weights(masked[1], plain[1])
    for group in zip(*masked[0], strict=True):
        assert {key for key in ("lr", "betas") if len({at[key] for at in group}) > 1} == CHANGING[
            kind
        ]
