"""Sampled gradients are the dense ones at the mask, up to rounding, and nothing else changes."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import Qwen3ForCausalLM

from sparseopd import Mask, MaskedOptimizer
from sparseopd.errors import OptimizerError
from sparseopd.masks import select
from sparseopd.optim.sampled import DENSEST, sampled_product
from tests.conftest import make_qwen3
from tests.optim.test_kinds import moved_off

pytestmark = pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")


def backward(model: nn.Module, seed: int, length: int = 150) -> None:
    """Six hundred tokens: three parts of what is multiplied at a time, one of them short."""
    tokens = torch.randint(0, 40, (4, length), generator=torch.Generator().manual_seed(seed))
    model(input_ids=tokens, labels=tokens).loss.backward()


def gradients(optimizer: MaskedOptimizer) -> list[Tensor]:
    return [values.grad for values in optimizer.parameters() if values.grad is not None]


def assert_close(ours: list[Tensor], dense: list[Tensor], tolerance: float = 2e-6) -> None:
    """Relative to the largest of the tensor, which roundings of a sum over tokens are relative to."""
    assert len(ours) == len(dense)
    for one, other in zip(ours, dense, strict=True):
        assert float((one - other).abs().max()) <= tolerance * float(other.abs().max())


@given(st.integers(1, 600), st.integers(1, 9), st.integers(1, 9), st.integers(0, 1000))
@settings(max_examples=50, deadline=None)
def test_the_product_is_the_dense_one_at_the_pattern(t: int, m: int, n: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    grad, inputs = torch.randn(t, m, generator=generator), torch.randn(t, n, generator=generator)
    chosen = torch.rand(m, n, generator=generator) < 0.3
    pattern = (torch.zeros(m, n) + chosen).to_sparse_csr()
    expected = (grad.double().T @ inputs.double())[chosen]
    found = sampled_product(pattern, grad, inputs)
    assert torch.allclose(found.double(), expected, rtol=1e-5, atol=1e-4)


def pair(density: float = 0.1, dtype: torch.dtype = torch.float32) -> tuple[Any, ...]:
    """The same model twice, the first under sampled gradients; and their optimizers."""
    model = make_qwen3().to(dtype)
    plain = copy.deepcopy(model)
    mask = select(model, selector="random", density=density)
    sampled = MaskedOptimizer(model, mask, lr=1e-3, weight_decay=0.1, sampled_gradients=True)
    return model, plain, sampled, MaskedOptimizer(plain, mask, lr=1e-3, weight_decay=0.1), mask


@pytest.mark.parametrize("density", [0.01, 0.12])
def test_gradients_are_accumulated_as_dense_ones_are(density: float) -> None:
    model, plain, sampled, dense, _ = pair(density)
    for seed in (0, 1):
        backward(model, seed)
        backward(plain, seed)
    linear = [m.weight for m in model.modules() if type(m) is nn.Linear]
    assert all(weight.grad is None for weight in linear)
    assert_close(gradients(sampled), gradients(dense))


def test_bf16_gradients_are_summed_in_fp32() -> None:
    model, plain, sampled, dense, _ = pair(dtype=torch.bfloat16)
    backward(model, 0)
    backward(plain, 0)
    assert_close(
        gradients(sampled), gradients(dense), 2**-7
    )  # the dense product is rounded to bf16


def test_training_stays_on_the_mask_and_beside_the_dense_run() -> None:
    model, plain, sampled, dense, mask = pair()
    before = copy.deepcopy(plain)
    for seed in range(10):
        for net, optimizer in ((model, sampled), (plain, dense)):
            backward(net, seed, 20)
            optimizer.step()
    assert moved_off(model, before, mask)[0] == 0
    for one, other in zip(model.parameters(), plain.parameters(), strict=True):
        assert (
            float((one - other).detach().abs().max()) < 1e-4
        )  # a hundredth of what the steps can move


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_samples_the_same(reentrant: bool) -> None:
    model, plain, sampled, dense, _ = pair()
    settings = {"use_reentrant": reentrant}
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=settings)
    model.train()
    model.enable_input_require_grads()
    backward(model, 0)
    backward(plain, 0)
    assert_close(gradients(sampled), gradients(dense))


def test_autocast_multiplies_in_its_dtype() -> None:
    model, plain, sampled, dense, _ = pair()
    with torch.autocast("cpu", torch.bfloat16):
        backward(model, 0)
        backward(plain, 0)
    assert_close(gradients(sampled), gradients(dense), 2**-6)


def test_biases_and_layers_that_are_too_dense_are_trained_as_ever() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 8))
    plain = copy.deepcopy(model)
    chosen = {name: torch.rand(w.shape) < 0.1 for name, w in model.named_parameters()}
    chosen["2.weight"] = torch.rand(8, 16) < 2 * DENSEST
    chosen["0.bias"][:4] = True
    mask = Mask.from_tensors(chosen)
    optimizers = [
        MaskedOptimizer(model, mask, sampled_gradients=True),
        MaskedOptimizer(plain, mask),
    ]
    assert "forward" in model[0].__dict__ and "forward" not in model[2].__dict__
    for net in (model, plain):
        net(torch.ones(3, 2, 12)).square().sum().backward()
    assert_close(*(gradients(optimizer) for optimizer in optimizers))
    single = torch.ones(12, requires_grad=True)  # one vector, and a gradient for the inputs
    model[0](single).sum().backward()
    assert torch.allclose(single.grad, plain[0].weight.sum(0))


def test_only_the_gradients_asked_for_are_computed(qwen3: Qwen3ForCausalLM) -> None:
    mask = select(qwen3, selector="random", density=0.1)
    optimizer = MaskedOptimizer(qwen3, mask, sampled_gradients=True)
    tokens = torch.ones(1, 4).long()
    embedded = qwen3.get_input_embeddings()(tokens).detach().requires_grad_()

    def loss() -> Tensor:
        return qwen3(inputs_embeds=embedded, labels=tokens).loss

    assert torch.autograd.grad(loss(), [embedded])[0].abs().sum() > 0
    assert gradients(optimizer) == []
    norm = qwen3.model.norm.weight
    loss().backward(inputs=[norm])
    assert len(gradients(optimizer)) == 1
    optimizer.zero_grad()
    lent = {
        name: weight.detach().clone().requires_grad_() for name, weight in qwen3.named_parameters()
    }
    torch.func.functional_call(qwen3, lent, (tokens,)).logits.sum().backward()
    assert all(weight.grad is not None for weight in lent.values())
    assert gradients(optimizer) == []


def test_a_forward_that_another_put_over_it_stays(qwen3: Qwen3ForCausalLM) -> None:
    optimizer = MaskedOptimizer(
        qwen3, select(qwen3, selector="random", density=0.1), sampled_gradients=True
    )
    layer = qwen3.model.layers[0].mlp.up_proj
    layer.forward = other = lambda inputs: inputs
    optimizer.close()
    assert layer.forward is other


def test_it_lets_go_and_leaves_copies_alone(qwen3: Qwen3ForCausalLM) -> None:
    mask = select(qwen3, selector="random", density=0.1)
    optimizer = MaskedOptimizer(qwen3, mask, sampled_gradients=True)
    twin = copy.deepcopy(qwen3)
    backward(twin, 0)
    assert all(w.grad is not None for w in twin.parameters() if w.requires_grad)
    assert gradients(optimizer) == []
    with torch.no_grad():
        assert torch.equal(
            qwen3(torch.ones(1, 4).long()).logits, twin(torch.ones(1, 4).long()).logits
        )
    optimizer.close()
    assert not any("forward" in module.__dict__ for module in qwen3.modules())


@pytest.mark.parametrize(
    ("density", "more", "sentence"),
    [
        (0.5, {}, "at most 12.5 %, and there is none"),
        (0.1, {"track_full_norm": True}, "leaves no full gradient"),
    ],
)
def test_where_it_would_do_nothing_it_is_refused(
    density: float, more: dict[str, Any], sentence: str, qwen3: Qwen3ForCausalLM
) -> None:
    mask = select(qwen3, selector="random", density=density)
    with pytest.raises(OptimizerError, match=sentence):
        MaskedOptimizer(qwen3, mask, sampled_gradients=True, **more)
    MaskedOptimizer(qwen3, mask).close()  # nothing was left attached
