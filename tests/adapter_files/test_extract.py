"""An adapter holds what differs between two checkpoints, and says what it leaves out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor
from transformers import Qwen3ForCausalLM

from sparseopd.adapter_files.adapter import SparseAdapter
from sparseopd.adapter_files.extract import extract
from sparseopd.artifacts import Provenance
from sparseopd.errors import AdapterError, MaskError, MaskMismatchError, RunFolderError
from sparseopd.masks import Mask, select
from sparseopd.pairs import tensor_hash
from sparseopd.selection import build
from tests.adapter_files.sibling_folders import Tensors, bits_of, full_disk, siblings, write_folder


def folders(path: Path, base: Tensors, tuned: Tensors) -> tuple[Path, Path]:
    return write_folder(path / "base", base), write_folder(path / "tuned", tuned)


def plain() -> tuple[Tensors, Tensors]:
    """A bf16 base and a sibling with 10 other values in "a"."""
    base = {"a": torch.linspace(1, 2, 40).reshape(8, 5).bfloat16(), "b": torch.ones(6).bfloat16()}
    tuned = {name: one.clone() for name, one in base.items()}
    tuned["a"].view(-1)[::4] = 3.0
    return base, tuned


def with_values(base: Tensors, adapter: SparseAdapter) -> Tensors:
    """Put an adapter's values onto tensors in memory, the obvious way."""
    result = {name: one.clone() for name, one in base.items()}
    for name in adapter.touched:
        where = adapter.mask[name].reshape(-1)
        bits_of(result[name])[where] = bits_of(adapter.values(name))
    return result


@given(siblings())
@settings(max_examples=40, deadline=None)
def test_it_holds_exactly_the_coordinates_whose_bits_differ(pair: tuple[Tensors, Tensors]) -> None:
    base, tuned = pair
    with TemporaryDirectory() as name:
        path = Path(name)
        made = extract(*folders(path, base, tuned), path / "adapter")
        adapter = SparseAdapter.load(path / "adapter")
        adapter.check()
        for name, one in base.items():
            differs = bits_of(one) != bits_of(tuned[name])
            assert torch.equal(adapter.mask[name].reshape(-1), differs)
            assert adapter.count(name) == int(differs.sum())
            assert adapter.mask.provenance.base_hashes[name] == tensor_hash(one)
            if adapter.count(name):
                assert torch.equal(bits_of(adapter.values(name)), bits_of(tuned[name])[differs])
                assert adapter.result_hashes[name] == tensor_hash(tuned[name])
        assert made.k == made.changed == adapter.count() and not made.lost and not made.rounded
        assert made.numel == sum(one.numel() for one in base.values())


def test_tensors_longer_than_a_piece_are_joined(tmp_path: Path) -> None:
    base = {"a": torch.zeros((1 << 21) + 13, dtype=torch.float16)}
    tuned = {"a": base["a"].clone()}
    where = [0, 7, (1 << 20) - 1, 1 << 20, (1 << 21) - 1, 1 << 21, (1 << 21) + 12]
    tuned["a"][where] = torch.arange(1, 8, dtype=torch.float16)
    extract(*folders(tmp_path, base, tuned), tmp_path / "adapter")
    adapter = SparseAdapter.load(tmp_path / "adapter")
    assert adapter.mask["a"].nonzero().squeeze(1).tolist() == where
    assert adapter.values("a").tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert adapter.result_hashes["a"] == tensor_hash(tuned["a"])


def test_sharding_and_memory_make_no_difference(
    tmp_path: Path, qwen3: Qwen3ForCausalLM, moved: Qwen3ForCausalLM
) -> None:
    qwen3.save_pretrained(tmp_path / "base", max_shard_size="20KB")
    moved.save_pretrained(tmp_path / "tuned", max_shard_size="35KB")
    sources = [(tmp_path / "base", tmp_path / "tuned"), (qwen3, moved), (tmp_path / "base", moved)]
    adapters = []
    for number, (base, tuned) in enumerate(sources):
        known = Provenance(base="b", tuned="t")
        extract(base, tuned, tmp_path / str(number), provenance=known)
        adapters.append((tmp_path / str(number) / "adapter_model.safetensors").read_bytes())
    assert adapters[0] == adapters[1] == adapters[2]


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    base, tuned = folders(tmp_path, *plain())
    for name in "one", "two":
        extract(base, tuned, tmp_path / name, selection=build(density=0.2))
    files = [sorted((tmp_path / name).iterdir()) for name in ("one", "two")]
    assert [path.name for path in files[0]] == ["adapter_config.json", "adapter_model.safetensors"]
    for one, two in zip(*files, strict=True):
        assert one.read_bytes() == two.read_bytes()


