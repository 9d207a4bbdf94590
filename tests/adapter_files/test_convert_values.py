"""COO files and vLLM patches hold new values: they lose nothing, or say what."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from sparseopd.adapter_files.adapter import SparseAdapter
from sparseopd.adapter_files.convert import detect, export, import_, vllm_patch
from sparseopd.adapter_files.writer import AdapterWriter
from sparseopd.artifacts import Provenance
from sparseopd.errors import AdapterError, AdapterFileError, AdapterMismatchError
from sparseopd.masks.bitmap import Bitmap
from tests.adapter_files.converting import bits
from tests.masks.held import Held

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SHAPES = [(), (1,), (7,), (3, 5), (16, 9), (2, 3, 4)]


def base_of(seed: int) -> dict[str, Tensor]:
    """Tensors of many shapes and dtypes, with NaN, −0.0 and infinities among them."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for place, shape in enumerate(SHAPES):
        kind = {2: torch.int16, 4: torch.int32}[DTYPES[place % 3].itemsize]
        limits = torch.iinfo(kind)
        drawn = torch.randint(limits.min, limits.max, shape, generator=generator, dtype=kind)
        tensors[f"layer.{place}.weight"] = drawn.view(DTYPES[place % 3])
    return tensors


def written(folder: Path, base: dict[str, Tensor], seed: int, density: float) -> SparseAdapter:
    """An adapter with random bits at random coordinates of each tensor, at one at least."""
    generator = torch.Generator().manual_seed(seed)
    new = base_of(seed + 1)
    with AdapterWriter(folder) as writer:
        for place, (name, before) in enumerate(sorted(base.items())):
            chosen = torch.rand(before.shape, generator=generator) < density
            chosen.view(-1)[:1] |= place == 3
            bitmap = Bitmap.pack(name, chosen)
            values = bits(new[name])[chosen].view(before.dtype)
            writer.add(name, bitmap, values if bitmap.count else None)
        writer.finish(Provenance())
    return SparseAdapter.load(folder)


def same(ours: SparseAdapter, theirs: SparseAdapter) -> bool:
    return ours.mask == theirs.mask and all(
        torch.equal(bits(ours.values(name)), bits(theirs.values(name))) for name in ours.touched
    )


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), density=st.sampled_from([0.0, 0.1, 0.5, 1.0]))
def test_coo_returns_the_same_adapter(seed: int, density: float) -> None:
    with tempfile.TemporaryDirectory() as made:
        folder, base = Path(made), base_of(seed)
        adapter = written(folder / "adapter", base, seed, density)
        there = export(adapter, None, folder / "coo", "coo")
        back = import_(folder / "coo", Held(base), folder / "back")
        assert there.losses == back.losses == []
        assert there.k == back.k == adapter.count()
        assert same(adapter, SparseAdapter.load(folder / "back"))


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), density=st.sampled_from([0.1, 0.5, 1.0]))
def test_a_patch_returns_all_values_that_are_numbers(seed: int, density: float) -> None:
    with tempfile.TemporaryDirectory() as made:
        folder, base = Path(made), base_of(seed)
        adapter = written(folder / "adapter", base, seed, density)
        nan = sum(int(adapter.values(name).isnan().sum()) for name in adapter.touched)
        there = export(adapter, None, folder / "patch", "vllm-patch")
        back = import_(folder / "patch", Held(base), folder / "back")
        assert there.k == back.k == adapter.count() - nan
        assert (f"{nan:,} of {adapter.count():,} values" in "".join(there.losses)) == (nan > 0)
        again = SparseAdapter.load(folder / "back")
        for name in again.touched:
            numbers = ~adapter.values(name).isnan()
            where = adapter.mask[name].reshape(-1).nonzero().squeeze(1)[numbers]
            assert torch.equal(again.mask[name].reshape(-1).nonzero().squeeze(1), where)
            kept = bits(adapter.values(name))[numbers]
            assert torch.equal(bits(again.values(name)), kept)


