"""Patches applied in memory one after another give each checkpoint in turn; a gap is refused."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import sparseopd
from sparseopd.errors import AdapterMismatchError
from tests.adapters.adapted import (
    Net,
    as_bits,
    checkpoint_of,
    differing,
    mask_of,
    merged,
    new_values,
    write_adapter,
)
from tests.adapters.breaking import STRANGE, strange
from tests.adapters.several import Several, assert_shows
from tests.conftest import make_qwen3


def patches(folder: Path, base: nn.Module, count: int = 3) -> tuple[list[Path], list[dict]]:
    """A chain of patches, each of the checkpoint that the one before makes, and those checkpoints."""
    model, states = copy.deepcopy(base), [checkpoint_of(base)]
    folders = []
    for number in range(count):
        mask = mask_of(model, 0.3, seed=number)
        values = new_values(mask, model, number, odd=True)
        folders.append(write_adapter(folder / f"patch{number}", model, mask, values))
        states.append(merged(model, mask, values))
        hold(model, states[-1])
    return folders, states


def hold(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Give the model these weights, to the bit."""
    parameters = dict(model.named_parameters())
    assert parameters.keys() == state.keys()
    for name, weight in parameters.items():
        as_bits(weight.data).copy_(as_bits(state[name]))


@pytest.mark.parametrize("dtype", STRANGE, ids=str)
def test_a_chain_of_patches_gives_each_checkpoint_in_turn(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    base = strange(Net(), dtype)
    folders, states = patches(tmp_path, base)
    for folder, state in zip(folders, states[1:], strict=True):
        sparseopd.apply(base, folder)
        assert differing(checkpoint_of(base), state) == []
    sparseopd.remove(base)
    assert differing(checkpoint_of(base), states[0]) == []


@pytest.mark.parametrize("order", [(1,), (0, 2), (0, 1, 1), (2, 1, 0)], ids=str)
def test_a_chain_with_a_gap_or_out_of_order_is_refused(
    tmp_path: Path, order: tuple[int, ...]
) -> None:
    """Whatever was applied until then stays; the refusal names tensors."""
    base = Net()
    folders, states = patches(tmp_path, base)
    applied = 0
    with pytest.raises(AdapterMismatchError) as error:
        for number in order:
            sparseopd.apply(base, folders[number])
            applied += 1
    assert applied == {(1,): 0, (0, 2): 1, (0, 1, 1): 2, (2, 1, 0): 0}[order]
    assert error.value.tensors
    assert ("out of order" in str(error.value)) == (applied > 0)
    assert differing(checkpoint_of(base), states[applied]) == []
    if applied:
        sparseopd.remove(base)
    assert differing(checkpoint_of(base), states[0]) == []


def test_a_patch_fits_on_its_own_base_only_not_beside_another(tmp_path: Path) -> None:
    """Two adapters of one base make a checkpoint that no patch of either belongs to."""
    base = make_qwen3()
    several = Several(tmp_path, base)
    after = copy.deepcopy(base)
    sparseopd.apply(after, several.folders["one"])
    mask = mask_of(after, seed=9)
    patch = write_adapter(tmp_path / "patch", after, mask, new_values(mask, after, 9))
    sparseopd.apply(base, several.folders["one"])
    sparseopd.apply(base, patch)
    sparseopd.remove(base)
    for name in ("one", "two"):
        sparseopd.apply(base, several.folders[name])
    with pytest.raises(AdapterMismatchError):
        sparseopd.apply(base, patch)
    assert_shows(base, several.expected("one", "two"))
    assert_shows(sparseopd.remove(base), several.start)


def test_a_chain_holds_in_a_wider_dtype_too(tmp_path: Path) -> None:
    folders, states = patches(tmp_path, Net().bfloat16())
    wide = Net().bfloat16().float()
    for folder, state in zip(folders, states[1:], strict=True):
        sparseopd.apply(wide, folder)
        found = {name: weight.bfloat16() for name, weight in checkpoint_of(wide).items()}
        for name, weight in state.items():
            assert torch.equal(found[name].nan_to_num(7.0), weight.nan_to_num(7.0)), name
    sparseopd.remove(wide)
    assert differing(checkpoint_of(wide), checkpoint_of(Net().bfloat16().float())) == []


def test_values_rounded_to_a_narrower_model_are_no_base_for_a_patch(tmp_path: Path) -> None:
    """The weights are not what the patch was made for, although its base says so."""
    base = Net()
    for weight in base.parameters():
        weight.data.copy_(weight.data.bfloat16())
    wide = copy.deepcopy(base)
    mask = mask_of(base)
    values = {name: held * (1 + 1e-4) for name, held in new_values(mask, base, 0).items()}
    first = write_adapter(tmp_path / "first", base, mask, values)
    sparseopd.apply(wide, first)
    second = write_adapter(tmp_path / "second", wide, mask, new_values(mask, wide, 1))
    narrow = base.bfloat16()
    before = checkpoint_of(narrow)
    sparseopd.apply(narrow, first)
    with pytest.raises(AdapterMismatchError):
        sparseopd.apply(narrow, second)
    assert differing(checkpoint_of(sparseopd.remove(narrow)), before) == []
