"""`sparseopd.apply` and `remove`: values on a model in memory, and every bit back."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import Qwen3ForCausalLM

import sparseopd
from sparseopd.adapter_files.adapter import SparseAdapter
from sparseopd.adapter_files.writer import AdapterWriter
from sparseopd.artifacts import Provenance
from sparseopd.errors import AdapterError, AdapterFileError, AdapterMismatchError
from sparseopd.pairs import open_tensors
from sparseopd.pairs.tensors import tensor_hash
from tests.adapters.adapted import (
    MODELS,
    WIDE_AND_NARROW,
    Net,
    as_bits,
    checkpoint_of,
    differing,
    logits_of,
    make_layers,
    mask_of,
    merged,
    new_values,
    write_adapter,
)
from tests.adapters.breaking import breaking, strange
from tests.adapters.several import NAMES, Several, assert_shows
from tests.conftest import make_moe, make_qwen3


@pytest.mark.parametrize(("name", "dtype"), WIDE_AND_NARROW, ids=str)
def test_applying_gives_the_trained_checkpoint_and_removing_the_base(
    name: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    base = MODELS[name]().to(dtype)
    before, mask = checkpoint_of(base), mask_of(base)
    values = new_values(mask, base, 0, odd=True)
    folder = write_adapter(tmp_path / "a", base, mask, values)
    expected = merged(base, mask, values)
    kinds = [type(module) for module in base.modules()]
    requires = [weight.requires_grad for weight in base.parameters()]
    assert sparseopd.apply(base, folder) is base
    assert differing(checkpoint_of(base), expected) == []
    assert [type(module) for module in base.modules()] == kinds
    assert [weight.requires_grad for weight in base.parameters()] == requires
    assert sparseopd.remove(base) is base
    assert differing(checkpoint_of(base), before) == []
    with pytest.raises(AdapterError, match="nothing to remove"):
        sparseopd.remove(base)


def test_an_open_adapter_and_a_path_as_text_will_do(
    tmp_path: Path, qwen3: Qwen3ForCausalLM
) -> None:
    several = Several(tmp_path, qwen3)
    for given in (SparseAdapter.load(several.folders["one"]), str(several.folders["one"])):
        sparseopd.apply(qwen3, given)
        assert_shows(qwen3, several.expected("one"))
        sparseopd.remove(qwen3)


def test_several_adapters_of_one_base_lie_over_each_other(tmp_path: Path) -> None:
    several = Several(tmp_path, make_qwen3().bfloat16())
    for count in range(1, 4):
        sparseopd.apply(several.base, several.folders[NAMES[count - 1]])
        assert_shows(several.base, several.expected(*NAMES[:count]))
    sparseopd.apply(several.base, several.folders["one"])
    assert_shows(several.base, several.expected("two", "three", "one"))
    assert_shows(sparseopd.remove(several.base), several.start)


def test_another_base_is_refused_by_naming_tensors(tmp_path: Path) -> None:
    several = Several(tmp_path, make_qwen3())
    other = make_qwen3(seed=1)
    before = checkpoint_of(other)
    with pytest.raises(AdapterMismatchError, match=r"model\.embed_tokens\.weight") as error:
        sparseopd.apply(other, several.folders["one"])
    assert len(error.value.tensors) > 5
    assert differing(checkpoint_of(other), before) == []
    with pytest.raises(AdapterMismatchError, match="missing"):
        sparseopd.apply(make_moe(), several.folders["one"])
    with pytest.raises(AdapterError, match="nothing to remove"):
        sparseopd.remove(other)


def test_one_changed_bit_off_the_mask_is_another_base(tmp_path: Path) -> None:
    several = Several(tmp_path, make_qwen3())
    weight = several.base.get_parameter("model.layers.1.mlp.up_proj.weight")
    off = int((~several.masks["one"]["model.layers.1.mlp.up_proj.weight"]).view(-1).nonzero()[0])
    as_bits(weight.data).view(-1)[off] ^= 1
    with pytest.raises(AdapterMismatchError) as error:
        sparseopd.apply(several.base, several.folders["one"])
    assert [*error.value.tensors] == ["model.layers.1.mlp.up_proj.weight"]


def test_a_damaged_adapter_changes_nothing(tmp_path: Path) -> None:
    several = Several(tmp_path, make_qwen3())
    path = several.folders["one"] / "adapter_model.safetensors"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(AdapterFileError, match="damaged"):
        sparseopd.apply(several.base, several.folders["one"])
    assert_shows(several.base, several.start)
    with pytest.raises(AdapterError, match="holds no adapter"):
        sparseopd.apply(several.base, tmp_path)


def test_wherever_applying_breaks_off_nothing_is_applied(tmp_path: Path) -> None:
    several = Several(tmp_path, strange(make_layers(), torch.bfloat16))
    for at in breaking_points():
        sparseopd.apply(several.base, several.folders["one"])
        with breaking(at, KeyboardInterrupt) as seen:
            try:
                sparseopd.apply(several.base, several.folders["two"])
            except KeyboardInterrupt:
                assert_shows(several.base, several.expected("one"))
                sparseopd.apply(several.base, several.folders["two"])
        assert_shows(several.base, several.expected("one", "two"))
        assert_shows(sparseopd.remove(several.base), several.start)
        if seen[0] < at:
            return


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_wherever_removing_breaks_off_it_can_be_asked_for_again(
    tmp_path: Path, error: type[BaseException]
) -> None:
    several = Several(tmp_path, strange(make_layers(), torch.bfloat16))
    for at in breaking_points():
        for name in ("one", "two"):
            sparseopd.apply(several.base, several.folders[name])
        with breaking(at, error) as seen:
            try:
                sparseopd.remove(several.base)
            except error:
                sparseopd.remove(several.base)
        assert_shows(several.base, several.start)
        if seen[0] < at:
            return


def breaking_points() -> Iterator[int]:
    """More writes than there are."""
    yield from range(1, 100)
    raise AssertionError("it never went through")


@pytest.mark.parametrize(
    ("dtype", "steps"),
    [(torch.bfloat16, 1000), (torch.float16, 100), (torch.float32, 100)],
    ids=str,
)
def test_a_thousand_times_leave_the_base_as_it_was(
    tmp_path: Path, dtype: torch.dtype, steps: int
) -> None:
    several = Several(tmp_path, strange(make_layers(), dtype))
    opened = {name: SparseAdapter.load(folder) for name, folder in several.folders.items()}
    drawn, applied = random.Random(0), []
    for step in range(steps):
        if applied and drawn.random() < 0.4:
            sparseopd.remove(several.base)
            applied = []
        else:
            name = drawn.choice(NAMES)
            sparseopd.apply(several.base, opened[name])
            applied.append(name)
        if step % 10 == 0:
            assert_shows(several.base, several.expected(*applied))
    if applied:
        sparseopd.remove(several.base)
    assert_shows(several.base, several.start)


def test_a_copy_has_its_own_adapters(tmp_path: Path) -> None:
    several = Several(tmp_path, make_qwen3().bfloat16())
    sparseopd.apply(several.base, several.folders["one"])
    copied = copy.deepcopy(several.base)
    sparseopd.apply(copied, several.folders["two"])
    assert_shows(copied, several.expected("one", "two"))
    assert_shows(several.base, several.expected("one"))
    assert_shows(sparseopd.remove(copied), several.start)
    assert_shows(several.base, several.expected("one"))
    assert_shows(sparseopd.remove(several.base), several.start)


def test_another_adapter_lies_over_the_first_after_the_model_was_moved(tmp_path: Path) -> None:
    """Moving gives weights other memory, as `model.cuda()` does."""
    several = Several(tmp_path, make_layers())
    sparseopd.apply(several.base, several.folders["one"])
    for weight in several.base.parameters():
        weight.data = weight.data.clone()
    sparseopd.apply(several.base, several.folders["two"])
    assert_shows(several.base, several.expected("one", "two"))
    assert_shows(sparseopd.remove(several.base), several.start)


def test_a_bf16_base_held_in_fp32_takes_the_masters(tmp_path: Path) -> None:
    """And says so to no one: a cast to bf16 is the trained checkpoint, and removing gives the base."""
    base = make_qwen3().bfloat16()
    mask, tensors = mask_of(base), open_tensors(base)
    masters = {name: held.float() for name, held in new_values(mask, base, 0).items()}
    for held in masters.values():
        held += 1e-6 * held
    values = {name: held.bfloat16() for name, held in masters.items()}
    with AdapterWriter(tmp_path / "a") as writer:
        for name in mask.names:
            more = {"base_hash": tensor_hash(tensors[name]), "masters": masters.get(name)}
            writer.add(name, mask.bitmaps[name], values.get(name), **more)  # pyright: ignore
        writer.finish(Provenance())
    expected, wide = merged(base, mask, values), base.float()
    before = checkpoint_of(wide)
    sparseopd.apply(wide, tmp_path / "a")
    found = checkpoint_of(wide)
    for name, held in masters.items():
        assert torch.equal(found[name][mask[name]], held)
    assert differing({name: w.bfloat16() for name, w in found.items()}, expected) == []
    assert differing(checkpoint_of(sparseopd.remove(wide)), before) == []


def test_a_compiled_model_is_the_model(tmp_path: Path) -> None:
    several = Several(tmp_path, Net())
    compiled = torch.compile(several.base, backend="eager")
    assert sparseopd.apply(compiled, several.folders["one"]) is compiled  # pyright: ignore
    assert_shows(several.base, several.expected("one"))
    sparseopd.remove(compiled)  # pyright: ignore
    assert_shows(several.base, several.start)


def test_backward_through_a_model_that_was_changed_since_is_refused(tmp_path: Path) -> None:
    several = Several(tmp_path, Net(), odd=False)
    loss = logits_of(several.base).sum()
    sparseopd.apply(several.base, several.folders["one"])
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_a_weight_that_cannot_be_written_is_refused_by_name(tmp_path: Path) -> None:
    several = Several(tmp_path, Net())
    crossed = several.base.get_parameter("old.weight")
    crossed.data = crossed.data.T.contiguous().T
    with pytest.raises(AdapterError, match=r"old\.weight is not contiguous"):
        sparseopd.apply(several.base, several.folders["one"])
    assert_shows(several.base, several.start)


def test_what_is_saved_while_applied_is_a_plain_checkpoint(tmp_path: Path) -> None:
    several = Several(tmp_path, make_qwen3())
    sparseopd.apply(several.base, several.folders["one"])
    several.base.save_pretrained(tmp_path / "merged")  # pyright: ignore[reportCallIssue]
    again = Qwen3ForCausalLM.from_pretrained(tmp_path / "merged")
    assert_shows(again, several.expected("one"))
