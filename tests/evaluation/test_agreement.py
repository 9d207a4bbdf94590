"""Agreement is counted over all coordinates, in fp32, one tensor at a time."""

import torch
from torch import nn

from sparseopd.evaluation.agreement import agreement
from sparseopd.pairs import open_tensors


def test_counts_by_hand(make_model, tmp_path) -> None:
    model, moved = make_model(0), make_model(0)
    with torch.no_grad():
        moved.model.norm.weight[:5] += 5e-5
        moved.model.norm.weight[5:8] -= 1.0
    model.save_pretrained(tmp_path)
    total = sum(parameter.numel() for parameter in model.parameters())
    found = agreement(open_tensors(moved), open_tensors(tmp_path))
    assert found == {"1e-05": (total - 8) / total, "1e-04": (total - 3) / total}


def test_a_narrower_dtype_is_compared_by_value(make_model) -> None:
    narrow = make_model(0).to(torch.bfloat16)
    rounded = make_model(0).to(torch.bfloat16).float()
    assert agreement(open_tensors(narrow), open_tensors(rounded)) == {"1e-05": 1.0, "1e-04": 1.0}


def test_another_architecture_has_no_agreement(make_model) -> None:
    model = open_tensors(make_model(0))
    assert agreement(model, open_tensors(make_model(0, vocab_size=110))) is None
    assert agreement(model, open_tensors(nn.Linear(2, 2))) is None
