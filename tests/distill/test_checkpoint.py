"""The bit check at the end of a masked run, and writing whole or not at all."""

from __future__ import annotations

import copy
import errno
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Qwen3ForCausalLM

from sparseopd.distill.checkpoint import changed_off_mask, require_lossless, save_checkpoint
from sparseopd.errors import PairError, RunFolderError
from sparseopd.masks import select
from sparseopd.pairs import load_processor
from sparseopd.recipe import Model
from tests.conftest import make_qwen3


def test_one_bit_off_the_mask_is_found(qwen3: Qwen3ForCausalLM, tmp_path: Path) -> None:
    mask = select(qwen3, selector="random", density=0.5)
    trained = copy.deepcopy(qwen3)
    name = "model.layers.1.mlp.up_proj.weight"
    weight = dict(trained.named_parameters())[name]
    inside, outside = (torch.nonzero(flags)[0].tolist() for flags in (mask[name], ~mask[name]))
    with torch.no_grad():
        weight[inside[0], inside[1]] += 1
        trained.save_pretrained(tmp_path / "inside")
        weight[outside[0], outside[1]] = torch.nextafter(
            weight[outside[0], outside[1]], torch.tensor(9.0)
        )
        trained.save_pretrained(tmp_path / "outside")
    assert changed_off_mask(qwen3, tmp_path / "inside", mask) == []
    assert changed_off_mask(qwen3, tmp_path / "outside", mask) == [name]


def test_a_sign_of_zero_counts(qwen3: Qwen3ForCausalLM, tmp_path: Path) -> None:
    with torch.no_grad():
        qwen3.model.norm.weight[0] = 0.0
    trained = copy.deepcopy(qwen3)
    mask = select(qwen3, selector="random", density=0.5, scope=["*.mlp.*"])
    with torch.no_grad():
        trained.model.norm.weight[0] = -0.0
    trained.save_pretrained(tmp_path)
    assert changed_off_mask(qwen3, tmp_path, mask) == ["model.norm.weight"]


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    model = make_qwen3()
    monkeypatch.setattr(type(model), "save_pretrained", full)
    processor = load_processor(Model(path="bundled:tiny-arithmetic/student"))
    with pytest.raises(RunFolderError, match=r"cannot write .*checkpoint.*No space left on device"):
        save_checkpoint(model, processor, tmp_path / "checkpoint", torch.float32)
    assert list(tmp_path.iterdir()) == []


def test_dtypes_that_round_the_source_are_refused(tmp_path: Path) -> None:
    model = make_qwen3().to(torch.bfloat16)
    model.save_pretrained(tmp_path)
    require_lossless(tmp_path, torch.float32, torch.bfloat16)
    with pytest.raises(
        PairError, match=r"rounded to torch\.float16.*set student\.dtype to float32"
    ):
        require_lossless(tmp_path, torch.float16, torch.bfloat16)
    make_qwen3().save_pretrained(tmp_path)
    with pytest.raises(
        PairError, match=r"rounded to torch\.bfloat16.*set train\.save_dtype to float32"
    ):
        require_lossless(tmp_path, torch.float32, torch.bfloat16)
