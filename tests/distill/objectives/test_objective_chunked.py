"""The pass in tiles: values, gradients, dtypes, sharded heads, and the parts of TRL that are private."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from trl.kernels.chunked_divergence import ChunkedDivergenceFunction
from trl.trainer.utils import maybe_gather_lm_head_ctx

from sparseopd.distill.objectives import objective_of, tiles
from sparseopd.distill.objectives.chunked import score
from sparseopd.distill.objectives.tiles import Shape
from tests.distill.objectives.brute_force import (
    HEADS,
    N,
    V,
    fresh,
    leaves,
    log_probs,
    model,
    sampled,
    settings,
)

TILES = [(2, 3), (3, 7), (100, 100)]
REPEATED = torch.tensor([[0, 6, 0], [3, 3, 3], [1, 2, 5], [6, 4, 6], [2, 2, 0]])
"""Ids of which some stand twice or three times in a row."""


@pytest.fixture(params=TILES, ids=str)
def tile(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "CPU_TILE", request.param)


@pytest.mark.usefixtures("tile")
@pytest.mark.parametrize("head", HEADS)
def test_one_pass_scores_the_ids_and_the_most_likely_tokens(head: str) -> None:
    found, expected = model(1, head), log_probs(model(1, head)).detach()
    scored = found.scored(REPEATED, 4)
    top = expected.topk(4)

    assert scored.ids.tolist() == torch.cat([REPEATED, top.indices], dim=1).tolist()
    torch.testing.assert_close(scored.log_probs.detach(), expected.gather(1, scored.ids))
    torch.testing.assert_close(scored.entropy, -(expected.exp() * expected).sum(1))


@pytest.mark.usefixtures("tile")
@pytest.mark.parametrize("head", HEADS)
def test_gradients_pass_the_check_against_finite_differences(head: str) -> None:
    found = model(1, head)
    shape = Shape(found.head.scale, found.head.softcap, found.head.temperature)
    weights = torch.randn((N, 5), generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def loss(hidden: Tensor, weight: Tensor, *bias: Tensor) -> Tensor:
        scored = score(hidden, weight, bias[0] if bias else None, REPEATED, 2, shape)
        return (scored.log_probs * weights).sum(1)

    assert torch.autograd.gradcheck(loss, leaves(found))


@pytest.mark.parametrize("frozen", ["hidden", "weight", "bias"])
def test_what_needs_no_gradient_gets_none(frozen: str) -> None:
    found = model(1, "biased")
    parts = dict(zip(("hidden", "weight", "bias"), leaves(found), strict=True))
    parts[frozen].requires_grad_(False)
    found.log_probs_at(REPEATED).sum().backward()
    assert {name for name, part in parts.items() if part.grad is None} == {frozen}


def test_top_and_figures_have_no_gradient_and_a_k_beyond_the_vocabulary_is_all_of_it() -> None:
    found = model(1)
    ids, values = found.top(V + 5)
    assert ids.shape == values.shape == (N, V)
    assert not values.requires_grad
    torch.testing.assert_close(values.exp().sum(1), torch.ones(N, dtype=torch.float64))
    log_probs, entropy = found.scored_at(REPEATED)
    assert log_probs.requires_grad and not entropy.requires_grad


@pytest.mark.usefixtures("tile")
def test_logits_far_from_zero_do_not_overflow() -> None:
    found = model(1, dtype=torch.float32)
    found = replace(found, head=replace(found.head, scale=1000.0))
    scored = found.scored(REPEATED, 2)
    expected = log_probs(found).gather(1, scored.ids)
    torch.testing.assert_close(scored.log_probs, expected, check_dtype=False, atol=1e-2, rtol=1e-5)
    scored.log_probs.sum().backward()
    assert all(torch.isfinite(leaf.grad).all() for leaf in leaves(found) if leaf.grad is not None)


def test_bf16_products_keep_float32_logits_and_gradients_of_their_own_dtype() -> None:
    found = model(1, "shaped", dtype=torch.bfloat16)
    exact = fresh(found, torch.float64)
    scored = found.scored(REPEATED, 2)
    assert scored.log_probs.dtype == scored.entropy.dtype == torch.float32
    torch.testing.assert_close(
        scored.log_probs,
        exact.scored(REPEATED, 2).log_probs,
        check_dtype=False,
        atol=1e-5,
        rtol=1e-5,
    )
    scored.log_probs.sum().backward()
    exact.scored(REPEATED, 2).log_probs.sum().backward()
    for actual, wanted in zip(leaves(found), leaves(exact), strict=True):
        assert actual.grad is not None and wanted.grad is not None
        assert actual.grad.dtype == torch.bfloat16
        torch.testing.assert_close(actual.grad, wanted.grad.bfloat16(), atol=1e-6, rtol=1e-2)


def test_autocast_rounds_what_it_multiplies_and_nothing_else() -> None:
    found = model(1, "biased", dtype=torch.float32)
    rounded = fresh(fresh(found, torch.bfloat16), torch.float32)
    rounded = replace(rounded, head=replace(rounded.head, bias=found.head.bias))
    with torch.autocast("cpu", torch.bfloat16):
        scored = found.scored(REPEATED, 2)
        scored.log_probs.sum().backward()
    expected = rounded.scored(REPEATED, 2)
    torch.testing.assert_close(scored.log_probs, expected.log_probs, atol=0, rtol=0)
    torch.testing.assert_close(scored.entropy, expected.entropy, atol=0, rtol=0)
    expected.log_probs.sum().backward()
    assert found.hidden.grad is not None and rounded.hidden.grad is not None
    torch.testing.assert_close(found.hidden.grad, rounded.hidden.grad, atol=0, rtol=0)


@pytest.fixture
def mesh() -> Iterator[object]:
    """A mesh of this process alone."""
    dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
    try:
        yield init_device_mesh("cpu", (1,))
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("kind", ["reverse-kl", "jsd", "teacher-top-k", "sampled-token"])
def test_a_sharded_head_gives_the_values_and_gradients_of_a_plain_one(kind: str, mesh) -> None:
    student, teacher, tokens = (model(1, "biased"), model(2, "biased"), sampled())
    weight, bias = (
        distribute_tensor(one.detach(), mesh, [place]).requires_grad_()
        for one, place in ((student.head.weight, Shard(0)), (student.head.bias, Replicate()))
    )
    sharded = replace(student, head=replace(student.head, weight=weight, bias=bias))
    losses = [objective_of(settings(kind))(one, teacher, tokens).loss for one in (sharded, student)]

    torch.testing.assert_close(*losses, atol=0, rtol=0)
    for loss in losses:
        loss.sum().backward()
    assert isinstance(weight.grad, DTensor) and isinstance(bias.grad, DTensor)
    torch.testing.assert_close(weight.grad.full_tensor(), student.head.weight.grad)
    torch.testing.assert_close(bias.grad.full_tensor(), student.head.bias.grad)


def test_the_private_parts_of_trl_are_as_they_were_read() -> None:
    assert list(inspect.signature(ChunkedDivergenceFunction.forward).parameters) == [
        "ctx",
        "student_hidden",
        "student_weight",
        "student_bias",
        "teacher_hidden",
        "teacher_weight",
        "teacher_bias",
        "beta",
        "temperature",
        "student_logit_scale",
        "student_final_logit_softcapping",
        "teacher_logit_scale",
        "teacher_final_logit_softcapping",
    ]
    weight = torch.nn.Parameter(torch.zeros(2, 2))
    assert isinstance(maybe_gather_lm_head_ctx(weight, None), nullcontext)
