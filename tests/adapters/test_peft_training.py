"""Training the k-vector by hand: the gradient, what is kept for it, and MaskedOptimizer's very bits."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import bitsandbytes
import pytest
import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import Qwen3ForCausalLM

from sparseopd import Mask, MaskedOptimizer
from sparseopd.errors import AdapterError
from sparseopd.overlays.placed import place
from tests.adapters.adapted import (
    MODELS,
    Net,
    adapt,
    differing,
    inputs,
    logits_of,
    loss_of,
    mask_of,
    plain_of,
    values_of,
    weights_of,
)
from tests.conftest import make_moe, make_qwen3

LR = 1e-2


def trained(model: nn.Module) -> list[nn.Parameter]:
    """What an optimizer is given."""
    return [weight for weight in model.parameters() if weight.requires_grad]


def named(values: dict[str, Tensor]) -> dict[str, Tensor]:
    """k-vectors by the names of their weights, detached."""
    return {
        name.replace("sparseopd_", "").partition(".adapters.")[0]: held.detach()
        for name, held in values.items()
    }


@pytest.mark.parametrize("name", MODELS)
def test_the_gradient_is_the_dense_one_at_the_mask(name: str) -> None:
    """Of both uses of a tied weight, of experts, kernels, norms and parameters beside children."""
    plain = MODELS[name]().float()
    mask = mask_of(plain)
    model = adapt(copy.deepcopy(plain), mask)
    for seed in (0, 1):
        loss_of(plain, seed).backward()
        loss_of(model, seed).backward()
    found, dense = named_parameters(model), dict(plain.named_parameters())
    placed = place(plain, mask)
    assert found.keys() == placed.keys()
    for key, one in placed.items():
        expected, grad = dense[key].grad, found[key].grad
        if expected is None:
            assert grad is None
        else:
            assert grad is not None and torch.equal(grad, one.places.take(expected)), key
    assert all(weight.grad is None for weight in plain_of(model).parameters() if weight.dim() > 1)


def named_parameters(model: nn.Module) -> dict[str, Tensor]:
    """k-vectors by the names of their weights."""
    held = values_of(model)
    return dict(zip(named(held), held.values(), strict=True))


KINDS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "adamw": (torch.optim.AdamW, {"weight_decay": 0.1}),
    "fused": (torch.optim.AdamW, {"weight_decay": 0.1, "fused": True}),
    "foreach": (torch.optim.AdamW, {"weight_decay": 0.1, "foreach": True}),
    "momentum": (torch.optim.SGD, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    "8-bit": (bitsandbytes.optim.AdamW8bit, {"min_8bit_size": 1}),
}


def run(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    steps: int = 3,
    clip: float | None = None,
    around: Callable[[], Any] = nullcontext,
) -> None:
    """Steps of two backward passes each."""
    for step in range(steps):
        for part in (0, 1):
            with around():
                loss = loss_of(model, 2 * step + part) / 2
            loss.backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(trained(model), clip)
        optimizer.step()
        optimizer.zero_grad()


def both(
    base: nn.Module,
    mask: Mask,
    kind: Callable[..., Any] = torch.optim.AdamW,
    clip: float | None = None,
    around: Callable[[], Any] = nullcontext,
    **settings: Any,
) -> tuple[nn.Module, MaskedOptimizer, PeftModel]:
    """The same training through MaskedOptimizer and through PEFT."""
    model = adapt(copy.deepcopy(base), mask)
    masked = MaskedOptimizer(base, mask, kind, lr=LR, max_grad_norm=clip, **settings)
    run(base, masked, around=around)
    run(model, kind(trained(model), lr=LR, **settings), clip=clip, around=around)
    return base, masked, model


def assert_same(base: nn.Module, masked: MaskedOptimizer, model: PeftModel) -> None:
    """Weights and float32 values agree to the bit, and something was trained."""
    assert differing(weights_of(base), weights_of(model)) == []
    assert differing(masked.named_values(), named(values_of(model))) == []
    start = {name: held.clone() for name, held in weights_of(model.unload()).items()}
    assert differing(start, weights_of(base)) != []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_optimizer_trains_what_it_trains_in_a_masked_one(
    kind: str, dtype: torch.dtype
) -> None:
    """Among them some that change values without telling torch."""
    base = make_qwen3().to(dtype)
    make, settings = KINDS[kind]
    assert_same(*both(base, mask_of(base), make, **settings))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", MODELS)
def test_every_kind_of_model_trains_like_a_masked_optimizer(name: str, dtype: torch.dtype) -> None:
    base = MODELS[name]().to(dtype)
    assert_same(*both(base, mask_of(base), weight_decay=0.1))


def test_a_whole_mask_trains_like_a_masked_optimizer() -> None:
    base = make_moe()
    assert_same(*both(base, mask_of(base, 1.0), weight_decay=0.1))


def test_clipping_the_norm_of_the_k_vector_is_clipping_inside_the_masked_optimizer() -> None:
    base = make_qwen3()
    assert_same(*both(base, mask_of(base), clip=0.1))


def test_autocast_trains_like_a_masked_optimizer() -> None:
    base = make_qwen3()
    assert_same(*both(base, mask_of(base), around=lambda: torch.autocast("cpu", torch.bfloat16)))


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_trains_like_a_masked_optimizer(reentrant: bool) -> None:
    base = make_qwen3()
    base.gradient_checkpointing_enable({"use_reentrant": reentrant})
    base.enable_input_require_grads()
    assert_same(*both(base.train(), mask_of(base)))


def test_a_loss_scaler_trains_like_a_masked_optimizer_in_fp16() -> None:
    base = make_qwen3().half()
    mask = mask_of(base)
    model = adapt(copy.deepcopy(base), mask)
    masked = MaskedOptimizer(base, mask, torch.optim.SGD, lr=LR)
    for one, optimizer in ((base, masked), (model, torch.optim.SGD(trained(model), lr=LR))):
        scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
        for step in range(2):
            scaler.scale(loss_of(one, step)).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
    assert_same(base, masked, model)


def kept(model: nn.Module, around: Callable[[], Any] = nullcontext) -> tuple[int, int]:
    """How many tensors autograd keeps for backward, and the bytes of their storages."""
    count, storages = 0, {}

    def pack(tensor: Tensor) -> Tensor:
        nonlocal count
        count += 1
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage  # held, so that no other gets its address
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), around():
        loss = loss_of(model)
    loss.backward()
    return count, sum(storage.nbytes() for storage in storages.values())


@pytest.mark.parametrize("name", MODELS)
def test_backward_keeps_what_the_bare_model_keeps(name: str) -> None:
    plain = MODELS[name]()
    mask = mask_of(plain)
    model = adapt(copy.deepcopy(plain), mask)
    for key, weight in plain.named_parameters():
        weight.requires_grad_(key in place(plain, mask))
    assert kept(model) == kept(plain)
    assert kept(model) == kept(plain)


def test_backward_keeps_what_the_bare_model_keeps_under_autocast() -> None:
    plain = make_qwen3()
    model = adapt(copy.deepcopy(plain), mask_of(plain))
    cast = lambda: torch.autocast("cpu", torch.bfloat16)  # noqa: E731
    assert kept(model, cast) == kept(plain, cast)


def test_a_loss_may_read_the_weight_itself(qwen3: Qwen3ForCausalLM) -> None:
    """As fused losses do with the head's."""
    mask = mask_of(qwen3)
    model = adapt(qwen3, mask)
    weight = qwen3.lm_head.weight
    assert (
        weight.requires_grad and weight.data_ptr() == qwen3.lm_head._parameters["weight"].data_ptr()
    )  # pyright: ignore
    (3 * weight).sum().backward()
    found = named_parameters(model)["model.embed_tokens.weight"].grad
    assert found is not None and torch.equal(found, torch.full_like(found, 3.0))


