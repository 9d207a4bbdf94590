"""Adapted models that are copied, moved, cast, compiled, generated from or run in inference mode."""

from __future__ import annotations

import copy
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bitsandbytes
import pytest
import torch
from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from torch import nn

from sparseopd.errors import AdapterError
from tests.adapters.adapted import (
    PREFIX,
    adapt,
    checkpoint_of,
    differing,
    inputs,
    logits_of,
    loss_of,
    make_layers,
    mask_of,
    plain_of,
    values_of,
    weights_of,
)
from tests.adapters.several import Several, assert_shows
from tests.conftest import make_qwen3


@pytest.fixture
def several(tmp_path: Path) -> Several:
    return Several(tmp_path, make_qwen3(), odd=False)


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    """No test runs what another has compiled."""
    yield
    torch.compiler.reset()


def memory(model: nn.Module) -> set[int]:
    """Where the weights and k-vectors lie."""
    return {weight.untyped_storage().data_ptr() for weight in model.parameters()}


@pytest.mark.parametrize("trainable", [False, True], ids=["inference", "trained"])
def test_a_copy_is_independent_and_exact(several: Several, trainable: bool) -> None:
    model = several.loaded("one", is_trainable=trainable)
    model.load_adapter(several.folders["two"], "two")
    loss_of(model)  # what is kept between forward passes is not copied
    copied = copy.deepcopy(model)
    assert not memory(model) & memory(copied)
    copied.set_adapter("two", inference_mode=True)
    assert_shows(copied, several.expected("two"))
    assert_shows(model, several.expected("one"))
    assert_shows(copied.unload(), several.start)
    assert_shows(model, several.expected("one"))
    with model.disable_adapter():
        assert_shows(model, several.start)


def train(model: PeftModel, optimizer: torch.optim.Optimizer) -> None:
    """Three steps."""
    for step in range(3):
        loss_of(model, step).backward()
        optimizer.step()
        optimizer.zero_grad()


OPTIMIZERS: list[Any] = [
    (torch.optim.AdamW, {}),
    (bitsandbytes.optim.AdamW8bit, {"min_8bit_size": 1}),
]


@pytest.mark.parametrize(("kind", "settings"), OPTIMIZERS, ids=["adamw", "8-bit"])
def test_a_copy_trains_as_the_original_does(
    several: Several, kind: Any, settings: dict[str, Any]
) -> None:
    model = several.loaded("one", is_trainable=True)
    copied = copy.deepcopy(model)
    for one in (copied, model):
        train(one, kind([p for p in one.parameters() if p.requires_grad], lr=1e-2, **settings))
        if one is copied:
            assert_shows(model, several.expected("one"))
    assert differing(checkpoint_of(copied), checkpoint_of(model)) == []
    assert differing(checkpoint_of(model), several.expected("one")) != []


@pytest.mark.parametrize(("kind", "settings"), OPTIMIZERS, ids=["adamw", "8-bit"])
def test_an_adapter_loaded_with_low_memory_trains_as_any(
    tmp_path: Path, kind: Any, settings: dict[str, Any]
) -> None:
    weights = []
    for low in (False, True):
        (folder := tmp_path / str(low)).mkdir()
        several = Several(folder, make_qwen3(), odd=False)
        model = several.loaded("one", is_trainable=True, low_cpu_mem_usage=low)
        train(model, kind([p for p in model.parameters() if p.requires_grad], lr=1e-2, **settings))
        weights.append(checkpoint_of(model))
        assert_shows(model.unload(), several.start)
    assert differing(*weights) == []


def test_a_copy_made_after_unmerging_returns_by_itself(several: Several) -> None:
    model = several.loaded("one")
    said = logits_of(model)
    model.merge_adapter()
    model.unmerge_adapter()
    copied = copy.deepcopy(model)
    assert torch.equal(logits_of(copied), said)
    assert_shows(copied, several.expected("one"))
    assert_shows(model, several.start)
    assert torch.equal(logits_of(model), said)


@pytest.mark.parametrize("trainable", [False, True], ids=["inference", "trained"])
def test_a_state_dict_goes_to_disk_and_back(several: Several, trainable: bool) -> None:
    model = several.loaded("one", is_trainable=trainable)
    held = io.BytesIO()
    torch.save(model.state_dict(), held)
    held.seek(0)
    other = several_again(several, trainable)
    other.load_state_dict(torch.load(held, weights_only=True))
    assert_shows(other, several.expected("one"))
    logits_of(other)
    assert_shows(other, several.expected("one"))
    assert_shows(other.unload(), several.start)


def several_again(several: Several, trainable: bool) -> PeftModel:
    """Another model of the same base with the same adapter."""
    return PeftModel.from_pretrained(
        make_qwen3(), several.folders["one"], "one", is_trainable=trainable
    )


def test_pefts_functions_for_state_dicts_work(several: Several) -> None:
    model = several.loaded("one", "two")
    held = get_peft_model_state_dict(model, adapter_name="two")
    set_peft_model_state_dict(model, held, adapter_name="one")
    assert_shows(model, several.expected("two"))
    assert not any(PREFIX in key for key in held)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("trainable", [False, True], ids=["inference", "trained"])
