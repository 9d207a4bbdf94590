"""Several sparse adapters on one model: switched, stacked, summed, swapped and deleted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from peft.utils.hotswap import hotswap_adapter
from torch import Tensor, nn
from transformers import Qwen3ForCausalLM

from sparseopd.adapters import Conflicts
from sparseopd.errors import AdapterError, AdapterMismatchError, MaskFileError, MaskMismatchError
from sparseopd.masks import Mask
from tests.adapters.adapted import (
    Net,
    adapt,
    as_bits,
    checkpoint_of,
    differing,
    logits_of,
    loss_of,
    mask_of,
    merged,
    new_values,
    values_of,
    weights_of,
    write_adapter,
)
from tests.conftest import make_moe, make_qwen3

NAMES = ("one", "two", "three")


class Several:
    """A base and three overlapping adapters of it, on disk and as what they should make."""

    def __init__(self, folder: Path, base: nn.Module, *, odd: bool = True) -> None:
        self.base, self.folders = base, {}
        self.masks = {name: mask_of(base, 0.3, seed) for seed, name in enumerate(NAMES)}
        self.values = {
            name: new_values(mask, base, seed, odd=odd)
            for seed, (name, mask) in enumerate(self.masks.items())
        }
        self.start = checkpoint_of(base)
        for name in NAMES:
            self.folders[name] = write_adapter(
                folder / name, base, self.masks[name], self.values[name]
            )

    def loaded(self, *names: str, **settings: Any) -> PeftModel:
        """The model with some adapters, the first of them active."""
        first = names[0]
        model = PeftModel.from_pretrained(self.base, self.folders[first], first, **settings)
        for name in names[1:]:
            model.load_adapter(self.folders[name], name, **settings)
        return model

    def expected(self, *names: str) -> dict[str, Tensor]:
        """The base with some adapters written over it, the last on top."""
        found = {name: tensor.clone() for name, tensor in self.start.items()}
        for adapter in names:
            for name, new in self.values[adapter].items():
                as_bits(found[name])[self.masks[adapter][name]] = as_bits(new)
        return found


@pytest.fixture
def several(tmp_path: Path, qwen3: Qwen3ForCausalLM) -> Several:
    return Several(tmp_path, qwen3.bfloat16())


def assert_shows(model: nn.Module, expected: dict[str, Tensor]) -> None:
    """The weights are these, to the bit."""
    assert differing(checkpoint_of(model), expected) == []


@pytest.mark.parametrize("inference", [True, False])
def test_switching_gives_each_adapters_bits(tmp_path: Path, inference: bool) -> None:
    several = Several(tmp_path, make_qwen3().bfloat16(), odd=inference)
    model = several.loaded(*NAMES)
    for name in (*NAMES, *reversed(NAMES), "two"):
        model.set_adapter(name, inference_mode=inference)
        assert model.active_adapter == name
        assert_shows(model, several.expected(name))
        trained = {value.requires_grad for value in values_of(model, name).values()}
        assert trained == {not inference}
        others = [n for n in NAMES if n != name]
        assert not any(v.requires_grad for n in others for v in values_of(model, n).values())
    assert_shows(model.unload(), several.start)


def test_of_several_active_ones_the_last_wins(several: Several) -> None:
    model = several.loaded(*NAMES)
    for names in (["one", "two"], ["two", "one"], ["three", "one", "two"], ["two"], []):
        model.base_model.set_adapter(names)
        assert_shows(model, several.expected(*names))
        with model.disable_adapter():
            assert_shows(model, several.start)
        assert_shows(model, several.expected(*names))
    assert_shows(model.unload(), several.start)


def test_an_adapter_named_twice_costs_the_base_nothing(several: Several) -> None:
    model = several.loaded("one", "two")
    model.base_model.set_adapter(["one", "two", "one"])
    assert_shows(model, several.expected("two", "one"))
    model.merge_adapter(adapter_names=["two", "two"])
    assert_shows(model, several.expected("two"))
    assert_shows(model.unload(), several.start)


def test_merging_chosen_adapters_leaves_those(several: Several) -> None:
    model = several.loaded(*NAMES)
    left = model.merge_and_unload(adapter_names=["three", "one"])
    assert_shows(left, several.expected("three", "one"))


def test_setting_an_unknown_adapter_is_refused_and_changes_nothing(several: Several) -> None:
    model = several.loaded("one", "two")
    for asked in ("nope", ["one", "nope"]):
        with pytest.raises(ValueError, match="nope"):
            model.base_model.set_adapter(asked)
        assert_shows(model, several.expected("one"))
    with pytest.raises(ValueError, match="nope"):
        model.delete_adapter("nope")


def test_an_inactive_adapter_is_deleted_without_a_trace(several: Several) -> None:
    model = several.loaded("one", "two")
    model.delete_adapter("two")
    assert_shows(model, several.expected("one"))
    assert not any(weight.requires_grad for weight in model.parameters())
    assert not values_of(model, "two")
    assert (model.active_adapter, model.base_model.active_adapter) == ("one", "one")
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}


def test_deleting_the_active_adapter_shows_the_first_that_is_left(several: Several) -> None:
    model = several.loaded(*NAMES)
    with pytest.warns(UserWarning, match="was active"):
        model.delete_adapter("one")
    assert model.active_adapter == "two"
    assert_shows(model, several.expected("two"))
    assert_shows(model.unload(), several.start)


def test_deleting_the_last_adapter_shows_the_base(several: Several) -> None:
    model = several.loaded("one")
    model.delete_adapter("one")
    assert_shows(several.base, several.start)


def test_a_deleted_name_can_be_loaded_again(several: Several) -> None:
    model = several.loaded("one", "two")
    model.delete_adapter("two")
    model.load_adapter(several.folders["three"], "two")
    model.set_adapter("two", inference_mode=True)
    assert_shows(model, several.expected("three"))


def test_loading_over_the_active_adapter_replaces_it(several: Several) -> None:
    model = several.loaded("one")
    model.load_adapter(several.folders["two"], "one")
    assert_shows(model, several.expected("two"))
    with model.disable_adapter():
        assert_shows(model, several.start)


@pytest.mark.parametrize("trained", [False, True], ids=["inference", "trained"])
def test_hot_swapping_replaces_values_and_mask(tmp_path: Path, trained: bool) -> None:
    several = Several(tmp_path, make_qwen3(), odd=False)
    model = several.loaded("one", is_trainable=trained)
    for name in ("two", "three", "one"):
        hotswap_adapter(model, str(several.folders[name]), "one")
        assert_shows(model, several.expected(name))
        logits_of(model)
        assert_shows(model, several.expected(name))
    assert {value.requires_grad for value in values_of(model, "one").values()} == {trained}
    assert_shows(model.unload(), several.start)


def test_hot_swapping_values_of_the_same_mask_keeps_the_trained_parameters(tmp_path: Path) -> None:
    """An optimizer that holds them goes on with them."""
    base = make_qwen3()
    mask = mask_of(base)
    one, two = (
        write_adapter(tmp_path / str(seed), base, mask, new_values(mask, base, seed))
        for seed in (0, 1)
    )
    expected = merged(base, mask, new_values(mask, base, 1))
    model = PeftModel.from_pretrained(base, one, is_trainable=True)
    held = [*values_of(model).values()]
    hotswap_adapter(model, str(two), "default")
    assert all(a is b for a, b in zip(held, values_of(model).values(), strict=True))
    assert_shows(model, expected)


def test_hot_swapping_an_inactive_adapter_shows_nothing_yet(several: Several) -> None:
    model = several.loaded("one", "two")
    hotswap_adapter(model, str(several.folders["three"]), "two")
    assert_shows(model, several.expected("one"))
    model.set_adapter("two", inference_mode=True)
    assert_shows(model, several.expected("three"))


def test_an_adapter_loaded_while_disabled_stays_out_of_sight(tmp_path: Path) -> None:
    """Also on weights that no adapter had before."""
    base = make_qwen3()
    before = weights_of(base)
    folders = []
    for number, scope in enumerate(("*.mlp.*", "*self_attn*")):
        mask = mask_of(base, scope=[scope])
        values = new_values(mask, base, number)
        folders.append(write_adapter(tmp_path / str(number), base, mask, values))
    expected = merged(base, mask, values)
    model = PeftModel.from_pretrained(base, folders[0])
    with model.disable_adapter():
        model.load_adapter(folders[1], "second")
        model.set_adapter("second", inference_mode=True)
        assert differing(before, weights_of(model)) == []
        assert model.get_model_status().enabled is False
    assert_shows(model, expected)


def drawn(model: PeftModel, several: Several, name: str) -> dict[str, Tensor]:
    """An adapter's values written densely over the base, float64."""
    return {key: tensor.double() for key, tensor in several.expected(name).items()}


