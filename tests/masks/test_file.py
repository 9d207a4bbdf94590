"""A mask file holds the mask, and anything else is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from sparseopd.artifacts import Provenance
from sparseopd.errors import MaskFileError
from sparseopd.masks import Mask
from tests.masks.test_mask import drawn


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("masks") / "mask.safetensors"
    mask = drawn(0)
    Mask({name: mask._bitmaps[name] for name in mask.names}, Provenance(base="b", seed=3)).save(
        path
    )
    return path


def test_round_trip(written: Path, tmp_path: Path) -> None:
    mask = Mask.load(written)
    assert mask == drawn(0) and mask.provenance == Provenance(base="b", seed=3)
    mask.save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == written.read_bytes()
    assert list(tmp_path.iterdir()) == [tmp_path / "again.safetensors"]  # no temporary is left


@given(data=st.data())
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_every_flipped_bit_is_refused_or_harmless(
    written: Path, tmp_path: Path, data: st.DataObject
) -> None:
    content = bytearray(written.read_bytes())
    position = data.draw(st.integers(0, len(content) - 1))
    content[position] ^= 1 << data.draw(st.integers(0, 7))
    path = tmp_path / "flipped.safetensors"
    path.write_bytes(content)
    start = 8 + int.from_bytes(written.read_bytes()[:8], "little")
    if position >= start:
        with pytest.raises(MaskFileError):
            Mask.load(path)
        return
    try:
        loaded = Mask.load(path)
    except MaskFileError:
        return
    assert loaded == drawn(0)  # a flip in the provenance alone


@given(st.integers(0, 4000))
@settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_truncated_files_are_refused(written: Path, tmp_path: Path, length: int) -> None:
    content = written.read_bytes()
    path = tmp_path / "cut.safetensors"
    path.write_bytes(content[: min(length, len(content) - 1)])
    with pytest.raises(MaskFileError, match=r"cut\.safetensors"):
        Mask.load(path)


def test_foreign_and_newer_files(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    with pytest.raises(MaskFileError, match="there is no mask file"):
        Mask.load(path)
    save_file({"a": np.zeros(1, np.uint8)}, path)
    with pytest.raises(MaskFileError, match="not a mask"):
        Mask.load(path)
    save_file({"a": np.zeros(1, np.uint8)}, path, {"format": "sparseopd-mask", "version": "9"})
    with pytest.raises(MaskFileError, match="format 9"):
        Mask.load(path)


@pytest.mark.parametrize(
    "shape, count", [([9], 0), ([-1, -8], 0), ([2**62, 4], 0), ([8], 1), (["x"], 0)]
)
def test_inconsistent_headers_are_refused_before_reading(
    tmp_path: Path, shape: list, count: int
) -> None:
    path = tmp_path / "x.safetensors"
    tensors = {"a": {"shape": shape, "count": count, "checksum": "00"}}
    metadata = {
        "format": "sparseopd-mask",
        "version": "1",
        "tensors": json.dumps(tensors),
        "provenance": "{}",
    }
    save_file({"a": np.zeros(1, np.uint8)}, path, metadata)
    with pytest.raises(MaskFileError, match=r"inconsistent|damaged"):
        Mask.load(path)


def test_an_unwritable_folder_is_one_sentence(tmp_path: Path) -> None:
    from sparseopd.errors import RunFolderError

    with pytest.raises(RunFolderError, match="cannot write"):
        drawn(0).save(tmp_path / "absent" / "mask.safetensors")


def test_files_are_one_bit_a_coordinate(tmp_path: Path) -> None:
    Mask.from_tensors({"a": torch.ones(80_000, dtype=torch.bool)}).save(tmp_path / "m")
    assert (tmp_path / "m").stat().st_size < 10_000 + 1_000