def test_sparse_gradients_are_refused_by_name() -> None:
    base = nn.Sequential(nn.Embedding(5, 3, sparse=True))
    model = adapt(base, mask_of(base))
    with pytest.raises(AdapterError, match=r"0\.weight is sparse"):
        model(torch.tensor([1])).sum().backward()


def test_an_lstm_is_trained_although_it_keeps_a_list_of_its_weights() -> None:
    torch.manual_seed(0)
    base = nn.LSTM(3, 4)
    plain, mask = copy.deepcopy(base), mask_of(base, 0.5)
    model = adapt(base, mask)
    tokens = torch.randn(5, 1, 3)
    optimizer = torch.optim.SGD(trained(model), lr=0.1)
    masked = MaskedOptimizer(plain, mask, torch.optim.SGD, lr=0.1)
    for _ in range(3):
        for one, stepper in ((model, optimizer), (plain, masked)):
            one(tokens)[0].square().sum().backward()
            stepper.step()
            stepper.zero_grad()
    assert differing(weights_of(model), weights_of(plain)) == []


def test_an_adapter_stays_trained_whatever_is_loaded_beside_it() -> None:
    """Also where the others lie on weights that it has nothing for."""
    base = make_qwen3()
    model = adapt(base, mask_of(base, scope=["*.mlp.*"]))
    for number in range(2):
        mask = mask_of(base, scope=["*self_attn*"], seed=number)
        model.add_adapter(f"other{number}", type(model.peft_config["default"])(mask=mask))
        assert all(held.requires_grad for held in values_of(model).values())
    loss_of(model).backward()
    assert all(held.grad is not None for held in values_of(model).values())


@pytest.mark.parametrize("name", ["net", "qwen3"])
def test_a_vision_batch_that_uses_no_adapted_weight_needs_no_gradient(name: str) -> None:
    base = Net() if name == "net" else make_qwen3()
    model = adapt(base, mask_of(base))
    with torch.no_grad():
        assert not logits_of(model).requires_grad
    assert logits_of(model).requires_grad
    assert model(**inputs(base, 0)) is not None