def by_hand(
    several: Several, adapters: dict[str, float], model: PeftModel
) -> tuple[dict[str, Tensor], Conflicts]:
    """The weighted sum and its conflicts, coordinate by coordinate."""
    total, shared, opposed, chosen, tensors = {}, 0, 0, 0, {}
    for name, base in several.start.items():
        moves = {a: w * (drawn(model, several, a)[name] - base.double()) for a, w in adapters.items()}
        has = torch.stack([several.masks[a][name] for a in adapters])
        signs = torch.stack([torch.sign(moves[a]) * several.masks[a][name] for a in adapters])
        twice = has.sum(0) > 1
        both = (signs.amax(0) > 0) & (signs.amin(0) < 0)
        total[name] = (base.double() + sum(moves.values())).to(base.dtype)
        chosen += int(has.any(0).sum())
        if bool(twice.any()):
            tensors[name] = int(twice.sum()), int((twice & both).sum())
            shared, opposed = shared + tensors[name][0], opposed + tensors[name][1]
    return total, Conflicts(shared, opposed, chosen, tensors)


@pytest.mark.parametrize(
    "weights",
    [{"one": 0.5, "two": 0.5}, {"one": 1.0, "two": -2.0, "three": 0.25}, {"three": 3.0}],
    ids=str,
)
def test_a_weighted_sum_is_that_of_the_differences(
    tmp_path: Path, weights: dict[str, float]
) -> None:
    several = Several(tmp_path, make_qwen3(), odd=False)
    model = several.loaded(*NAMES)
    found = model.add_weighted_adapter([*weights], [*weights.values()], "sum")
    expected, conflicts = by_hand(several, weights, model)
    assert found == conflicts
    assert conflicts.opposed > 0 or len(weights) == 1
    assert_shows(model, several.expected("one"))
    model.set_adapter("sum", inference_mode=True)
    for name, tensor in checkpoint_of(model).items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-6, atol=1e-7)
        off = ~torch.stack([several.masks[a][name] for a in weights]).any(0)
        assert torch.equal(tensor[off], several.start[name][off])
    model.set_adapter("one", inference_mode=True)
    assert_shows(model.unload(), several.start)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_single_adapter_of_weight_one_keeps_its_bits(tmp_path: Path, dtype: torch.dtype) -> None:
    """Negative zeros, infinities and NaNs among them."""
    several = Several(tmp_path, make_qwen3().to(dtype))
    model = several.loaded("one")
    assert model.add_weighted_adapter(["one"], [1.0], "same").shared == 0
    model.set_adapter("same", inference_mode=True)
    assert_shows(model, several.expected("one"))


