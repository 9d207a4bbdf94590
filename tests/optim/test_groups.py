"""Groups give some k-vectors other settings, by name or block."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import Qwen3ForCausalLM

from sparseopd import MaskedOptimizer
from sparseopd.errors import OptimizerError
from tests.conftest import make_moe, make_qwen3
from tests.optim.test_kinds import steps
from tests.optim.test_masked import everything

GROUPS = [
    {"match": ["norm"], "weight_decay": 0.0},
    {"match": ["*.mlp.*", "*.layers.0.*"], "lr": 1e-4, "weight_decay": 0.3},
]


def test_groups_are_those_of_the_plain_optimizer() -> None:
    plain, masked = make_qwen3(), make_qwen3()
    named = dict(plain.named_parameters())
    norms = {name for name in named if "norm" in name}
    second = {n for n in named if (".mlp." in n or ".layers.0." in n) and n not in norms}
    dense = torch.optim.AdamW(
        [
            {"params": [named[n] for n in named if n in norms], "weight_decay": 0.0},
            {"params": [named[n] for n in named if n in second], "lr": 1e-4, "weight_decay": 0.3},
            {"params": [named[n] for n in named if n not in norms | second]},
        ],
        lr=1e-2,
        weight_decay=0.1,
    )
    ours = MaskedOptimizer(
        masked, everything(masked), torch.optim.AdamW, groups=GROUPS, lr=1e-2, weight_decay=0.1
    )
    assert [group["lr"] for group in ours.param_groups] == [1e-2, 1e-4, 1e-2]
    steps(plain, dense)
    steps(masked, ours)
    for one, other in zip(plain.parameters(), masked.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_checkpoint_name_of_a_merged_parameter_matches() -> None:
    model = make_moe()
    groups = [{"match": "*.experts.0.*", "lr": 1e-4}]
    optimizer = MaskedOptimizer(model, everything(model), groups=groups, lr=1e-2)
    assert len(optimizer.param_groups[0]["params"]) == 4  # two in each layer


@pytest.mark.parametrize(
    ("group", "sentence"),
    [
        ({"match": ["*.mpl.*"]}, r"no parameter matches '\*\.mpl\.\*' in groups"),
        ({"lr": 1e-4}, "names its parameters by match"),
        ({"match": [], "lr": 1e-4}, "names its parameters by match"),
        ({"match": ["*"], "params": []}, "names its parameters by match"),
        ({"match": 5}, "names its parameters by match"),
        ("norm", "names its parameters by match"),
        ({"match": ["norm"], "lrr": 1e-4}, "groups set lrr, which AdamW does not have"),
    ],
)
def test_a_group_that_says_nothing_is_refused(
    group: Any, sentence: str, qwen3: Qwen3ForCausalLM
) -> None:
    with pytest.raises(OptimizerError, match=sentence):
        MaskedOptimizer(qwen3, everything(qwen3), groups=[group])


def test_groups_are_fixed_once_built(qwen3: Qwen3ForCausalLM) -> None:
    optimizer = MaskedOptimizer(qwen3, everything(qwen3))
    with pytest.raises(OptimizerError, match="instead of adding a parameter group"):
        optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(1))]})
    saved = optimizer.state_dict()
    optimizer.close()
    grouped = MaskedOptimizer(qwen3, everything(qwen3), groups=GROUPS)
    with pytest.raises(OptimizerError, match="other parameter groups"):
        grouped.load_state_dict(saved)
