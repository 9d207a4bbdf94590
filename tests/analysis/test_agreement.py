"""Agreement is counted over all coordinates, in fp32, piece by piece."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

import pytest
import torch
from torch import nn

from sparseopd.analysis.agreement import agreement, agreements
from sparseopd.pairs import open_tensors
from sparseopd.pairs.tensors import pieces
from tests.conftest import make_qwen3
from tests.masks.held import Held


def test_counts_by_hand(tmp_path: Path) -> None:
    model, moved = make_qwen3(), make_qwen3()
    with torch.no_grad():
        moved.model.norm.weight[:5] += 5e-5
        moved.model.norm.weight[5:8] -= 1.0
    model.save_pretrained(tmp_path)
    total = sum(parameter.numel() for parameter in model.parameters())
    found = agreement(open_tensors(moved), open_tensors(tmp_path))
    assert found == {"1e-05": (total - 8) / total, "1e-04": (total - 3) / total}


def test_a_narrower_dtype_is_compared_by_value() -> None:
    narrow = make_qwen3().bfloat16()
    rounded = make_qwen3().bfloat16().float()
    assert agreement(open_tensors(narrow), open_tensors(rounded)) == {"1e-05": 1.0, "1e-04": 1.0}


def test_another_architecture_has_no_agreement() -> None:
    model = open_tensors(make_qwen3())
    assert agreement(model, Held({name: torch.ones(1) for name in model.keys()})) is None
    assert agreement(model, open_tensors(nn.Linear(2, 2))) is None


def test_what_is_not_a_number_does_not_agree() -> None:
    one, other = torch.zeros(4), torch.tensor([0.0, float("nan"), float("inf"), 0.0])
    assert agreement(Held({"w": one}), Held({"w": other})) == {"1e-05": 0.5, "1e-04": 0.5}


def test_every_two_of_several_across_the_borders_of_pieces() -> None:
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(7, 13, generator=generator)
    held = [
        base + scale * torch.randn(7, 13, generator=generator) for scale in (0.0, 3e-5, 1e-4, 1e-3)
    ]
    models = [Held({"a": one, "b": one[0], "left out": one + 1}) for one in held]
    seen: list[tuple[int, int]] = []

    def progress(stage: str, done: int, total: int, unit: str = "", detail: str = "") -> None:
        seen.append((done, total))

    with mock.patch("sparseopd.analysis.agreement.pieces", lambda n: pieces(n, 16)):
        found = agreements(models, ["a", "b"], progress)
    assert list(found) == [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    for (one, other), shares in found.items():
        apart = torch.cat(
            [(held[one] - held[other]).flatten(), held[one][0] - held[other][0]]
        ).abs()
        for name, tolerance in (("1e-05", 1e-5), ("1e-04", 1e-4)):
            assert shares[name] == pytest.approx((apart <= tolerance).float().mean().item())
    assert seen[-1] == (4 * 4 * 104, 4 * 4 * 104) and len(seen) == 7