def test_where_one_adapter_alone_has_a_coordinate_a_sum_of_ones_keeps_its_bits(
    several: Several,
) -> None:
    model = several.loaded("one", "two")
    model.add_weighted_adapter(["one", "two"], [1.0, 1.0], "sum")
    model.set_adapter("sum", inference_mode=True)
    found = checkpoint_of(model)
    for name in ("one", "two"):
        alone = several.masks[name] - several.masks["two" if name == "one" else "one"]
        for key, tensor in several.expected(name).items():
            assert torch.equal(as_bits(found[key])[alone[key]], as_bits(tensor)[alone[key]]), key


def test_half_and_half_of_one_adapter_is_that_adapter_over_an_infinite_base(tmp_path: Path) -> None:
    base = Net()
    with torch.no_grad():
        for weight in base.parameters():
            weight.view(-1)[::3] = float("inf")
    several = Several(tmp_path, base, odd=False)
    model = several.loaded("one")
    model.load_adapter(several.folders["one"], "again")
    model.add_weighted_adapter(["one", "again"], [0.5, 0.5], "sum")
    model.set_adapter("sum", inference_mode=True)
    assert_shows(model, several.expected("one"))


def test_a_sum_is_saved_and_loaded_as_any_adapter(tmp_path: Path) -> None:
    several = Several(tmp_path, make_qwen3(), odd=False)
    model = several.loaded("one", "two")
    model.add_weighted_adapter(["one", "two"], [0.5, 0.5], "sum")
    model.set_adapter("sum", inference_mode=True)
    expected = checkpoint_of(model)
    model.save_pretrained(str(tmp_path / "out"), selected_adapters=["sum"])
    again = PeftModel.from_pretrained(make_qwen3(), tmp_path / "out" / "sum")
    assert_shows(again, expected)