def test_coo_is_what_torch_calls_a_sparse_tensor(tmp_path: Path) -> None:
    base = base_of(0)
    adapter = written(tmp_path / "adapter", base, 0, 0.4)
    export(adapter, None, tmp_path / "coo", "coo")
    stored = load_file(tmp_path / "coo" / "coo.safetensors")
    name = "layer.5.weight"
    indices, values, shape = (stored[f"{name}.{part}"] for part in ("indices", "values", "shape"))
    sparse = torch.sparse_coo_tensor(
        indices, values, tuple(shape.tolist()), is_coalesced=True, check_invariants=True
    )
    expected = torch.zeros(shape.tolist(), dtype=base[name].dtype)
    expected[adapter.mask[name]] = adapter.values(name)
    assert torch.equal(sparse.to_dense().nan_to_num(), expected.nan_to_num())
    assert indices.dtype == shape.dtype == torch.int64


def test_a_patch_satisfies_what_vllm_checks(tmp_path: Path) -> None:
    """As `load_checkpoint_weight_patches` does: int32, 1-D, in range, distinct, never NaN."""
    base = base_of(0)
    export(written(tmp_path / "adapter", base, 0, 0.5), None, tmp_path / "patch", "vllm-patch")
    with safe_open(tmp_path / "patch" / "patch.safetensors", "pt") as file:
        shapes = json.loads(file.metadata()["shapes"])
        for name, shape in shapes.items():
            indices, values = (file.get_tensor(f"{name}.{part}") for part in ("indices", "values"))
            assert indices.dtype == torch.int32 and indices.shape == values.shape
            assert values.dtype == base[name].dtype and tuple(shape) == base[name].shape
            assert bool((indices.diff() > 0).all()) and not values.isnan().any()
            assert (
                len(indices) and int(indices.min()) >= 0 and int(indices.max()) < base[name].numel()
            )


def test_a_patch_refuses_a_tensor_beyond_int32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = written(tmp_path / "adapter", base_of(0), 0, 1.0)
    monkeypatch.setattr(vllm_patch, "LARGEST", 100)
    with pytest.raises(AdapterError, match=r"layer\.4\.weight has 144 coordinates.*coo"):
        export(adapter, None, tmp_path / "patch", "vllm-patch")
    assert not (tmp_path / "patch").exists()


def test_a_patch_of_nothing_but_nan_is_refused(tmp_path: Path) -> None:
    with AdapterWriter(tmp_path / "adapter") as writer:
        chosen = Bitmap.pack("a", torch.ones(2, dtype=torch.bool))
        writer.add("a", chosen, torch.full((2,), torch.nan))
        writer.finish(Provenance())
    with pytest.raises(AdapterError, match="all values"):
        export(SparseAdapter.load(tmp_path / "adapter"), None, tmp_path / "patch", "vllm-patch")


PATCH = {
    "a.indices": torch.tensor([5, 0, 3], dtype=torch.int32),
    "a.values": torch.tensor([1.0, 2.0, float("nan")]),
}
BASE = {"a": torch.zeros(2, 3), "b": torch.zeros(2)}


def imported_patch(
    folder: Path, tensors: dict[str, Tensor], shapes: object = {"a": [2, 3]}
) -> SparseAdapter:
    metadata = {"format": "vllm-sparse-patch", "shapes": json.dumps(shapes)}
    save_file(tensors, folder / "any.safetensors", metadata)
    return SparseAdapter.load(import_(folder / "any.safetensors", Held(BASE), folder / "a").folder)


def test_a_foreign_patch_may_be_unordered_and_say_unchanged(tmp_path: Path) -> None:
    adapter = imported_patch(tmp_path, PATCH)
    assert adapter.mask["a"].tolist() == [[True, False, False], [False, False, True]]
    assert adapter.values("a").tolist() == [2.0, 1.0]
    assert adapter.count("b") == 0


