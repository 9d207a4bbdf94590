"""Formats that are named wrongly, files given for folders, and what an export reports as it goes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sparseopd.adapter_conversion import convert
from sparseopd.adapter_files.convert import detect, export, import_
from sparseopd.errors import AdapterError, RequestError
from tests.adapter_files.converting import Trio, contents, sparse_tuned
from tests.conftest import make_qwen3


@pytest.fixture(scope="module")
def trio(tmp_path_factory: pytest.TempPathFactory) -> Trio:
    return sparse_tuned(tmp_path_factory.mktemp("trio"), make_qwen3(), torch.bfloat16)


@pytest.fixture(scope="module")
def foreign(trio: Trio, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("foreign") / "supertuning"
    return export(trio.open(), trio.base, folder, "supertuning").folder


class Heard:
    """Keeps what was reported."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int, int, str]] = []

    def __call__(self, stage: str, done: int, total: int, unit: str = "", detail: str = "") -> None:
        self.calls.append((stage, done, total, unit))


@pytest.mark.parametrize("format", ["shira", "supertuning", "lora", "coo", "vllm-patch"])
def test_an_export_reports_bytes_up_to_their_total(trio: Trio, format: str, tmp_path: Path) -> None:
    heard, adapter = Heard(), trio.open()
    export(adapter, trio.base, tmp_path / "out", format, progress=heard)
    base = contents(trio.base)
    total = (
        2 * adapter.count()
        if format in ("coo", "vllm-patch")
        else sum(one.nbytes for name, one in base.items() if "proj" in name)
    )
    done = [call[1] for call in heard.calls]
    assert {(stage, whole, unit) for stage, _, whole, unit in heard.calls} == {
        ("export", total, "bytes")
    }
    assert done == sorted(done) and done[-1] == total


def test_a_foreign_adapter_is_not_called_one_of_ours(
    trio: Trio, foreign: Path, tmp_path: Path
) -> None:
    with pytest.raises(RequestError, match="is of the format supertuning, not sparse"):
        convert(str(foreign), tmp_path / "out", format="sparse", base=str(trio.base))
    with pytest.raises(AdapterError, match="is of the format supertuning, not sparse"):
        import_(foreign, trio.base, tmp_path / "out", "sparse")


def test_an_adapter_of_ours_is_not_read_as_another(trio: Trio, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="is of the format sparse, not coo: give --from sparse"):
        convert(str(trio.adapter), tmp_path / "out", format="coo", base=str(trio.base))


@pytest.mark.parametrize("format", [None, "sparse"])
@pytest.mark.parametrize("file", ["adapter_model.safetensors", "adapter_config.json"])
def test_a_file_of_an_adapter_is_answered_with_its_folder(
    trio: Trio, foreign: Path, file: str, format: str | None, tmp_path: Path
) -> None:
    for folder in (trio.adapter, foreign):
        with pytest.raises(AdapterError, match="give the folder that holds it") as caught:
            convert(str(folder / file), tmp_path / "out", format=format, to="coo")
        assert str(caught.value).endswith(str(folder))


def test_the_weights_of_an_adapter_alone_are_known_by_their_header(
    trio: Trio, tmp_path: Path
) -> None:
    alone = tmp_path / "renamed.safetensors"
    alone.write_bytes((trio.adapter / "adapter_model.safetensors").read_bytes())
    with pytest.raises(AdapterError, match="give the folder"):
        detect(alone)