@pytest.mark.parametrize(
    ("adapters", "weights", "name", "sentence"),
    [
        (["one", "nope"], [1.0, 1.0], "sum", "no sparse adapter nope"),
        (["one"], [1.0, 1.0], "sum", "1 adapters and 2 weights"),
        ([], [], "sum", "0 adapters"),
        (["one"], [1.0], "one", "adapter one already"),
    ],
)
def test_a_sum_that_cannot_be_is_refused(
    several: Several, adapters: list[str], weights: list[float], name: str, sentence: str
) -> None:
    model = several.loaded("one")
    with pytest.raises(AdapterError, match=sentence):
        model.add_weighted_adapter(adapters, weights, name)
    assert [*model.peft_config] == ["one"]
    assert_shows(model, several.expected("one"))


def test_an_adapter_of_another_base_is_refused_by_naming_tensors(
    several: Several, tmp_path: Path
) -> None:
    other = make_qwen3(seed=5).bfloat16()
    mask = mask_of(other)
    folder = write_adapter(tmp_path / "other", other, mask, new_values(mask, other, 0))
    model = several.loaded("one")
    for load in (lambda: model.load_adapter(folder, "b"), lambda: hotswap_adapter(model, str(folder), "one")):
        with pytest.raises(AdapterMismatchError, match=r"model\.embed_tokens\.weight") as error:
            load()
        assert set(error.value.tensors) <= {*mask.names}
        assert_shows(model, several.expected("one"))
    assert [*model.peft_config] == ["one"]
    model.save_pretrained(str(tmp_path / "still"))


def test_one_other_tensor_is_enough_to_be_refused(tmp_path: Path, qwen3: Qwen3ForCausalLM) -> None:
    mask = mask_of(qwen3)
    folder = write_adapter(tmp_path / "a", qwen3, mask, new_values(mask, qwen3, 0))
    with torch.no_grad():
        qwen3.model.norm.weight[3] = -0.0 if qwen3.model.norm.weight[3] == 0 else 0.5
    before = weights_of(qwen3)
    with pytest.raises(AdapterMismatchError) as error:
        PeftModel.from_pretrained(qwen3, folder)
    assert error.value.tensors == {"model.norm.weight": "other values"}
    assert differing(weights_of(qwen3), before) == []


def test_a_mask_of_another_model_is_refused_before_anything_is_touched() -> None:
    base = make_moe()
    before = weights_of(base)
    with pytest.raises(MaskMismatchError, match="lacks"):
        adapt(base, mask_of(make_qwen3(), scope=["*.mlp.*"]))
    assert differing(weights_of(base), before) == []
    assert all(weight.requires_grad for weight in base.parameters())
    model = adapt(base, mask_of(base))
    with pytest.raises(MaskMismatchError, match="lacks"):
        model.add_adapter("b", type(model.peft_config["default"])(mask=mask_of(make_qwen3())))
    assert [*model.peft_config] == ["default"]
    loss_of(model).backward()


def test_a_configuration_without_a_mask_is_refused(qwen3: Qwen3ForCausalLM) -> None:
    with pytest.raises(AdapterError, match="no mask"):
        adapt(qwen3, None)  # pyright: ignore[reportArgumentType]
    assert all(weight.requires_grad for weight in qwen3.parameters())


def test_an_empty_mask_is_refused(qwen3: Qwen3ForCausalLM) -> None:
    mask = mask_of(qwen3)
    with pytest.raises(AdapterError, match="empty"):
        adapt(qwen3, mask - mask)


def test_a_damaged_mask_file_is_refused(tmp_path: Path, qwen3: Qwen3ForCausalLM) -> None:
    path = tmp_path / "mask.safetensors"
    mask_of(qwen3).save(path)
    assert adapt(make_qwen3(), path).peft_config["default"].k == Mask.load(path).count()  # pyright: ignore
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(MaskFileError):
        adapt(qwen3, path)  # pyright: ignore[reportArgumentType]
    assert all(weight.requires_grad for weight in qwen3.parameters())


def test_quantized_weights_are_refused_by_name(tmp_path: Path) -> None:
    base = Net()
    mask = mask_of(base)
    folder = write_adapter(tmp_path / "a", base, mask, new_values(mask, base, 0))
    base.block.attention.out_proj.weight = nn.Parameter(
        torch.zeros(6, 6, dtype=torch.int8), requires_grad=False
    )
    with pytest.raises(AdapterError, match=r"block\.attention\.out_proj\.weight"):
        PeftModel.from_pretrained(base, folder)
