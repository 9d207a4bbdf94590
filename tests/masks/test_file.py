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
from sparseopd.masks.file import FORMAT, VERSION, _header_checksum, write
from tests.masks.test_mask import drawn


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("masks") / "mask.safetensors"
    mask = drawn(0)
    Mask(mask.bitmaps, Provenance(base="b", seed=3)).save(path)
    return path


def test_round_trip(written: Path, tmp_path: Path) -> None:
    mask = Mask.load(written)
    assert mask == drawn(0) and mask.provenance == Provenance(base="b", seed=3)
    mask.save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == written.read_bytes()
    assert list(tmp_path.iterdir()) == [tmp_path / "again.safetensors"]  # no temporary is left


@given(data=st.data())
@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_every_flipped_bit_is_refused_or_harmless(
    written: Path, tmp_path: Path, data: st.DataObject
) -> None:
    content = bytearray(written.read_bytes())
    start = 8 + int.from_bytes(content[:8], "little")
    whole = st.integers(0, len(content) - 1)
    position = data.draw(st.integers(start, len(content) - 1) | whole)
    content[position] ^= 1 << data.draw(st.integers(0, 7))
    path = tmp_path / "flipped.safetensors"
    path.write_bytes(content)
    if position >= start:
        with pytest.raises(MaskFileError, match="is damaged in"):
            Mask.load(path).digest()
        return
    try:
        assert Mask.load(path) == drawn(0)  # a flip in the padding
    except MaskFileError:
        return


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
    "row",
    [
        [[9], 0, "00"],
        [[-1, -8], 0, "00"],
        [[2**62, 4], 0, "00"],
        [[8], 9, "00"],
        [["x"], 0, "00"],
        [[8.0], 0, "00"],
        [[8], True, "00"],
        [[8], 0, 7],
        [[8], 0],
        "x",
        7,
    ],
)
def test_inconsistent_headers_are_refused_before_reading(tmp_path: Path, row: object) -> None:
    path = tmp_path / "x.safetensors"
    metadata = {
        "format": "sparseopd-mask",
        "version": "2",
        "tensors": json.dumps([row]),
        "provenance": "{}",
        "checksum": _header_checksum(["a"], json.dumps([row]), "{}"),
    }
    save_file({"a": np.zeros(8, np.uint8)}, path, metadata)
    with pytest.raises(MaskFileError, match=r"inconsistent|damaged"):
        Mask.load(path)


@pytest.mark.parametrize(
    "provenance",
    ['{"settings": 5}', '{"stability": "x"}', '{"base": 5}', '{"what": 1}', "[]", "7", "{"],
)
def test_a_provenance_of_other_types_is_refused(tmp_path: Path, provenance: str) -> None:
    path, rows = tmp_path / "x.safetensors", json.dumps([[[0], 0, "00"]])
    metadata = {
        "format": "sparseopd-mask",
        "version": "2",
        "tensors": rows,
        "provenance": provenance,
        "checksum": _header_checksum(["a"], rows, provenance),
    }
    save_file({"a": np.zeros(0, np.uint8)}, path, metadata)
    with pytest.raises(MaskFileError, match="damaged header"):
        Mask.load(path)


def test_any_text_in_the_provenance_is_kept(tmp_path: Path) -> None:
    known = Provenance(base="modèle ← 模型", settings={"include": ["*.é"], "density": 0.1})
    Mask(drawn(0).bitmaps, known).save(tmp_path / "m")
    assert Mask.load(tmp_path / "m").provenance == known


def test_an_unwritable_folder_is_one_sentence(tmp_path: Path) -> None:
    from sparseopd.errors import RunFolderError

    with pytest.raises(RunFolderError, match="cannot write"):
        drawn(0).save(tmp_path / "absent" / "mask.safetensors")


def test_opening_reads_the_header_alone(written: Path, tmp_path: Path) -> None:
    content = bytearray(written.read_bytes())
    content[-1] ^= 1  # in the payload of "scalar", the last
    path = tmp_path / "altered.safetensors"
    path.write_bytes(content)
    mask = Mask.load(path)
    assert mask.count() == drawn(0).count() and mask.shape("a") == (3, 5)
    assert torch.equal(mask["expert"], drawn(0)["expert"])
    with pytest.raises(MaskFileError, match="damaged in scalar"):
        mask["scalar"]


def test_nothing_is_written_of_an_empty_mask_if_so_asked(tmp_path: Path) -> None:
    from sparseopd.errors import MaskError

    nothing = drawn(0) - drawn(0)
    with pytest.raises(MaskError, match="none at all"):
        write(tmp_path / "m", nothing.bitmaps, Provenance(), if_empty="none at all")
    assert list(tmp_path.iterdir()) == []
    nothing.save(tmp_path / "m")
    assert Mask.load(tmp_path / "m").count() == 0


def test_the_specification_names_this_format() -> None:
    text = (Path(__file__).parents[2] / "docs" / "mask-file.md").read_text()
    assert f'"{FORMAT}"' in text and f'"{VERSION}"' in text
