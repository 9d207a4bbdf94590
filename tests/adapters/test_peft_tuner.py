"""One sparse adapter under PEFT: made, saved, loaded, merged, unloaded, in every kind of model."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM, PeftConfig, PeftModel, get_peft_model
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import Qwen3ForCausalLM

from sparseopd.adapter_files.adapter import SparseAdapter
from sparseopd.adapters import SparseConfig
from sparseopd.errors import AdapterError
from sparseopd.masks import Mask
from tests.adapters.adapted import (
    MODELS,
    PREFIX,
    WIDE_AND_NARROW,
    adapt,
    checkpoint_of,
    differing,
    logits_of,
    loss_of,
    mask_of,
    merged,
    new_values,
    plain_of,
    values_of,
    weights_of,
    write_adapter,
)
from tests.conftest import make_qwen3


def written(folder: Path, base: nn.Module, seed: int = 0, **settings: Any) -> tuple[Path, dict]:
    """An adapter of the base, and the checkpoint it makes of it."""
    mask = mask_of(base, seed=seed, **settings)
    values = new_values(mask, base, seed, odd=True)
    return write_adapter(folder / str(seed), base, mask, values), merged(base, mask, values)


@pytest.mark.parametrize(("name", "dtype"), WIDE_AND_NARROW, ids=str)
def test_a_loaded_adapter_is_the_trained_checkpoint_to_the_bit(
    name: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    base = MODELS[name]().to(dtype)
    before = checkpoint_of(base)
    folder, expected = written(tmp_path, base)
    model = PeftModel.from_pretrained(base, folder, low_cpu_mem_usage=name == "mixture")
    assert differing(checkpoint_of(model), expected) == []
    with model.disable_adapter():
        assert differing(checkpoint_of(model), before) == []
    assert differing(checkpoint_of(model), expected) == []
    assert differing(checkpoint_of(model.unload()), before) == []


def random_values(model: PeftModel, seed: int = 0) -> None:
    """Give the adapter that is trained other values, as an optimizer would."""
    values = [*values_of(model).values()]
    generator = torch.Generator().manual_seed(seed)
    for held in values:
        held.grad = torch.randn(held.shape, generator=generator).to(held.dtype)
    torch.optim.SGD(values, lr=0.1).step()


@pytest.mark.parametrize(("name", "dtype"), WIDE_AND_NARROW, ids=str)
def test_what_is_saved_and_loaded_gives_the_same_bits(
    name: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    base = MODELS[name]().to(dtype)
    trained = adapt(copy.deepcopy(base), mask_of(base))
    random_values(trained)
    expected = checkpoint_of(trained)
    assert differing(expected, checkpoint_of(base)) != []
    trained.save_pretrained(str(tmp_path))
    adapter = SparseAdapter.load(tmp_path)
    adapter.check()
    adapter.verify(base)
    assert adapter.has_masters == (dtype is not torch.float32)
    assert len(adapter.result_hashes) == len(adapter.touched)
    assert all(adapter.dtype(touched) == dtype for touched in adapter.touched)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["peft_type"], config["k"]) == ("SPARSEOPD", adapter.count())
    assert "mask" not in config
    assert "sparseopd" in (tmp_path / "README.md").read_text().lower()
    loaded = PeftModel.from_pretrained(base, tmp_path)
    assert differing(checkpoint_of(loaded), expected) == []
    assert not any(weight.requires_grad for weight in loaded.parameters())


def test_masters_are_left_out_where_nobody_wants_them(tmp_path: Path) -> None:
    model = adapt(base := make_qwen3().bfloat16(), mask_of(base), save_masters=False)
    random_values(model)
    model.save_pretrained(str(tmp_path))
    assert not SparseAdapter.load(tmp_path).has_masters


def test_masters_are_kept_by_who_loads_and_saves_again(tmp_path: Path) -> None:
    trained = adapt(base := make_qwen3().bfloat16(), mask_of(base))
    random_values(trained)
    trained.save_pretrained(str(tmp_path / "one"))
    loaded = PeftModel.from_pretrained(make_qwen3().bfloat16(), tmp_path / "one")
    loaded.save_pretrained(str(tmp_path / "two"))
    one, two = (SparseAdapter.load(tmp_path / name) for name in ("one", "two"))
    for name in one.touched:
        held, again = one.masters(name), two.masters(name)
        assert held is not None and again is not None
        assert torch.equal(held, again)


def test_what_is_saved_is_what_the_adapter_holds_now(tmp_path: Path) -> None:
    """Not the masters of the values it was loaded with."""
    mask = mask_of(make_qwen3().bfloat16())
    for seed in (0, 1):
        model = adapt(make_qwen3().bfloat16(), mask)
        random_values(model, seed)
        model.save_pretrained(str(tmp_path / str(seed)))
    one, two = (
        PeftModel.from_pretrained(make_qwen3().bfloat16(), tmp_path / str(seed)) for seed in (0, 1)
    )
    one.load_state_dict(two.state_dict())
    one.save_pretrained(str(tmp_path / "now"))
    SparseAdapter.load(tmp_path / "now").check()
    again = PeftModel.from_pretrained(make_qwen3().bfloat16(), tmp_path / "now")
    assert differing(weights_of(again), weights_of(two)) == []
    again.set_adapter("default")
    assert differing(weights_of(again), weights_of(two)) == []


def test_a_base_stored_in_bf16_and_held_in_fp32_is_the_same_base(tmp_path: Path) -> None:
    """The file has bf16 values, whatever the model was loaded in; the masters go where there is room."""
    base = make_qwen3().bfloat16()
    trained = adapt(copy.deepcopy(base), mask_of(base))
    random_values(trained)
    trained.save_pretrained(str(tmp_path / "narrow"))
    wide = PeftModel.from_pretrained(copy.deepcopy(base).float(), tmp_path / "narrow")
    for name, held in values_of(trained).items():
        assert torch.equal(values_of(wide)[name], held.detach())
    wide.save_pretrained(str(tmp_path / "wide"))
    again = SparseAdapter.load(tmp_path / "wide")
    assert {again.dtype(name) for name in again.touched} == {torch.bfloat16}
    assert again.has_masters
    narrow = PeftModel.from_pretrained(base, tmp_path / "wide")
    assert differing(weights_of(narrow), weights_of(trained)) == []


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_a_new_adapter_changes_no_bit_and_trains_the_mask_alone(dtype: torch.dtype) -> None:
    base = make_qwen3().to(dtype)
    for weight in base.parameters():
        weight.data.mul_(1 + 1e-12)
    before, mask = weights_of(base), mask_of(base)
    model = adapt(base, mask)
    assert differing(before, weights_of(model)) == []
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    assert sum(weight.numel() for weight in trained) == mask.count()
    assert {weight.dtype for weight in trained} == {torch.promote_types(dtype, torch.float32)}
    assert model.get_nb_trainable_parameters()[0] == mask.count()


def test_what_peft_prints_and_states_is_right(
    qwen3: Qwen3ForCausalLM, capsys: pytest.CaptureFixture[str]
) -> None:
    total = sum(weight.numel() for weight in qwen3.parameters())
    mask = mask_of(qwen3)
    model = adapt(qwen3, mask)
    model.print_trainable_parameters()
    shown = capsys.readouterr().out
    assert f"trainable params: {mask.count():,d} || all params: {total + mask.count():,d}" in shown
    status = model.get_model_status()
    assert (status.enabled, status.active_adapters, status.merged_adapters) == (
        True,
        ["default"],
        [],
    )
    assert status.requires_grad == {"default": True}
    assert status.num_adapter_layers == len(values_of(model))
    with model.disable_adapter():
        assert model.get_model_status().enabled is False
    model.merge_adapter()
    assert model.get_model_status().merged_adapters == ["default"]
    names = {layer.name for layer in model.get_layer_status()}
    assert f"model.model.embed_tokens.{PREFIX}weight" in names


class Calls(TorchDispatchMode):
    """Notes every operation."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def calls(model: nn.Module) -> list[str]:
    """The operations of one forward."""
    with Calls() as noted:
        logits_of(model)
    return noted.names