def test_a_model_cast_while_adapted_holds_values_and_base_cast(
    several: Several, dtype: torch.dtype, trainable: bool
) -> None:
    model = several.loaded("one", is_trainable=trainable)
    loss_of(model)
    model.to(dtype)
    expected, start = (
        {name: tensor.to(dtype) for name, tensor in one.items()}
        for one in (several.expected("one"), several.start)
    )
    assert_shows(model, expected)
    assert logits_of(model).dtype == dtype
    assert_shows(model, expected)
    with model.disable_adapter():
        assert_shows(model, start)
    assert_shows(model, expected)
    if trainable:
        loss_of(model).backward()
        assert all(held.grad is not None for held in values_of(model, "one").values())
    assert_shows(model.unload(), start)


@pytest.mark.gpu
def test_a_model_moved_while_adapted_keeps_every_bit(several: Several) -> None:
    model = several.loaded("one", "two", is_trainable=True)
    loss_of(model)
    for device in ("cuda", "cpu", "cuda"):
        model.to(device)
        assert_shows(model, several.expected("one"))
        model.set_adapter("two")
        assert_shows(model, several.expected("two"))
        with model.disable_adapter():
            assert_shows(model, several.start)
        model.set_adapter("one")
    model.add_weighted_adapter(["one", "two"], [0.5, 0.5], "sum")
    on_device = {key: value.cuda() for key, value in inputs(plain_of(model), 0).items()}
    model(**on_device).loss.backward()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], fused=True)
    optimizer.step()
    model.to("cpu")
    assert_shows(model.unload(), several.start)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_compiled_model_follows_its_adapters_without_a_break(
    tmp_path: Path, backend: str
) -> None:
    several = Several(tmp_path, make_layers(), odd=False)
    model = several.loaded("one", "two")
    compiled = torch.compile(several.base, backend=backend, fullgraph=True)
    drawn = torch.randn(4, 6)
    said = {}
    with torch.no_grad():
        for name in ("one", "two", "one"):
            model.set_adapter(name, inference_mode=True)
            said[name] = compiled(drawn)
            torch.testing.assert_close(said[name], several.base(drawn))
        with model.disable_adapter():
            torch.testing.assert_close(compiled(drawn), make_layers()(drawn))
    assert not torch.equal(said["one"], said["two"])


@pytest.mark.filterwarnings("ignore")
def test_a_compiled_model_trains_like_one_that_is_not() -> None:
    weights = []
    for compiled in (False, True):
        base = make_layers()
        model = adapt(base, mask_of(base, 0.5))
        runs = torch.compile(model, backend="aot_eager") if compiled else model
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
        drawn = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
        for _ in range(3):
            runs(drawn).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        weights.append(weights_of(model))
        assert differing(weights_of(model.unload()), weights_of(make_layers())) == []
    for name, found in weights[0].items():
        torch.testing.assert_close(found, weights[1][name])
    assert differing(weights[1], weights_of(make_layers())) != []


@pytest.mark.parametrize("trainable", [False, True], ids=["inference", "trained"])
def test_generation_is_that_of_the_model_that_holds_the_values(
    several: Several, trainable: bool
) -> None:
    model = several.loaded("one", is_trainable=trainable).eval()
    tokens = inputs(plain_of(model), 0)["input_ids"]
    plain = make_qwen3().eval()
    missing = plain.load_state_dict(several.expected("one"), strict=False).missing_keys
    assert missing == ["lm_head.weight"]
    wanted = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    said = model.generate(input_ids=tokens, **wanted)
    assert torch.equal(said, plain.generate(input_ids=tokens, **wanted))  # pyright: ignore
    with model.disable_adapter():
        base = model.generate(input_ids=tokens, **wanted)
    assert torch.equal(base, make_qwen3().eval().generate(input_ids=tokens, **wanted))  # pyright: ignore
    assert torch.equal(said, model.generate(input_ids=tokens, **wanted))


@torch.inference_mode()
def serve(several: Several) -> PeftModel:
    """Everything a server does, in inference mode."""
    model = several.loaded("one")
    model.load_adapter(several.folders["two"], "two")
    for name in ("two", "one"):
        model.set_adapter(name, inference_mode=True)
        assert_shows(model, several.expected(name))
        logits_of(model)
        with model.disable_adapter():
            assert_shows(model, several.start)
    model.merge_adapter()
    model.unmerge_adapter()
    logits_of(model)
    assert_shows(model, several.expected("one"))
    model.delete_adapter("two")
    return model


def test_all_of_it_works_in_inference_mode(several: Several) -> None:
    model = serve(several)
    assert_shows(model, several.expected("one"))
    assert_shows(model.unload(), several.start)


def test_a_model_that_served_can_be_trained_afterwards(several: Several) -> None:
    model = several.loaded("one", "two")
    with torch.inference_mode():
        for name in ("two", "one"):
            model.set_adapter(name, inference_mode=True)
            logits_of(model)
    model.set_adapter("one")
    loss_of(model).backward()
    assert all(held.grad is not None for held in values_of(model, "one").values())
    assert_shows(model.unload(), several.start)


def test_a_base_made_in_inference_mode_is_adapted_there(tmp_path: Path) -> None:
    with torch.inference_mode():
        serve(Several(tmp_path, make_qwen3(), odd=False))


@pytest.mark.parametrize("kind", [nn.Sequential, nn.ModuleList, nn.ModuleDict])
def test_a_containers_own_parameter_is_refused_by_name(kind: type[nn.Module]) -> None:
    """What is put beside it would be run, or counted, as one of its entries."""
    base = kind()
    base.scale = nn.Parameter(torch.ones(3))
    with pytest.raises(AdapterError, match=f"scale belongs to a {kind.__name__}"):
        adapt(base, mask_of(base, 1.0))
    assert [*base.state_dict()] == ["scale"]
