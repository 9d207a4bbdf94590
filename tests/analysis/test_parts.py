"""Every coordinate of a checkpoint belongs to one part, and fused projections to what they fuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparseopd.analysis import AnalysisSettings, analyze
from sparseopd.analysis.parts import Part, parts_of
from sparseopd.pairs.tensors import open_tensors
from tests.analysis.checkpoints import noise, write
from tests.masks.held import Held

ATTENTION = "model.layers.2.self_attn."
GQA = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 6, "hidden_size": 20}
"""Query, key and value of 24, 12 and 12 rows."""


def parts(folder: Path, tensors: dict[str, Tensor], config: dict[str, Any] | None = None) -> Any:
    held = open_tensors(str(write(folder, tensors, config)))
    return held, parts_of(held, held.keys())


def numbered(*shape: int) -> Tensor:
    return torch.arange(torch.Size(shape).numel(), dtype=torch.float32).view(shape)


def summary(found: list[Part]) -> list[tuple[str, str, tuple[int, ...]]]:
    return [(part.name, part.module, part.shape) for part in found]


names = st.sampled_from(
    [
        "model.layers.0.self_attn.qkv_proj.weight",
        "model.layers.0.self_attn.qkv_proj.bias",
        "model.layers.0.mlp.gate_up_proj.weight",
        "model.layers.0.mlp.experts.gate_up_proj",
        "h.0.attn.c_attn.weight",
        "visual.blocks.0.attn.qkv.weight",
        "model.norm.weight",
    ]
)
sizes = st.sampled_from([1, 2, 3, 6, 9, 12, 18, 24, 36, 48])
shapes = st.one_of(
    st.just(()),
    st.tuples(sizes),
    st.tuples(sizes, sizes),
    st.tuples(st.integers(1, 4), sizes, sizes),
    st.tuples(st.integers(1, 4), st.integers(1, 3), sizes, sizes),
    sizes.map(lambda size: (3 * size, size)),
    sizes.map(lambda size: (size, 3 * size)),
)


@pytest.fixture(scope="module")
def configured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = {**GQA, "intermediate_size": 12, "moe_intermediate_size": 9}
    return write(tmp_path_factory.mktemp("configured"), {"x": torch.zeros(1)}, config)


@settings(max_examples=100, deadline=None)
@given(name=names, shape=shapes, with_config=st.booleans())
def test_parts_hold_every_coordinate_once(
    configured: Path, name: str, shape: tuple[int, ...], with_config: bool
) -> None:
    tensors = Held({name: numbered(*shape)})
    tensors.folder = configured if with_config else None  # pyright: ignore
    found = parts_of(tensors, [name])
    read = [part.read(tensors) for part in found]
    for part, values in zip(found, read, strict=True):
        assert tuple(values.shape) == part.shape
        assert part.numel == values.numel()
        assert part.is_matrix == (len(part.shape) == 2)
        assert part.tensor == name
    held = torch.cat([values.flatten() for values in read])
    assert torch.equal(held.sort().values, torch.arange(float(len(held))))
    assert len({part.name for part in found}) == len(found)


def test_fused_attention_is_cut_by_the_heads_of_the_config(tmp_path: Path) -> None:
    name = ATTENTION + "qkv_proj.weight"
    held, found = parts(tmp_path, {name: numbered(48, 20)}, GQA)
    assert summary(found) == [
        (f"{name}[q]", "q_proj", (24, 20)),
        (f"{name}[k]", "k_proj", (12, 20)),
        (f"{name}[v]", "v_proj", (12, 20)),
    ]
    assert {(part.layer, part.block, part.planar) for part in found} == {(2, "attention", True)}
    rows = torch.split(numbered(48, 20), [24, 12, 12])
    for part, wanted in zip(found, rows, strict=True):
        assert torch.equal(part.read(held), wanted)


def test_the_size_of_a_head_may_follow_from_the_width(tmp_path: Path) -> None:
    config = {"num_attention_heads": 4, "num_key_value_heads": 1, "hidden_size": 24}
    _, found = parts(tmp_path, {ATTENTION + "qkv_proj.weight": numbered(36, 24)}, config)
    assert [part.shape for part in found] == [(24, 24), (6, 24), (6, 24)]


def test_a_vision_tower_fuses_three_equal_parts(tmp_path: Path) -> None:
    name = "visual.blocks.1.attn.qkv.weight"
    held, found = parts(tmp_path, {name: numbered(48, 16)}, {"text_config": GQA})
    assert [(part.module, part.block, part.layer) for part in found] == [
        (f"vision.{letter}_proj", "vision", 1) for letter in "qkv"
    ]
    for part, wanted in zip(found, numbered(48, 16).chunk(3), strict=True):
        assert torch.equal(part.read(held), wanted)


def test_heads_of_the_language_model_do_not_cut_a_vision_tower(tmp_path: Path) -> None:
    name = "visual.blocks.1.attn.qkv.weight"
    _, found = parts(tmp_path, {name: numbered(48, 20)}, {"text_config": GQA})
    assert summary(found) == [(name, "vision.qkv", (48, 20))]


def test_gpt2_fuses_columns(tmp_path: Path) -> None:
    name = "transformer.h.0.attn.c_attn.weight"
    held, found = parts(tmp_path, {name: numbered(8, 24)})
    assert [part.module for part in found] == ["q_proj", "k_proj", "v_proj"]
    for part, wanted in zip(found, numbered(8, 24).chunk(3, dim=1), strict=True):
        assert torch.equal(part.read(held), wanted)


@pytest.mark.parametrize(("shape", "axis"), [((24, 10), 0), ((10, 24), 1)])
def test_gate_and_up_are_halves_of_the_side_the_config_names(
    tmp_path: Path, shape: tuple[int, int], axis: int
) -> None:
    name = "model.layers.0.mlp.gate_up_proj.weight"
    held, found = parts(tmp_path, {name: numbered(*shape)}, {"intermediate_size": 12})
    assert [part.module for part in found] == ["gate_proj", "up_proj"]
    for part, wanted in zip(found, numbered(*shape).chunk(2, dim=axis), strict=True):
        assert torch.equal(part.read(held), wanted)


def test_experts_are_matrices_each(tmp_path: Path) -> None:
    name = "model.layers.0.mlp.experts.down_proj"
    held, found = parts(tmp_path, {name: numbered(3, 12, 10)})
    assert summary(found) == [(f"{name}[{i}]", "down_proj", (12, 10)) for i in range(3)]
    assert {part.block for part in found} == {"expert"}
    for part, wanted in zip(found, numbered(3, 12, 10), strict=True):
        assert torch.equal(part.read(held), wanted)


@pytest.mark.parametrize(("shape", "axis"), [((2, 24, 10), 0), ((2, 10, 24), 1)])
def test_experts_with_gate_and_up_are_cut_both_ways(
    tmp_path: Path, shape: tuple[int, int, int], axis: int
) -> None:
    name = "model.layers.0.mlp.experts.gate_up_proj"
    held, found = parts(tmp_path, {name: numbered(*shape)}, {"moe_intermediate_size": 12})
    assert [part.name for part in found] == [
        f"{name}[{expert}, {half}]" for expert in range(2) for half in ("gate", "up")
    ]
    wanted = [half for expert in numbered(*shape) for half in expert.chunk(2, dim=axis)]
    for part, values in zip(found, wanted, strict=True):
        assert torch.equal(part.read(held), values)


@pytest.mark.parametrize(
    ("module", "shape", "config"),
    [
        ("mlp.gate_up_proj", (24, 10), {"intermediate_size": 12, "model_type": "gpt_oss"}),
        ("mlp.gate_up_proj", (24, 10), {"intermediate_size": 13}),
        ("mlp.gate_up_proj", (24, 24), {"intermediate_size": 12}),
        ("mlp.gate_up_proj", (24, 10), {}),
        ("mlp.gate_up_proj", (24, 10), {"intermediate_size": [12, 12]}),
        ("self_attn.qkv_proj", (50, 20), GQA),
        ("self_attn.qkv_proj", (48, 20), {}),
        ("self_attn.qkv_proj", (48, 20), {**GQA, "num_attention_heads": [4, 4]}),
        ("self_attn.q_proj", (48, 16), GQA),
        ("self_attn.query_key_value", (48, 16), {}),
    ],
)
def test_what_cannot_be_told_apart_stays_whole(
    tmp_path: Path, module: str, shape: tuple[int, int], config: dict[str, Any]
) -> None:
    """Sizes may fit both sides or none; some models interleave; some configs list a size a layer."""
    name = f"model.layers.0.{module}.weight"
    _, found = parts(tmp_path, {name: numbered(*shape)}, config)
    assert summary(found) == [(name, module.split(".")[-1], shape)]


def test_a_convolution_is_a_matrix_that_medians_leave_out(tmp_path: Path) -> None:
    name = "visual.patch_embed.proj.weight"
    held, found = parts(tmp_path, {name: numbered(8, 3, 2, 2)})
    assert [(part.shape, part.planar, part.is_matrix) for part in found] == [((8, 12), False, True)]
    assert torch.equal(found[0].read(held), numbered(8, 12))


def test_vectors_are_flat_and_not_planar(tmp_path: Path) -> None:
    tensors = {"a.bias": numbered(5), "b.weight": numbered(1, 7), "c.weight": torch.tensor(1.0)}
    _, found = parts(tmp_path, tensors)
    assert [part.shape for part in found] == [(5,), (7,), (1,)]
    assert not any(part.planar or part.is_matrix for part in found)


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("model.language_model.layers.3.mlp.up_proj.weight", (3, "up_proj", "ffn")),
        ("language_model.model.layers.3.mlp.up_proj.weight", (3, "up_proj", "ffn")),
        ("model.visual.blocks.5.mlp.up_proj.weight", (5, "vision.up_proj", "vision")),
        ("vision_tower.encoder.layers.5.mlp.fc1.weight", (5, "vision.fc1", "vision")),
        ("model.language_model.embed_tokens.weight", (None, "embed_tokens", "embedding")),
        ("lm_head.weight", (None, "lm_head", "head")),
    ],
)
def test_vision_language_names_have_their_place(
    tmp_path: Path, name: str, place: tuple[int | None, str, str]
) -> None:
    _, found = parts(tmp_path, {name: numbered(4, 6)})
    assert [(part.layer, part.module, part.block) for part in found] == [place]


@pytest.mark.parametrize("nested", [False, True])
def test_slices_of_a_fused_tensor_have_the_figures_of_separate_ones(
    tmp_path: Path, nested: bool
) -> None:
    config = {**GQA, "intermediate_size": 14}
    config = {"text_config": config} if nested else config
    sizes = {
        **{
            ATTENTION + f"{letter}_proj.weight": rows
            for letter, rows in zip("qkv", (24, 12, 12), strict=True)
        },
        **{f"model.layers.2.mlp.{half}_proj.weight": 14 for half in ("gate", "up")},
    }
    fused = {
        ATTENTION + "qkv_proj.weight": list(sizes)[:3],
        "model.layers.2.mlp.gate_up_proj.weight": list(sizes)[3:],
    }
    folders: dict[tuple[str, bool], str] = {}
    for side, seeds, scale in (("base", 0, 0.02), ("tuned", 9, 0.02)):
        separate = {
            name: noise(rows, 20, seed=seeds + place, scale=scale).bfloat16()
            for place, (name, rows) in enumerate(sizes.items())
        }
        joined = {name: torch.cat([separate[one] for one in of]) for name, of in fused.items()}
        for cut, tensors in ((True, separate), (False, joined)):
            folder = tmp_path / f"{side} {cut}"
            folders[side, cut] = str(write(folder, tensors, config))
    off = AnalysisSettings(draws=0)
    one, other = (
        analyze(folders["base", cut], folders["tuned", cut], settings=off) for cut in (True, False)
    )
    assert other.groups["module"] == one.groups["module"]
    assert other.whole["observed"] == pytest.approx(one.whole["observed"])
    assert sorted(str(row["observed"]) for row in other.tensors) == sorted(
        str(row["observed"]) for row in one.tensors
    )