@pytest.mark.parametrize("name", MODELS)
def test_inference_runs_the_modules_themselves(name: str, tmp_path: Path) -> None:
    base = MODELS[name]()
    plain = copy.deepcopy(base)
    folder, _ = written(tmp_path, base)
    model = PeftModel.from_pretrained(base, folder)
    inner = dict(plain_of(model).named_modules())
    for path, module in plain.named_modules():
        assert type(inner[path]) is type(module), path
        assert not inner[path]._forward_hooks and not inner[path]._forward_pre_hooks
        assert inner[path].forward.__func__ is type(module).forward  # pyright: ignore
    with torch.no_grad():
        assert calls(model) == calls(plain.eval().requires_grad_(False))


@pytest.mark.parametrize("name", MODELS)
def test_training_runs_no_operation_of_its_own_after_the_first_time(name: str) -> None:
    plain = MODELS[name]()
    model = adapt(base := copy.deepcopy(plain), mask_of(base))
    loss_of(model)
    assert calls(model) == calls(plain)


def test_the_module_is_what_it_was_once_it_is_not_trained(qwen3: Qwen3ForCausalLM) -> None:
    kinds = {name: type(module) for name, module in qwen3.named_modules()}
    model = adapt(qwen3, mask_of(qwen3))
    head = qwen3.lm_head
    assert not isinstance(head.weight, nn.Parameter)
    model.set_adapter("default", inference_mode=True)
    assert isinstance(head.weight, nn.Parameter)
    found = {name: type(one) for name, one in qwen3.named_modules() if PREFIX not in name}
    assert found == kinds