def test_values_wider_than_the_base_are_rounded_and_counted(tmp_path: Path) -> None:
    save_file(PATCH, tmp_path / "f", {"format": "vllm-sparse-patch", "shapes": '{"a": [2, 3]}'})
    stored = load_file(tmp_path / "f") | {"a.values": torch.tensor([1.0, 1 + 2**-20, torch.nan])}
    save_file(stored, tmp_path / "f", {"format": "vllm-sparse-patch", "shapes": '{"a": [2, 3]}'})
    base = {name: one.bfloat16() for name, one in BASE.items()}
    converted = import_(tmp_path / "f", Held(base), tmp_path / "a")
    assert converted.losses == [
        "1 of 3 values (33.3 %) are NaN, which means unchanged",
        "1 of 2 values (50 %) are rounded to bfloat16, the base's dtype",
    ]
    assert SparseAdapter.load(tmp_path / "a").dtype("a") == torch.bfloat16


@pytest.mark.parametrize(
    "changed, shapes, error, sentence",
    [
        ({"a.indices": torch.tensor([0, 1, 6])}, {"a": [2, 3]}, AdapterFileError, "outside its 6"),
        ({"a.indices": torch.tensor([0, 1, -1])}, {"a": [2, 3]}, AdapterFileError, "outside"),
        ({"a.indices": torch.tensor([0, 1, 1])}, {"a": [2, 3]}, AdapterFileError, "more than once"),
        (
            {"a.indices": torch.ones(3)},
            {"a": [2, 3]},
            AdapterFileError,
            "positions of torch.float32",
        ),
        ({"a.indices": torch.tensor([0])}, {"a": [2, 3]}, AdapterFileError, "inconsistent"),
        ({"a.values": torch.tensor([1, 2, 3])}, {"a": [2, 3]}, AdapterFileError, "torch.int64"),
        ({"a.other": torch.ones(1)}, {"a": [2, 3]}, AdapterFileError, "has a.other"),
        ({}, {"a": [3, 2]}, AdapterMismatchError, r"a is \(2, 3\) instead of \(3, 2\)"),
        ({}, {"c": [2, 3]}, AdapterFileError, "shapes of other tensors"),
        ({}, [1], AdapterFileError, "does not say"),
    ],
)
def test_a_damaged_or_foreign_patch_is_refused(
    changed: dict[str, Tensor],
    shapes: object,
    error: type[AdapterError],
    sentence: str,
    tmp_path: Path,
) -> None:
    with pytest.raises(error, match=sentence):
        imported_patch(tmp_path, PATCH | changed, shapes)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    "changed, sentence",
    [
        ({"a.indices": torch.tensor([[2], [0]])}, "outside its shape"),
        ({"a.indices": torch.tensor([[0]])}, "outside its shape"),
        ({"a.shape": torch.tensor([[2, 3]])}, "has no shape"),
        ({"b.values": torch.ones(1)}, "lacks b.indices"),
    ],
)
def test_a_damaged_coo_file_is_refused(
    changed: dict[str, Tensor], sentence: str, tmp_path: Path
) -> None:
    whole = {
        "a.indices": torch.tensor([[1], [2]]),
        "a.values": torch.ones(1),
        "a.shape": torch.tensor([2, 3]),
    }
    save_file(whole | changed, tmp_path / "coo.safetensors", {"format": "coo"})
    with pytest.raises(AdapterFileError, match=sentence):
        import_(tmp_path, Held(BASE), tmp_path / "adapter")


def test_files_are_recognised_by_their_metadata(tmp_path: Path) -> None:
    adapter = written(tmp_path / "adapter", base_of(0), 0, 0.5)
    for format in ("coo", "vllm-patch"):
        folder = export(adapter, None, tmp_path / format, format).folder
        assert detect(folder) == detect(next(folder.iterdir())) == format
    assert detect(tmp_path / "adapter") == "sparse"
    save_file({"a": torch.ones(1)}, tmp_path / "x.safetensors")
    with pytest.raises(AdapterError, match="no known format"):
        detect(tmp_path / "x.safetensors")
