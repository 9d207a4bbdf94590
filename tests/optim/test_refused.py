"""What cannot be trained is refused in one sentence, at once, and leaves the model as it was."""

from __future__ import annotations

import copy
import gc
import pickle
from collections.abc import Callable
from typing import Any

import bitsandbytes
import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, Qwen3ForCausalLM

from sparseopd import Mask, MaskedOptimizer
from sparseopd.errors import MaskMismatchError, OptimizerError
from sparseopd.masks import select
from sparseopd.pairs import tiny
from tests.optim.test_masked import backward, everything


class FullyShardedDataParallel(nn.Module):
    """Stands for torch's FSDP1 wrapper, which needs a process group to be made."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module


def refused(model: nn.Module, mask: Mask, sentence: str, **settings: Any) -> None:
    required = [weight.requires_grad for weight in model.parameters()]
    with pytest.raises(OptimizerError, match=sentence):
        MaskedOptimizer(model, mask, **settings)
    assert [weight.requires_grad for weight in model.parameters()] == required
    assert "zero_grad" not in model.__dict__


@pytest.mark.parametrize("bits", [4, 8])
def test_quantized_weights_are_refused_with_the_remedy(bits: int) -> None:
    folder = tiny.folder("tiny-arithmetic") / "student"
    plain = AutoModelForCausalLM.from_pretrained(folder)
    config = BitsAndBytesConfig(load_in_4bit=bits == 4, load_in_8bit=bits == 8)
    quantized = AutoModelForCausalLM.from_pretrained(folder, quantization_config=config)
    mask = select(plain, selector="random", density=0.1)
    refused(quantized, mask, "load the model without quantization")


def test_a_weight_quantized_by_hand_is_refused() -> None:
    plain = nn.Sequential(nn.Linear(64, 64))
    quantized = nn.Sequential(bitsandbytes.nn.Linear4bit(64, 64)).to("cpu")
    quantized[0].weight = bitsandbytes.nn.Params4bit(plain[0].weight.data).to("cpu")
    refused(quantized, everything(plain), r"0\.weight is a Params4bit|0\.weight is torch\.uint8")


def test_flattened_parameters_are_refused(qwen3: Qwen3ForCausalLM) -> None:
    mask = everything(qwen3)
    refused(FullyShardedDataParallel(qwen3), mask, "FSDP1 flattens parameters")


def test_deepspeed_is_refused(qwen3: Qwen3ForCausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    mask = everything(qwen3)
    with monkeypatch.context() as launched:
        launched.setenv("ACCELERATE_USE_DEEPSPEED", "true")
        refused(qwen3, mask, "DeepSpeed replaces optimizer and gradients")
    qwen3.model.norm.weight.ds_id = 3  # what ZeRO-3 marks its parameters with
    refused(qwen3, mask, "ZeRO-3")


def test_a_model_that_fsdp_will_shard_later_is_refused(
    qwen3: Qwen3ForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    refused(qwen3, everything(qwen3), "shard it first, model, _ = accelerator.prepare")


def test_frozen_weights_are_refused(qwen3: Qwen3ForCausalLM) -> None:
    qwen3.model.norm.weight.requires_grad_(False)
    refused(qwen3, everything(qwen3), r"model\.norm\.weight is frozen")
    rest = select(qwen3, selector="random", density=0.5, scope=["*.mlp.*"])
    MaskedOptimizer(qwen3, rest).close()
    assert not qwen3.model.norm.weight.requires_grad  # it was so before


def test_weights_without_values_are_refused(qwen3: Qwen3ForCausalLM) -> None:
    mask = everything(qwen3)
    refused(qwen3.to("meta"), mask, "on the meta device")


def test_masks_that_do_not_fit_are_refused(qwen3: Qwen3ForCausalLM) -> None:
    full = everything(qwen3)
    refused(qwen3, full - full, "the mask is empty")
    with pytest.raises(MaskMismatchError, match="lacks"):
        MaskedOptimizer(qwen3, Mask.from_tensors({"weight": torch.ones(2, dtype=torch.bool)}))


def test_odd_memory_and_odd_gradients_are_refused() -> None:
    model = nn.Sequential(nn.Embedding(8, 4, sparse=True))
    optimizer = MaskedOptimizer(model, everything(model))
    with pytest.raises(OptimizerError, match="build the embedding with sparse=False"):
        model(torch.tensor([1])).sum().backward()
    optimizer.close()
    turned = nn.Module()
    turned.weight = nn.Parameter(torch.randn(4, 5).T)
    refused(turned, everything(turned), r"not contiguous in memory: call \.contiguous")


def test_a_second_optimizer_waits_for_the_first_to_close(qwen3: Qwen3ForCausalLM) -> None:
    mask = everything(qwen3)
    first = MaskedOptimizer(qwen3, mask)
    with pytest.raises(OptimizerError, match="has a MaskedOptimizer already: call its close"):
        MaskedOptimizer(qwen3, mask)
    first.close()
    first.close()  # twice is once
    MaskedOptimizer(qwen3, mask).close()
    assert "zero_grad" not in qwen3.__dict__


def test_an_optimizer_that_is_forgotten_lets_go(qwen3: Qwen3ForCausalLM) -> None:
    mask = select(qwen3, selector="random", density=0.5, scope=["*.mlp.*"])
    optimizer: Any = MaskedOptimizer(qwen3, mask)
    del optimizer
    gc.collect()
    backward(qwen3, 0)
    assert all(weight.grad is not None for weight in qwen3.parameters())
    MaskedOptimizer(qwen3, mask)


@pytest.mark.parametrize("drop", [lambda model, _: model.zero_grad(), lambda _, o: o.zero_grad()])
def test_gradients_are_dropped_by_the_model_or_the_optimizer(
    drop: Callable[[Any, Any], None], qwen3: Qwen3ForCausalLM
) -> None:
    clean = copy.deepcopy(qwen3)
    models = [(qwen3, True), (clean, False)]
    for model, spoiled in models:
        optimizer = MaskedOptimizer(model, everything(model), lr=1e-2)
        if spoiled:
            backward(model, 5)
            drop(model, optimizer)
        backward(model, 0)
        optimizer.step()
    for one, other in zip(qwen3.parameters(), clean.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_copied_model_has_its_own_gradients(qwen3: Qwen3ForCausalLM) -> None:
    optimizer = MaskedOptimizer(qwen3, everything(qwen3))
    twin = copy.deepcopy(qwen3)
    backward(qwen3, 0)
    backward(twin, 0)
    twin.zero_grad()
    assert all(weight.grad is None for weight in twin.parameters())
    assert all(values.grad is not None for values in optimizer.parameters())


@pytest.mark.parametrize("wrap", [torch.compile, nn.DataParallel])
def test_a_wrapper_that_was_handed_over_drops_gradients_too(
    wrap: Callable[..., nn.Module], qwen3: Qwen3ForCausalLM
) -> None:
    wrapped = wrap(qwen3)
    optimizer = MaskedOptimizer(wrapped, everything(qwen3))
    backward(qwen3, 0)
    wrapped.zero_grad()
    assert all(values.grad is None for values in optimizer.parameters())
    optimizer.close()
    assert "zero_grad" not in wrapped.__dict__


def test_a_pickled_model_has_plain_methods(qwen3: Qwen3ForCausalLM) -> None:
    optimizer = MaskedOptimizer(qwen3, everything(qwen3))
    copied = pickle.loads(pickle.dumps(qwen3))
    backward(qwen3, 0)
    copied.zero_grad()
    copied.load_state_dict(qwen3.state_dict())
    assert all(values.grad is not None for values in optimizer.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_loaded_weights_are_trained_from(dtype: torch.dtype, qwen3: Qwen3ForCausalLM) -> None:
    """Those that the masters were rounded to keep their masters; others become the new ones."""
    model = qwen3.to(dtype)
    mask = select(model, selector="random", density=0.5)
    optimizer = MaskedOptimizer(model, mask, lr=1e-3)
    backward(model, 0)
    optimizer.step()
    trained, masters = copy.deepcopy(model.state_dict()), optimizer.named_values()
    masters = {name: values.clone() for name, values in masters.items()}
    model.load_state_dict(trained)
    for name, values in optimizer.named_values().items():
        assert torch.equal(values, masters[name])
    other = {name: weight + 1 for name, weight in trained.items()}
    model.load_state_dict(other)
    for name, values in optimizer.named_values().items():
        assert torch.equal(values, other[name][mask[name]].float())
    with pytest.raises(OptimizerError, match=r"load_state_dict\(assign=True\) has put another"):
        model.load_state_dict(other, assign=True)


@pytest.mark.parametrize("stochastic", [False, True])
def test_rewinding_weights_that_moved_a_single_step_rewinds_masters(
    stochastic: bool, qwen3: Qwen3ForCausalLM
) -> None:
    model = qwen3.bfloat16()
    mask, base = select(model, selector="random", density=0.5), copy.deepcopy(model.state_dict())
    optimizer = MaskedOptimizer(
        model, mask, torch.optim.SGD, lr=0.0, stochastic_rounding=stochastic
    )
    with torch.no_grad():
        for values in optimizer.parameters():
            values.mul_(1 + 0.9 * 2**-8)  # nearly one step of bf16
    backward(model, 0)
    optimizer.step()
    assert any((model.state_dict()[name] != base[name]).any() for name in base)
    model.load_state_dict(base)
    backward(model, 1)
    optimizer.step()
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, base[name]), name


@pytest.mark.parametrize("stochastic", [False, True])
@pytest.mark.parametrize("weights_first", [False, True])
def test_masters_are_kept_whichever_is_loaded_first(
    weights_first: bool, stochastic: bool, qwen3: Qwen3ForCausalLM
) -> None:
    model = qwen3.bfloat16()
    base, mask = copy.deepcopy(model), select(model, selector="random", density=0.5)
    settings: dict[str, Any] = {"lr": 1e-4, "stochastic_rounding": stochastic}
    optimizer = MaskedOptimizer(model, mask, **settings)
    for seed in range(3):
        backward(model, seed)
        optimizer.step()
    resumed = MaskedOptimizer(base, mask, **settings)
    loads = [
        lambda: base.load_state_dict(model.state_dict()),
        lambda: resumed.load_state_dict(optimizer.state_dict()),
    ]
    for load in loads if weights_first else reversed(loads):
        load()
    for name, values in resumed.named_values().items():
        assert torch.equal(values, optimizer.named_values()[name])
    assert any((values != values.bfloat16()).any() for values in optimizer.parameters())


def test_gradients_asked_for_with_a_graph_leave_none_behind(qwen3: Qwen3ForCausalLM) -> None:
    optimizer = MaskedOptimizer(qwen3, everything(qwen3))
    tokens = torch.ones(1, 4).long()
    qwen3(input_ids=tokens, labels=tokens).loss.backward(create_graph=True)
    assert all(v.grad is not None and not v.grad.requires_grad for v in optimizer.parameters())


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"max_grad_norm": 0.0}, "max_grad_norm is 0.0"),
        ({"max_grad_norm": -1.0}, "max_grad_norm is -1.0"),
        ({"telemetry_every": -1}, "telemetry_every is -1"),
    ],
)
def test_settings_that_turn_training_round_are_refused(
    settings: dict[str, Any], sentence: str, qwen3: Qwen3ForCausalLM
) -> None:
    refused(qwen3, everything(qwen3), sentence, **settings)


def test_closed_and_copied_optimizers_are_refused(qwen3: Qwen3ForCausalLM) -> None:
    optimizer = MaskedOptimizer(qwen3, everything(qwen3))
    with pytest.raises(OptimizerError, match="cannot be copied or pickled"):
        copy.deepcopy(optimizer)
    with pytest.raises(OptimizerError, match="has a MaskedOptimizer already"):
        MaskedOptimizer(qwen3.model, everything(qwen3.model))
    optimizer.close()
    with pytest.raises(OptimizerError, match="is closed"):
        optimizer.step()


def test_a_state_of_something_else_is_refused(qwen3: Qwen3ForCausalLM) -> None:
    optimizer = MaskedOptimizer(qwen3, everything(qwen3))
    with pytest.raises(OptimizerError, match="not the state of a MaskedOptimizer"):
        optimizer.load_state_dict(torch.optim.AdamW(qwen3.parameters()).state_dict())
    with pytest.raises(OptimizerError, match="not the state of a MaskedOptimizer"):
        optimizer.load_state_dict([])  # pyright: ignore[reportArgumentType]
    saved = optimizer.state_dict()
    other = copy.deepcopy(qwen3)
    momentum = MaskedOptimizer(other, everything(other), torch.optim.SGD, momentum=0.9)
    with pytest.raises(OptimizerError, match="state of AdamW, and SGD cannot go on"):
        momentum.load_state_dict(saved)
    saved["parameters"] = {"other.weight": saved["parameters"].popitem()[1]}
    with pytest.raises(OptimizerError, match="differ in"):
        optimizer.load_state_dict(saved)