def test_a_mask_takes_its_coordinates_and_counts_what_it_loses(tmp_path: Path) -> None:
    base, tuned = plain()
    paths = folders(tmp_path, base, tuned)
    mask = select(paths[0], paths[1], k=6)
    chosen = mask | select(paths[0], selector="random", k=5, seed=3)
    made = extract(*paths, tmp_path / "adapter", mask=chosen)
    adapter = SparseAdapter.load(tmp_path / "adapter")
    assert adapter.mask == chosen and made.k == chosen.count()
    differs = bits_of(base["a"]) != bits_of(tuned["a"])
    lost = differs & ~chosen["a"].reshape(-1)
    assert (made.changed, made.lost, made.rounded) == (10, int(lost.sum()), 0)
    result = with_values(base, adapter)
    assert torch.equal(bits_of(result["a"]) != bits_of(tuned["a"]), lost)
    assert {name: tensor_hash(result[name]) for name in adapter.touched} == adapter.result_hashes


def test_a_mask_may_leave_tensors_uncovered(tmp_path: Path) -> None:
    paths = folders(tmp_path, *plain())
    mask = Mask.from_tensors({"a": torch.ones(8, 5, dtype=torch.bool)})
    made = extract(*paths, tmp_path / "adapter", mask=mask)
    adapter = SparseAdapter.load(tmp_path / "adapter")
    assert made.k == 40 and adapter.names == ["a", "b"] and adapter.touched == ["a"]


def test_a_mask_of_another_base_is_refused(tmp_path: Path) -> None:
    base, tuned = folders(tmp_path, *plain())
    mask = select(tuned, selector="random", k=5)
    with pytest.raises(MaskMismatchError, match="other weights") as refused:
        extract(base, tuned, tmp_path / "adapter", mask=mask)
    assert refused.value.tensors == {"a": "other values"}
    assert not (tmp_path / "adapter").exists()


def test_a_selection_is_made_on_the_spot(tmp_path: Path) -> None:
    paths = folders(tmp_path, *plain())
    for selection in build(k=7), build(selector="random", k=20):
        output = tmp_path / selection.selector
        made = extract(*paths, output, selection=selection)
        compared = paths[1] if selection.selector == "topk" else None
        mask = select(paths[0], compared, selection=selection)
        adapter = SparseAdapter.load(output)
        assert adapter.mask == mask and made.k == selection.k
        assert adapter.mask.provenance.selector == selection.selector
        assert adapter.mask.provenance.settings == mask.provenance.settings
    with pytest.raises(MaskError, match="is a model, and the selector saliency"):
        extract(*paths, tmp_path / "adapter", selection=build(selector="saliency", k=7))


def wide() -> tuple[Tensors, Tensors]:
    """A bf16 base and a float32 sibling: 2 values that bf16 can hold, 3 that it cannot, 4 below it."""
    base = {"a": torch.ones(20, dtype=torch.bfloat16)}
    tuned = {"a": torch.ones(20)}
    tuned["a"][:2] = 3.0
    tuned["a"][2:5] = 0.7
    tuned["a"][5:9] = 1 + 1e-4
    return base, tuned


def test_a_wider_checkpoint_is_rounded_and_counted(tmp_path: Path) -> None:
    base, tuned = wide()
    made = extract(*folders(tmp_path, base, tuned), tmp_path / "adapter")
    adapter = SparseAdapter.load(tmp_path / "adapter")
    assert (made.k, made.changed, made.lost, made.rounded) == (5, 5, 0, 7)
    assert adapter.dtype("a") == torch.bfloat16 and not adapter.has_masters
    result = with_values(base, adapter)["a"]
    assert torch.equal(result, tuned["a"].bfloat16())
    assert int((result.float() != tuned["a"]).sum()) == made.lost + made.rounded


def test_masters_keep_what_moved_below_the_rounding(tmp_path: Path) -> None:
    base, tuned = wide()
    paths = folders(tmp_path, base, tuned)
    made = extract(*paths, tmp_path / "adapter", masters=True)
    adapter = SparseAdapter.load(tmp_path / "adapter")
    assert (made.k, made.changed, made.rounded) == (9, 5, 7) and adapter.has_masters
    masters = adapter.masters("a")
    assert masters is not None and torch.equal(masters, tuned["a"][:9])
    mask = Mask.from_tensors({"a": torch.arange(20) < 4})
    made = extract(*paths, tmp_path / "masked", mask=mask, masters=True)
    masters = SparseAdapter.load(tmp_path / "masked").masters("a")
    assert masters is not None and torch.equal(masters, tuned["a"][:4])
    assert (made.k, made.changed, made.lost, made.rounded) == (4, 5, 1, 6)


def test_a_nan_that_did_not_move_is_no_change(tmp_path: Path) -> None:
    base = {"a": torch.tensor([0x7F81, -1, 0x3F80, 0x3F80]).to(torch.int16).view(torch.bfloat16)}
    tuned = {"a": base["a"].view(torch.int16).to(torch.int32).bitwise_left_shift(16)}
    tuned = {"a": tuned["a"].view(torch.float32).clone()}
    tuned["a"].view(torch.int32)[2] = 2
    made = extract(*folders(tmp_path, base, tuned), tmp_path / "adapter")
    adapter = SparseAdapter.load(tmp_path / "adapter")
    assert (made.k, made.rounded) == (1, 1)
    assert adapter.mask["a"].tolist() == [False, False, True, False]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float8_e4m3fn])
