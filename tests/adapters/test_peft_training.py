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


def gradients(model: nn.Module) -> dict[str, Tensor]:
    """Copies of the gradients of the k-vectors, which are dropped."""
    found = {name: held.grad.clone() for name, held in values_of(model).items()}  # pyright: ignore
    model.zero_grad()
    return found


def with_values(dtype: torch.dtype = torch.float32) -> PeftModel:
    """A model whose adapter differs from the base."""
    model = adapt(base := make_qwen3().to(dtype), mask_of(base, 0.5))
    with torch.no_grad():
        for number, held in enumerate(values_of(model).values()):
            held.add_(torch.randn(held.shape, generator=torch.Generator().manual_seed(number)))
    return model


def assert_right_or_refused(model: PeftModel, loss: Tensor, expected: dict[str, Tensor]) -> None:
    """Backward gives the right gradient, or torch says that the weight has been changed."""
    try:
        loss.backward()
    except RuntimeError as error:
        assert "modified by an inplace operation" in str(error)
    else:
        assert differing(gradients(model), expected) == []


def test_a_forward_of_the_base_between_forward_and_backward_does_no_harm() -> None:
    """As in DPO: the reference is the model with its adapters disabled."""
    model = with_values()
    loss_of(model).backward()
    expected = gradients(model)
    loss = loss_of(model)
    with torch.no_grad(), model.disable_adapter():
        base = logits_of(model)
    assert not torch.equal(base, logits_of(model))
    loss.backward()
    assert differing(gradients(model), expected) == []


def test_another_adapter_between_forward_and_backward_does_no_harm() -> None:
    """As in TRL's reference adapters."""
    model = with_values()
    mask = mask_of(make_qwen3(), seed=3)
    model.add_adapter("ref", type(model.peft_config["default"])(mask=mask))
    loss_of(model).backward()
    expected = gradients(model)
    loss = loss_of(model)
    model.set_adapter("ref")
    with torch.no_grad():
        logits_of(model)
    model.set_adapter("default")
    loss.backward()
    assert differing(gradients(model), expected) == []


BETWEEN: dict[str, Callable[[PeftModel], Any]] = {
    "disable": lambda model: model.base_model.disable_adapter_layers(),
    "unmerge": lambda model: (model.merge_adapter(), model.unmerge_adapter()),
    "set": lambda model: model.base_model.set_adapter([]),
    "delete": lambda model: model.base_model.delete_adapter("default"),
    "unload": lambda model: model.unload(),
    "step": lambda model: change(model),
}
"""What leaves other bits on the weights than the forward pass has seen."""


def change(model: PeftModel) -> None:
    """A step of an optimizer."""
    held = [*values_of(model).values()]
    for values in held:
        values.grad = torch.ones_like(values)
    torch.optim.SGD(held, lr=1.0).step()
    model.zero_grad()


@pytest.mark.parametrize("name", BETWEEN)
def test_backward_through_weights_that_have_changed_since_is_refused(name: str) -> None:
    model = with_values()
    loss = loss_of(model)
    BETWEEN[name](model)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_backward_while_adapters_are_disabled_is_right_or_refused() -> None:
    model = with_values()
    loss_of(model).backward()
    expected = gradients(model)
    loss = loss_of(model)
    with model.disable_adapter():
        assert_right_or_refused(model, loss, expected)


def test_merging_and_unmerging_between_forward_and_backward_is_right_or_refused() -> None:
    """As when weights are sent to a rollout engine."""
    model = with_values()
    loss_of(model).backward()
    expected = gradients(model)
    loss = loss_of(model)
    model.merge_adapter()
    model.unmerge_adapter()
    with torch.no_grad():
        logits_of(model)
    assert_right_or_refused(model, loss, expected)


def test_someone_elses_write_while_disabled_is_not_forgotten() -> None:
    """The adapter's bits are back, but others have changed under it."""
    model = with_values()
    loss = loss_of(model)
    with torch.no_grad(), model.disable_adapter():
        for weight in plain_of(model).parameters():
            if not weight.requires_grad:
                weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("then", ["set_adapter", "set_requires_grad", "merge_adapter", "forward"])
def test_values_changed_by_hand_reach_the_weight(then: str) -> None:
    base = make_qwen3()
    placed = place(base, mask := mask_of(base))
    model = adapt(base, mask)
    with torch.no_grad():
        for held in values_of(model).values():
            held.add_(1.0)
    if then in ("set_adapter", "set_requires_grad"):
        getattr(model, then)("default")
    elif then == "merge_adapter":
        model.merge_adapter()
    logits_of(model)
    weights = weights_of(model)
    for name, held in named(values_of(model)).items():
        assert torch.equal(placed[name].places.take(weights[name]), held), name


def test_gradients_add_up_over_passes_and_are_dropped_by_the_model(qwen3: Qwen3ForCausalLM) -> None:
    model = adapt(qwen3, mask_of(qwen3))
    for seed in (0, 1):
        loss_of(model, seed).backward()
    total = gradients(model)
    assert all(held.grad is None for held in values_of(model).values())
    parts = []
    for seed in (0, 1):
        loss_of(model, seed).backward()
        parts.append(gradients(model))
    for name, grad in total.items():
        torch.testing.assert_close(grad, parts[0][name] + parts[1][name])


def test_a_graph_that_is_retained_serves_twice(qwen3: Qwen3ForCausalLM) -> None:
    model = adapt(qwen3, mask_of(qwen3))
    loss = loss_of(model)
    loss.backward(retain_graph=True)
    once = gradients(model)
    loss.backward()
    assert differing(gradients(model), once) == []


def test_a_loss_may_read_the_weight_itself(qwen3: Qwen3ForCausalLM) -> None:
    """As fused losses do with the head's."""
    mask = mask_of(qwen3)
    model = adapt(qwen3, mask)
    weight = qwen3.lm_head.weight
    assert weight.requires_grad and weight.data_ptr() == qwen3.lm_head._parameters["weight"].data_ptr()  # pyright: ignore
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
