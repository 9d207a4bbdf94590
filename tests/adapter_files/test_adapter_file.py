"""An adapter's file gives back what was written, and anything else is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from sparseopd.adapter_files.adapter import SparseAdapter
from sparseopd.adapter_files.extract import extract
from sparseopd.adapter_files.format import HEADER, WEIGHTS, Entry, Header, checksum
from sparseopd.adapter_files.stored import Facts
from sparseopd.adapter_files.writer import AdapterWriter
from sparseopd.artifacts import Provenance
from sparseopd.errors import AdapterError, AdapterFileError, AdapterMismatchError
from sparseopd.masks.bitmap import Bitmap
from tests.adapter_files.sibling_folders import bits_of, drawn_bits
from tests.conftest import make_qwen3

CHOSEN = {
    "bias": torch.arange(9) % 4 == 1,
    "frozen": torch.zeros(2, 2, dtype=torch.bool),
    "scalar": torch.tensor(True),
    "weight": torch.rand(40, 50, generator=torch.Generator().manual_seed(0)) < 0.1,
}
DTYPES = {"bias": torch.float32, "scalar": torch.float16, "weight": torch.bfloat16}
KNOWN = Provenance(base="org/base", revision="abc", selector="topk", settings={"k": 3}, seed=4)


def values(name: str) -> Tensor:
    return drawn_bits(1, DTYPES[name], (int(CHOSEN[name].sum()),))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapters") / "adapter"
    with AdapterWriter(folder) as writer:
        for name, chosen in CHOSEN.items():
            writer.add(
                name,
                Bitmap.pack(name, chosen),
                values(name) if bool(chosen.any()) else None,
                masters=torch.ones(int(chosen.sum())) if name == "weight" else None,
                base_hash=f"float32:{name}",
                result_hash=f"float32:new-{name}",
            )
        writer.finish(KNOWN, "org/teacher")
    return folder


def read_all(adapter: SparseAdapter) -> list[object]:
    """Return all that an adapter says, so that two can be compared."""
    adapter.check()
    said: list[object] = [adapter.mask.digest(), adapter.mask.provenance, adapter.teacher]
    said += [adapter.result_hashes, adapter.names]
    for name in adapter.touched:
        masters = adapter.masters(name)
        said.append((name, adapter.dtype(name), bits_of(adapter.values(name)).tolist()))
        said.append(None if masters is None else masters.tolist())
    return said


def test_what_was_written_is_read(written: Path) -> None:
    adapter = SparseAdapter.load(written)
    assert adapter.names == list(CHOSEN) and adapter.touched == ["bias", "scalar", "weight"]
    assert all(torch.equal(adapter.mask[name], chosen) for name, chosen in CHOSEN.items())
    for name in adapter.touched:
        assert adapter.dtype(name) == DTYPES[name] and adapter.shape(name) == CHOSEN[name].shape
        assert torch.equal(bits_of(adapter.values(name)), bits_of(values(name)))
    assert adapter.has_masters and adapter.masters("bias") is None
    assert torch.equal(adapter.masters("weight"), torch.ones(adapter.count("weight")))  # pyright: ignore
    assert adapter.result_hashes == {name: f"float32:new-{name}" for name in adapter.touched}
    hashes = adapter.mask.provenance.base_hashes
    assert hashes == {name: f"float32:{name}" for name in CHOSEN}
    assert (adapter.teacher, adapter.mask.provenance.settings) == ("org/teacher", {"k": 3})
    assert adapter.base_state() and adapter.base_state() != adapter.result_state()
    assert [path.name for path in written.parent.iterdir()] == ["adapter"]


def test_the_configuration_names_the_base_for_other_libraries(written: Path) -> None:
    config = json.loads((written / "adapter_config.json").read_text())
    assert config["peft_type"] == "SPARSEOPD" and config["revision"] == "abc"
    assert config["base_model_name_or_path"] == "org/base" and config["save_masters"] is True
    assert config["k"] == SparseAdapter.load(written).count()


def test_a_library_that_keeps_tensors_alone_keeps_the_adapter(
    written: Path, tmp_path: Path
) -> None:
    tensors = load_file(written / WEIGHTS)
    adapter = SparseAdapter.load(written)
    assert read_all(SparseAdapter.from_tensors(tensors, "memory")) == read_all(adapter)
    save_file(tensors, tmp_path / WEIGHTS)
    assert read_all(SparseAdapter.load(tmp_path)) == read_all(adapter)


@given(data=st.data())
@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_every_flipped_bit_is_refused_or_harmless(
    written: Path, tmp_path: Path, data: st.DataObject
) -> None:
    content = bytearray((written / WEIGHTS).read_bytes())
    start = 8 + int.from_bytes(content[:8], "little")
    position = data.draw(st.integers(start, len(content) - 1) | st.integers(0, len(content) - 1))
    content[position] ^= 1 << data.draw(st.integers(0, 7))
    (tmp_path / WEIGHTS).write_bytes(content)
    if position >= start:
        with pytest.raises(AdapterFileError):
            SparseAdapter.load(tmp_path).check()
        return
    try:
        found = read_all(SparseAdapter.load(tmp_path))
    except AdapterFileError:
        return
    assert found == read_all(SparseAdapter.load(written))  # a flip in the padding


@given(st.integers(0, 10**4))
@settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_truncated_files_are_refused(written: Path, tmp_path: Path, length: int) -> None:
    content = (written / WEIGHTS).read_bytes()
    (tmp_path / WEIGHTS).write_bytes(content[: min(length, len(content) - 1)])
    with pytest.raises(AdapterFileError, match="cut short"):
        SparseAdapter.load(tmp_path)


def test_opening_reads_the_header_alone(written: Path) -> None:
    read: list[str] = []
    tensors = load_file(written / WEIGHTS)
    facts: Facts = {key: (one.dtype, tuple(one.shape)) for key, one in tensors.items()}

    def note(key: str) -> Tensor:
        read.append(key)
        return tensors[key]

    adapter = SparseAdapter("memory", facts, note)
    assert adapter.count() == sum(int(chosen.sum()) for chosen in CHOSEN.values())
    assert adapter.mask.count("weight") and adapter.dtype("weight") and adapter.result_state()
    assert read == [HEADER]


def test_files_of_other_kinds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="holds no adapter"):
        SparseAdapter.load(tmp_path)
    save_file({"base_model.model.a.lora_A.weight": torch.zeros(2, 2)}, tmp_path / WEIGHTS)
    with pytest.raises(AdapterFileError, match="sparseopd adapter convert"):
        SparseAdapter.load(tmp_path)
    save_file({HEADER: torch.zeros(9, dtype=torch.uint8)}, tmp_path / WEIGHTS)
    with pytest.raises(AdapterFileError, match="not a whole adapter"):
        SparseAdapter.load(tmp_path)


def test_a_newer_format_is_named(written: Path, tmp_path: Path) -> None:
    tensors = load_file(written / WEIGHTS)
    known = json.loads(tensors[HEADER].numpy().tobytes())
    content = json.dumps({**known, "version": "9"}).encode()
    tensors[HEADER] = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    save_file(tensors, tmp_path / WEIGHTS)
    with pytest.raises(AdapterFileError, match="format 9, and this sparseopd reads format 1"):
        SparseAdapter.load(tmp_path)


def entry(shape: tuple[int, ...] = (8,), count: int = 2, sums: int = 2) -> Header:
    return Header([Entry("a", shape, count, None, None, ("00",) * sums)], Provenance())


def held(**parts: Tensor) -> Callable[[Header], dict[str, Tensor]]:
    """Return what makes a file of a header and of tensors "a.mask", "a.values"…"""
    return lambda header: {HEADER: header.to_tensor(), **{f"a.{k}": v for k, v in parts.items()}}


MASK, VALUES = torch.zeros(10, dtype=torch.uint8), torch.zeros(2)


@pytest.mark.parametrize(
    ("header", "tensors"),
    [
        (entry((2**62, 4)), held(mask=MASK, values=VALUES)),
        (entry((2**40,)), held(mask=MASK, values=VALUES)),
        (entry(count=2**40), held(mask=MASK, values=VALUES)),
        (entry(count=9), held(mask=MASK, values=torch.zeros(9))),
        (entry(count=3), held(mask=MASK, values=VALUES)),
        (entry((10**6,)), held(mask=MASK, values=VALUES)),
        (entry(), held(mask=MASK.float(), values=VALUES)),
        (entry(), held(mask=torch.zeros(10**4, dtype=torch.uint8), values=VALUES)),
        (entry(), held(mask=MASK.reshape(2, 5), values=VALUES)),
        (entry(), held(mask=MASK, values=VALUES.int())),
        (entry(), held(mask=MASK, values=VALUES.reshape(2, 1))),
        (entry(), held(mask=MASK)),
        (entry(), held(values=VALUES)),
        (entry(), held(mask=MASK, values=VALUES, masters=VALUES)),
        (entry(), held(mask=MASK, values=VALUES, more=VALUES)),
        (entry(sums=3), held(mask=MASK, values=VALUES)),
        (entry(sums=3), held(mask=MASK, values=VALUES, masters=VALUES.half())),
        (entry(sums=1), held(mask=MASK, values=VALUES)),
        (entry(count=0), held(mask=MASK, values=VALUES)),
        (entry((-8,)), held(mask=MASK, values=VALUES)),
    ],
)
def test_what_contradicts_the_header_is_refused_before_reading(
    header: Header, tensors: Callable[[Header], dict[str, Tensor]]
) -> None:
    stored = tensors(header)
    facts: Facts = {key: (one.dtype, tuple(one.shape)) for key, one in stored.items()}

    def read_header(key: str) -> Tensor:
        assert key == HEADER, f"{key} was read"
        return stored[key]

    with pytest.raises(AdapterFileError, match=r"inconsistent|not a whole adapter"):
        SparseAdapter("x", facts, read_header)


@pytest.mark.parametrize("shape", [(2**62,), (2**33, 2), (2**40, 2**40)])
def test_an_unchanged_tensor_too_large_to_exist_is_refused_before_reading(
    shape: tuple[int, ...],
) -> None:
    header = entry()
    header.entries.append(Entry("b", shape, 0))
    with pytest.raises(AdapterFileError, match=r"inconsistent: no tensor is as large as b"):
        SparseAdapter.from_tensors(held(mask=MASK, values=VALUES)(header), "x")


def test_a_provenance_of_other_types_is_refused_in_one_line() -> None:
    wrong = Provenance(base=3, seed="x", steps="y")  # pyright: ignore[reportArgumentType]
    header = Header(entry().entries, wrong)
    with pytest.raises(AdapterFileError, match="not a whole adapter") as refused:
        SparseAdapter.from_tensors(held(mask=MASK, values=VALUES)(header), "x")
    assert "\n" not in str(refused.value) and "http" not in str(refused.value)


def test_two_entries_of_one_tensor_are_refused() -> None:
    twice = Header(entry().entries * 2, Provenance())
    stored = held(mask=MASK, values=VALUES)(twice)
    with pytest.raises(AdapterFileError, match="inconsistent"):
        SparseAdapter.from_tensors(stored, "x")


def test_tensors_that_overlap_are_refused(tmp_path: Path, written: Path) -> None:
    content = (written / WEIGHTS).read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    header["bias.values"]["data_offsets"] = header["weight.masters"]["data_offsets"]
    header["bias.values"]["shape"] = header["weight.masters"]["shape"]
    altered = json.dumps(header).encode()
    altered += b" " * (-len(altered) % 8)
    (tmp_path / WEIGHTS).write_bytes(len(altered).to_bytes(8, "little") + altered + content[start:])
    with pytest.raises(AdapterFileError, match="not a safetensors file"):
        SparseAdapter.load(tmp_path)


def test_a_mask_swapped_for_another_valid_one_is_refused(written: Path) -> None:
    tensors = load_file(written / WEIGHTS)
    other = Bitmap.pack("weight", CHOSEN["weight"].flip(0))
    from sparseopd.masks.payload import pack

    tensors["weight.mask"] = torch.from_numpy(pack(other)[0].copy())
    with pytest.raises(AdapterFileError, match=r"inconsistent|damaged in weight"):
        SparseAdapter.from_tensors(tensors, "x").check()


def test_checksums_tell_dtype_and_shape_apart() -> None:
    zeros = torch.zeros(4, dtype=torch.bfloat16)
    assert len({checksum(zeros), checksum(zeros.half()), checksum(zeros.reshape(2, 2))}) == 3


def test_an_adapter_that_would_be_empty_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="would be empty"), AdapterWriter(tmp_path / "a") as one:
        one.add("weight", Bitmap.empty((3,)))
        one.finish(Provenance())
    assert list(tmp_path.iterdir()) == []


def test_a_base_held_in_a_dtype_that_lacks_its_numbers_is_told_so(tmp_path: Path) -> None:
    base, tuned = make_qwen3().bfloat16(), make_qwen3(seed=1).bfloat16()
    extract(base, tuned, tmp_path / "adapter")
    with pytest.raises(AdapterMismatchError, match=r"stored in bfloat16, and .* is in float16"):
        SparseAdapter.load(tmp_path / "adapter").verify(make_qwen3().bfloat16().half())
    with pytest.raises(AdapterMismatchError, match="does not fit"):
        SparseAdapter.load(tmp_path / "adapter").verify(tuned)
