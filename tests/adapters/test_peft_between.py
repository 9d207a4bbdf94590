"""What happens to the weights between forward and backward is harmless, or refused by torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import Qwen3ForCausalLM

from sparseopd.overlays.placed import place
from tests.adapters.adapted import (
    adapt,
    differing,
    logits_of,
    loss_of,
    mask_of,
    plain_of,
    values_of,
    weights_of,
)
from tests.adapters.test_peft_training import named
from tests.conftest import make_qwen3


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
