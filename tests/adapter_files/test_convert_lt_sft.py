"""LT-SFT's pickles are read as LT-SFT applies them, and nothing in them is ever run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sparseopd.adapter_files.adapter import SparseAdapter
from sparseopd.adapter_files.convert import detect, import_
from sparseopd.errors import AdapterError, AdapterFileError, AdapterMismatchError
from tests.adapter_files.converting import bits
from tests.masks.held import Held

SHAPES = {"encoder.a.weight": (6, 4), "encoder.b.bias": (5,), "encoder.c.weight": (2, 3, 4)}


def base_of(dtype: torch.dtype) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(shape, generator=generator).to(dtype) for name, shape in SHAPES.items()
    }


def diffs_of(seed: int = 1) -> dict[str, Tensor]:
    """Sparse differences, of which some are too small for half precision."""
    generator = torch.Generator().manual_seed(seed)
    made = {}
    for name, shape in SHAPES.items():
        dense = torch.randn(shape, generator=generator)
        dense *= 10 ** -(torch.rand(shape, generator=generator) * 6)
        made[name] = dense * (torch.rand(shape, generator=generator) < 0.5)
    return made


def encoded(dense: Tensor) -> dict[str, Any]:
    """As SFT.save writes it: gaps between ascending column-major positions, the first a numpy number."""
    columns_first = dense.permute(*reversed(range(dense.ndim))).reshape(-1)
    positions = columns_first.nonzero().squeeze(1).numpy()
    steps = [positions[0], *np.diff(positions).tolist()]
    return {"size": dense.size(), "index_steps": steps, "values": columns_first[positions]}


def saved(folder: Path, content: Any) -> Path:
    torch.save(content, folder / "pytorch_diff.bin")
    return folder


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("prefix", ["", "bert."])
def test_it_adds_what_lt_sft_adds(dtype: torch.dtype, prefix: str, tmp_path: Path) -> None:
    base, diffs = base_of(dtype), diffs_of()
    whole = torch.full((5,), 0.3)
    content = {
        "diffs": {f"{prefix}{name}": encoded(one) for name, one in diffs.items()},
        "abs": {f"{prefix}encoder.b.bias": whole, "head.weight": torch.ones(7, 2)},
    }
    source = saved(tmp_path, content)
    assert detect(source) == "lt-sft"
    converted = import_(source, Held(base), tmp_path / "adapter")
    adapter = SparseAdapter.load(tmp_path / "adapter")
    after = {name: one + diffs[name].to_sparse() for name, one in base.items()}
    after["encoder.b.bias"] = whole
    for name, before in base.items():
        ours, theirs = before.clone(), after[name].to(dtype)
        ours[adapter.mask[name]] = adapter.values(name)
        assert torch.equal(bits(ours), bits(theirs))
        assert torch.equal(adapter.mask[name], bits(theirs) != bits(before))
    assert "1 tensors that were trained whole, with 14 values" in converted.losses[0]
    listed = (
        sum(int(diffs[name].count_nonzero()) for name in (*SHAPES,) if "b.bias" not in name) + 5
    )
    left_out = listed - adapter.count()
    assert [f"{left_out:,} of {listed:,} values" in one for one in converted.losses[1:]] == (
        [True] if left_out else []
    )


def test_only_the_file_may_be_given(tmp_path: Path) -> None:
    saved(tmp_path, {"diffs": {name: encoded(one) for name, one in diffs_of().items()}, "abs": {}})
    file = tmp_path / "pytorch_diff.bin"
    converted = import_(file, Held(base_of(torch.float32)), tmp_path / "adapter")
    assert converted.format == "lt-sft" and converted.k > 0


class Runs:
    """Would make a folder while it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (self.path,)


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    source = saved(tmp_path, {"diffs": {"a": Runs(str(trap))}, "abs": {}})
    with pytest.raises(
        AdapterFileError, match=r"asks for \w+\.mkdir, which could run code"
    ) as caught:
        import_(source, Held(base_of(torch.float32)), tmp_path / "adapter")
    assert "weights_only" not in str(caught.value)
    assert not trap.exists()


def test_code_in_a_pickle_of_before_archives_is_refused_without_torchs_advice(
    tmp_path: Path,
) -> None:
    trap = tmp_path / "trap"
    content = {"diffs": {"a": Runs(str(trap))}, "abs": {}}
    file = tmp_path / "pytorch_diff.bin"
    torch.save(content, file, _use_new_zipfile_serialization=False)
    with pytest.raises(AdapterFileError, match=r"no file that torch\.save wrote") as caught:
        import_(tmp_path, Held(base_of(torch.float32)), tmp_path / "adapter")
    assert "weights_only" not in str(caught.value)
    assert not trap.exists()


