"""Blocks, scopes and budgets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparseopd.errors import MaskError
from sparseopd.masks.scope import block_of, in_scope, shares
from sparseopd.pairs import open_tensors


@pytest.mark.parametrize(
    "name, block",
    [
        ("model.layers.3.self_attn.q_proj.weight", "attention"),
        ("model.layers.3.self_attn.q_norm.weight", "norm"),
        ("model.layers.3.mlp.down_proj.weight", "ffn"),
        ("model.layers.0.mlp.experts.3.up_proj.weight", "expert"),
        ("model.layers.0.mlp.shared_expert.up_proj.weight", "expert"),
        ("model.layers.0.block_sparse_moe.experts.7.w1.weight", "expert"),
        ("model.layers.0.mlp.gate.weight", "other"),
        ("model.layers.1.input_layernorm.weight", "norm"),
        ("model.norm.weight", "norm"),
        ("model.embed_tokens.weight", "embedding"),
        ("transformer.wte.weight", "embedding"),
        ("transformer.wpe.weight", "embedding"),
        ("transformer.h.0.ln_1.bias", "norm"),
        ("transformer.ln_f.weight", "norm"),
        ("transformer.h.0.attn.c_attn.weight", "attention"),
        ("transformer.h.0.mlp.c_fc.bias", "ffn"),
        ("lm_head.weight", "head"),
        ("language_model.lm_head.weight", "head"),
        ("vision_tower.vision_model.encoder.layers.1.layer_norm1.weight", "vision"),
        ("model.visual.blocks.7.attn.qkv.weight", "vision"),
        ("visual.merger.mlp.0.weight", "vision"),
        ("multi_modal_projector.linear_1.weight", "vision"),
        ("language_model.model.layers.0.mlp.up_proj.weight", "ffn"),
        ("model.layers.0.mixer.in_proj.weight", "other"),
    ],
)
def test_blocks(name: str, block: str) -> None:
    assert block_of(name) == block


def test_every_tensor_of_the_bundled_pairs_has_a_block() -> None:
    for pair in ("tiny-arithmetic", "tiny-digits"):
        names = open_tensors(f"bundled:{pair}/student").keys()
        assert "other" not in {block_of(name) for name in names}


NAMES = ["a.mlp.up.weight", "a.norm.weight", "lm_head.weight", "vision_tower.x.weight"]


def test_scopes_join_patterns_and_blocks() -> None:
    assert in_scope(NAMES, [], []) == NAMES
    assert in_scope(NAMES, ["ffn", "*head*"], []) == [NAMES[0], NAMES[2]]
    assert in_scope(NAMES, [], ["vision", "a.*"]) == [NAMES[2]]
    assert in_scope(NAMES, ["a.*"], ["norm"]) == [NAMES[0]]
    with pytest.raises(MaskError, match="no tensor matches 'expert'"):
        in_scope(NAMES, ["expert"], [])
    with pytest.raises(MaskError, match=r"no tensor matches 'mlp'.*\('?ffn|ffn, attention"):
        in_scope(NAMES, [], ["mlp"])


@given(
    st.lists(st.integers(0, 50), min_size=1, max_size=8),
    st.floats(0, 1),
    st.sampled_from(["global", "tensor", "block"]),
)
def test_shares_sum_to_k_and_fit(sizes: list[int], density: float, budget: str) -> None:
    kinds = ("mlp.w", "norm.weight", "lm_head.weight", "x")
    numels = {f"{i}.{kinds[i % 4]}": size for i, size in enumerate(sizes)}
    k = round(density * sum(sizes))
    groups = shares(budget, numels, k)  # pyright: ignore
    assert sum(quota for _, quota in groups) == k
    assert sorted(name for names, _ in groups for name in names) == sorted(numels)
    for names, quota in groups:
        size = sum(numels[name] for name in names)
        assert quota <= size and abs(quota - (k * size / sum(sizes) if k else 0)) < 1
