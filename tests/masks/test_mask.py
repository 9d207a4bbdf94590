"""Set algebra, counting and belonging."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import Qwen3ForCausalLM

from sparseopd.errors import MaskError, MaskMismatchError
from sparseopd.masks import Mask, layout, select
from sparseopd.masks.layout import place
from tests.conftest import make_moe, make_qwen3

SHAPES = {"a": (3, 5), "b": (16,), "scalar": (), "empty": (0, 4), "expert": (2, 3, 4)}


def drawn(seed: int) -> Mask:
    generator = torch.Generator().manual_seed(seed)
    return Mask.from_tensors(
        {name: torch.rand(shape, generator=generator) < 0.4 for name, shape in SHAPES.items()}
    )


@given(st.integers(0, 1000), st.integers(0, 1000))
@settings(max_examples=50, deadline=None)
def test_algebra_agrees_with_tensors(first: int, second: int) -> None:
    one, two = drawn(first), drawn(second)
    for name in SHAPES:
        assert torch.equal((one & two)[name], one[name] & two[name])
        assert torch.equal((one | two)[name], one[name] | two[name])
        assert torch.equal((one - two)[name], one[name] & ~two[name])
        assert torch.equal((~one)[name], ~one[name])
        assert one[name].shape == SHAPES[name]
    assert ~~one == one and (one | ~one).density() == 1.0
    assert one.count() == sum(int(one[name].sum()) for name in SHAPES)
    assert one.numel() == 15 + 16 + 1 + 0 + 24
    union = (one | two).count()
    assert one.jaccard(two) == (pytest.approx((one & two).count() / union) if union else 1.0)
    assert one.coverage(two) * one.count() == pytest.approx((one & two).count())


def test_masks_of_different_models_do_not_combine() -> None:
    one = Mask.from_tensors({"a": torch.ones(3, dtype=torch.bool)})
    with pytest.raises(MaskMismatchError, match="differ in a, b"):
        _ = one & Mask.from_tensors({"b": torch.ones(3, dtype=torch.bool)})
    with pytest.raises(MaskMismatchError, match="differ in a"):
        _ = one | Mask.from_tensors({"a": torch.ones(3, 1, dtype=torch.bool)})


def test_only_booleans_make_a_mask() -> None:
    with pytest.raises(MaskError, match=r"mask of a must be boolean, not torch.float32"):
        Mask.from_tensors({"a": torch.ones(3)})


def test_asking_for_an_uncovered_tensor() -> None:
    with pytest.raises(MaskError, match="does not cover nope"):
        drawn(0)["nope"]


def test_a_mask_knows_its_base(qwen3: Qwen3ForCausalLM, moved: Qwen3ForCausalLM) -> None:
    mask = select(qwen3, moved, density=0.1)
    mask.verify(qwen3)
    mask.verify(qwen3.to(torch.float64))  # a wider dtype holds the same weights
    with pytest.raises(MaskMismatchError, match=r"made for other weights.* and 21 more"):
        mask.verify(moved)
    with pytest.raises(
        MaskMismatchError, match="the Qwen3MoeForCausalLM in memory lacks 6 of them"
    ):
        mask.verify(make_moe())
    torch.manual_seed(0)
    smaller = type(qwen3)(type(qwen3.config)(**{**qwen3.config.to_dict(), "vocab_size": 30}))
    with pytest.raises(
        MaskMismatchError, match=r"embed_tokens.weight is \(40, 32\) in the mask and \(30, 32\)"
    ):
        mask.verify(smaller)


def test_a_change_below_the_stored_precision_is_noticed(qwen3: Qwen3ForCausalLM) -> None:
    stored = qwen3.to(torch.bfloat16)
    mask = select(stored, selector="random", density=0.5)
    held = stored.float()
    mask.verify(held)
    with torch.no_grad():
        held.model.norm.weight[0] += 1e-6
    with pytest.raises(MaskMismatchError, match=r"model.norm.weight differ"):
        mask.verify(held)


def test_tied_weights_are_covered_once() -> None:
    assert "lm_head.weight" not in select(make_qwen3(tied=True), selector="random").names
    assert "lm_head.weight" in select(make_qwen3(tied=False), selector="random").names


def test_layout_sums_to_the_mask() -> None:
    mask = select(make_qwen3(), selector="random", density=0.3)
    rows = layout(mask)
    assert sum(row["count"] for row in rows) == mask.count()
    assert sum(row["numel"] for row in rows) == mask.numel()
    assert {row["layer"] for row in rows} == {None, 0, 1}


@pytest.mark.parametrize(
    "name, expected",
    [
        ("model.layers.3.self_attn.q_proj.weight", (3, "q_proj")),
        ("model.embed_tokens.weight", (None, "embed_tokens")),
        ("vision_tower.encoder.layers.1.mlp.fc1.bias", (1, "vision.fc1")),
        ("model.visual.blocks.7.attn.qkv.weight", (7, "vision.qkv")),
        ("transformer.h.0.attn.c_attn.weight", (0, "c_attn")),
        ("model.layers.0.mlp.experts.3.up_proj.weight", (0, "up_proj")),
        ("weight", (None, "weight")),
    ],
)
def test_place(name: str, expected: tuple[int | None, str]) -> None:
    assert place(name) == expected


def test_masks_compare_by_what_they_choose() -> None:
    one = drawn(0)
    one_elsewhere = Mask.from_tensors(
        {name: one[name] for name in SHAPES}, replace(one.provenance, base="x")
    )
    assert one == one_elsewhere and one != drawn(1)
