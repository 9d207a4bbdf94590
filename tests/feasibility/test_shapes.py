"""Parameters are counted exactly, without a weight."""

from __future__ import annotations

import pytest
from transformers import (
    AutoConfig,
    LlamaConfig,
    PretrainedConfig,
    Qwen2_5_VLConfig,
    Qwen3Config,
    Qwen3MoeConfig,
)

from sparseopd.feasibility.shapes import shape_of
from sparseopd.pairs import load_model, resolve_path
from sparseopd.recipe import Model
from tests.feasibility.folders import QWEN3_1B7


def test_qwen3_1b7_has_as_many_parameters_as_its_card_says() -> None:
    shape = shape_of(Qwen3Config(**QWEN3_1B7))
    assert shape.parameters == 1_720_574_976
    assert shape.block("embedding") == 2048 * 151936
    assert shape.tied and shape.head == "model.embed_tokens.weight"
    assert (shape.text.queries, shape.text.keys, shape.text.normalised_queries) == (
        2048,
        1024,
        True,
    )
    assert len(shape.linear) == 28 * 7 and shape.head not in shape.linear


@pytest.mark.parametrize("path", ["tiny-arithmetic/teacher", "tiny-digits/student"])
def test_a_real_model_has_the_same_parameters(path: str) -> None:
    folder = resolve_path(f"bundled:{path}")
    model = load_model(Model(path=folder))
    shape = shape_of(AutoConfig.from_pretrained(folder))
    assert shape.numels == {name: weight.numel() for name, weight in model.named_parameters()}
    assert all(weight.is_meta for weight in shape.model.parameters())


def test_a_vision_language_model_has_a_tower_of_its_own() -> None:
    shape = shape_of(AutoConfig.from_pretrained(resolve_path("bundled:tiny-digits/student")))
    assert shape.vision is not None and shape.vision.patches == (8 // 2) ** 2
    assert shape.vision.image_token == 6
    assert 0 < shape.block("vision") < shape.parameters
    qwen = Qwen2_5_VLConfig(
        text_config={"num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4},
        vision_config={"depth": 3, "hidden_size": 32, "num_heads": 2, "spatial_merge_size": 2},
    )
    tower = shape_of(qwen).vision
    assert tower is not None and (tower.layers, tower.patches, tower.patches_per_token) == (
        3,
        None,
        4,
    )


@pytest.mark.parametrize(
    "config, width",
    [
        (LlamaConfig(num_hidden_layers=1, hidden_size=64, intermediate_size=160), 160),
        (
            Qwen3MoeConfig(
                num_hidden_layers=1, hidden_size=64, num_experts=8, num_experts_per_tok=2,
                moe_intermediate_size=24,
            ),
            48,
        ),
    ],
)  # fmt: skip
def test_a_token_goes_through_the_experts_it_is_given(config: PretrainedConfig, width: int) -> None:
    shape = shape_of(config)
    assert shape.text.intermediate == width and not shape.tied and shape.head == "lm_head.weight"