@pytest.mark.parametrize("content", [b"", b"hello, this is no pickle", b"PK\x03\x04"])
def test_what_is_no_pickle_is_called_damaged(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "pytorch_diff.bin").write_bytes(content)
    with pytest.raises(AdapterFileError, match="damaged") as caught:
        import_(tmp_path, Held(base_of(torch.float32)), tmp_path / "adapter")
    assert "weights_only" not in str(caught.value)


def test_a_missing_file_is_told_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(AdapterFileError, match=r"there is no file .*pytorch_diff\.bin"):
        import_(tmp_path, Held(base_of(torch.float32)), tmp_path / "adapter", "lt-sft")


@pytest.mark.parametrize("parts", [("diffs", "diffs"), ("abs", "abs"), ("diffs", "abs")])
def test_two_names_of_one_tensor_are_refused(parts: tuple[str, str], tmp_path: Path) -> None:
    content: dict[str, Any] = {"diffs": {}, "abs": {}}
    for part, name in zip(parts, ("bert.encoder.a.weight", "encoder.a.weight"), strict=True):
        content[part][name] = GOOD if part == "diffs" else torch.ones(6, 4)
    source = saved(tmp_path, content)
    with pytest.raises(
        AdapterFileError,
        match=r"has bert\.encoder\.a\.weight and encoder\.a\.weight, which are both encoder",
    ):
        import_(source, Held(base_of(torch.float32)), tmp_path / "adapter")


GOOD = encoded(diffs_of()["encoder.a.weight"])


@pytest.mark.parametrize(
    "content, error, sentence",
    [
        ({"body": {}, "head": {}}, AdapterError, "body, head"),
        ([1], AdapterError, "list"),
        ({}, AdapterError, "nothing"),
        ({"diffs": {"encoder.a.weight": {"size": [6, 4]}}}, AdapterFileError, "index_steps"),
        (
            {"diffs": {"encoder.a.weight": GOOD | {"index_steps": [30]}}},
            AdapterFileError,
            "inconsistent in encoder.a.weight",
        ),
        (
            {"diffs": {"encoder.a.weight": GOOD | {"values": torch.ones(2)}}},
            AdapterFileError,
            "and other values",
        ),
        *[
            ({"diffs": {"encoder.a.weight": GOOD | part}}, AdapterFileError, sentence)
            for part, sentence in (
                ({"size": [6.5, 4]}, "inconsistent in encoder.a.weight"),
                ({"size": 24}, "inconsistent in encoder.a.weight"),
                ({"size": ["6", 4]}, "inconsistent in encoder.a.weight"),
                ({"size": [-6, 4]}, "inconsistent in encoder.a.weight"),
                ({"index_steps": [1.5]}, "inconsistent in encoder.a.weight"),
                ({"index_steps": 3}, "inconsistent in encoder.a.weight"),
                ({"index_steps": [2**70]}, "inconsistent in encoder.a.weight"),
                ({"values": GOOD["values"].to(torch.complex64)}, "torch.complex64, which is no"),
                ({"values": GOOD["values"].long()}, "torch.int64, which is no real"),
                ({"values": GOOD["values"].to("meta")}, "values of encoder.a.weight as a dense"),
                ({"values": GOOD["values"].to(torch.float8_e4m3fn)}, "not of 16 bits or more"),
                ({"values": [1.0]}, "as a dense tensor"),
            )
        ],
        ({"diffs": {3: GOOD}}, AdapterFileError, "calls a tensor 3, which is no text"),
        ({"abs": {(): torch.ones(5)}}, AdapterFileError, r"calls a tensor \(\)"),
        (
            {"abs": {"encoder.b.bias": torch.ones(5, dtype=torch.complex64)}},
            AdapterFileError,
            "torch.complex64, which is no real",
        ),
        (
            {"abs": {"encoder.b.bias": torch.ones(5, device="meta")}},
            AdapterFileError,
            "as a dense tensor",
        ),
        ({"diffs": {"a.weight.x": GOOD}}, AdapterMismatchError, "changes a.weight.x, which"),
        ({"diffs": {"encoder.b.bias": GOOD}}, AdapterMismatchError, r"\(5,\) instead of \(6, 4\)"),
        ({"abs": {"encoder.b.bias": torch.ones(3)}}, AdapterMismatchError, r"instead of \(3,\)"),
        ({"abs": {"encoder.b.bias": [1.0]}}, AdapterFileError, "as a dense tensor"),
        ({"abs": {"elsewhere": torch.ones(3)}}, AdapterError, "would be empty"),
    ],
)
def test_what_does_not_fit_is_refused(
    content: Any, error: type[AdapterError], sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=sentence):
        import_(saved(tmp_path, content), Held(base_of(torch.float32)), tmp_path / "adapter")


def test_a_file_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    saved(tmp_path, {"diffs": {"encoder.a.weight": GOOD}})
    file = tmp_path / "pytorch_diff.bin"
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(AdapterFileError, match="is damaged or cut short: fetch it again"):
        import_(tmp_path, Held(base_of(torch.float32)), tmp_path / "adapter")