def test_a_narrower_checkpoint_is_cast_up_exactly(tmp_path: Path, dtype: torch.dtype) -> None:
    base = {"a": torch.full((30,), 0.1)}
    tuned = {"a": torch.linspace(-3, 3, 30).to(dtype)}
    made = extract(*folders(tmp_path, base, tuned), tmp_path / "adapter")
    adapter = SparseAdapter.load(tmp_path / "adapter")
    assert (made.k, made.rounded) == (30, 0) and adapter.dtype("a") == torch.float32
    assert torch.equal(adapter.values("a"), tuned["a"].float())


@pytest.mark.parametrize(
    ("tuned", "sentence"),
    [
        ({"a": torch.zeros(3)}, "lacks b"),
        ({"a": torch.zeros(3), "b": torch.zeros(2, 2)}, r"b is \(4,\) in .* and \(2, 2\) in"),
        ({"a": torch.zeros(3), "b": torch.zeros(4), "c": torch.zeros(1)}, "has c, which"),
        ({"a": torch.zeros(3), "b": torch.zeros(4)}, "nothing differs between"),
    ],
)
def test_what_is_no_other_sibling_is_refused_by_name(
    tmp_path: Path, tuned: dict[str, Tensor], sentence: str
) -> None:
    base = {"a": torch.zeros(3), "b": torch.zeros(4)}
    with pytest.raises(AdapterError, match=sentence):
        extract(*folders(tmp_path, base, tuned), tmp_path / "adapter")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "tuned"]


def test_requests_that_contradict_themselves_are_refused(tmp_path: Path) -> None:
    paths = folders(tmp_path, *plain())
    nothing = Mask.from_tensors({"b": torch.ones(6, dtype=torch.bool)})

    def refused(sentence: str, output: Path = tmp_path / "adapter", **options: Any) -> None:
        with pytest.raises((AdapterError, RunFolderError), match=sentence):
            extract(*paths, output, **options)

    refused("leave one out", mask=nothing, selection=build(k=3))
    refused("none of the 10 coordinates that changed", mask=nothing)
    refused("no more precisely", masters=True)
    refused("already holds files", output=paths[0])
    refused("cannot write", output=tmp_path / "absent" / "adapter")
    below = write_folder(
        tmp_path / "below", {n: one.float() + 1e-4 for n, one in plain()[0].items()}
    )
    with pytest.raises(AdapterError, match="only in bits that the base's dtype cannot hold"):
        extract(paths[0], below, tmp_path / "adapter")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "below", "tuned"]


def test_it_says_where_it_came_from(tmp_path: Path) -> None:
    base, tuned = folders(tmp_path, *plain())
    known = Provenance(base="org/model", steps=5)
    extract(base, tuned, tmp_path / "all", provenance=known, teacher="org/teacher")
    adapter = SparseAdapter.load(tmp_path / "all")
    found = adapter.mask.provenance
    assert (found.base, found.tuned, found.steps) == ("org/model", str(tuned), 5)
    assert found.selector == "changed" and adapter.teacher == "org/teacher"
    assert found.stored_in == {"base": ["bfloat16"], "tuned": ["bfloat16"]}
    mask = select(base, tuned, k=4, seed=9)
    extract(base, tuned, tmp_path / "masked", mask=mask)
    by_mask = SparseAdapter.load(tmp_path / "masked").mask.provenance
    assert replace(by_mask, version="") == replace(mask.provenance, version="")


def test_what_is_known_of_the_run_may_be_zero(tmp_path: Path) -> None:
    base, tuned = folders(tmp_path, *plain())
    mask = select(base, tuned, k=4, seed=9)
    mask = Mask(mask.bitmaps, replace(mask.provenance, idle=3, steps=7))
    known = Provenance(seed=0, steps=0)
    extract(base, tuned, tmp_path / "adapter", mask=mask, provenance=known)
    found = SparseAdapter.load(tmp_path / "adapter").mask.provenance
    assert (found.seed, found.steps, found.idle) == (0, 0, 3)
    assert found.selector == mask.provenance.selector


def test_progress_counts_both_sides_once(tmp_path: Path) -> None:
    calls: list[tuple[str, int, int, str]] = []

    def note(stage: str, done: int, total: int, unit: str = "", detail: str = "") -> None:
        calls.append((stage, done, total, unit))

    extract(*folders(tmp_path, *plain()), tmp_path / "adapter", progress=note)
    assert calls == [("extract", 160, 184, "bytes"), ("extract", 184, 184, "bytes")]


def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    base = {"a": torch.zeros(100_000)}
    paths = folders(tmp_path, base, {"a": torch.ones(100_000)})
    with full_disk(1 << 17), pytest.raises(RunFolderError, match=r"cannot write .*adapter"):
        extract(*paths, tmp_path / "adapter")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "tuned"]