NAMES = ["model", "0", "weight", "k", "layers", "sparseopd"]


@pytest.mark.parametrize("name", NAMES)
def test_an_adapter_may_be_called_like_a_part_of_a_parameters_name(
    name: str, qwen3: Qwen3ForCausalLM, tmp_path: Path
) -> None:
    before = weights_of(qwen3)
    folder, expected = written(tmp_path, qwen3)
    other, _ = written(tmp_path, qwen3, seed=1)
    model = PeftModel.from_pretrained(qwen3, folder, adapter_name=name)
    assert differing(weights_of(model), expected) == []
    model.load_adapter(other, "default")
    model.save_pretrained(str(tmp_path / "out"))
    for saved, told in ((tmp_path / "out" / name, folder), (tmp_path / "out", other)):
        one, two = SparseAdapter.load(saved), SparseAdapter.load(told)
        assert one.touched == two.touched
        assert differing(*({n: a.values(n) for n in a.touched} for a in (one, two))) == []
    model.delete_adapter("default")
    model.unload()
    assert differing(weights_of(model), before) == []


@pytest.mark.parametrize("name", ["values", "keys", "training", "a.b"])
def test_a_name_that_torch_has_taken_is_refused_before_anything_is_touched(
    name: str, qwen3: Qwen3ForCausalLM
) -> None:
    plain = copy.deepcopy(qwen3)
    with pytest.raises(AdapterError, match="give another name"):
        adapt(qwen3, mask_of(qwen3), name)
    assert [*qwen3.state_dict()] == [*plain.state_dict()]
    assert all(weight.requires_grad for weight in qwen3.parameters())


def test_the_auto_class_finds_the_base(tmp_path: Path, qwen3: Qwen3ForCausalLM) -> None:
    qwen3.save_pretrained(tmp_path / "base")
    base = Qwen3ForCausalLM.from_pretrained(tmp_path / "base")
    trained = adapt(base, mask_of(base))
    random_values(trained)
    trained.save_pretrained(str(tmp_path / "adapter"))
    assert SparseAdapter.load(tmp_path / "adapter").mask.provenance.base == str(tmp_path / "base")
    loaded = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter")
    assert differing(weights_of(loaded), weights_of(trained)) == []
    assert torch.equal(logits_of(loaded), logits_of(trained.eval()))


@pytest.mark.parametrize("what", ["saved", "k"])
def test_a_configuration_without_a_mask_does_not_pass_for_an_adapter(
    what: str, qwen3: Qwen3ForCausalLM, tmp_path: Path
) -> None:
    """Nothing would be trained, and no one would be told."""
    folder, _ = written(tmp_path, qwen3)
    config = PeftConfig.from_pretrained(folder) if what == "saved" else SparseConfig(k=5)
    with pytest.raises(Exception, match="no mask"):
        loss_of(get_peft_model(qwen3, config)).backward()  # pyright: ignore[reportArgumentType]


def test_a_new_adapter_made_with_low_memory_is_the_same(qwen3: Qwen3ForCausalLM) -> None:
    mask: Mask = mask_of(qwen3)
    plain = copy.deepcopy(qwen3)
    model = get_peft_model(qwen3, SparseConfig(mask=mask), low_cpu_mem_usage=True)
    assert {values.device.type for values in values_of(model).values()} == {"cpu"}
    assert differing(weights_of(model), weights_of(plain)) == []
