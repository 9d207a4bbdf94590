"""Supports of several updates: who overlaps whom, by hand, beside chance and the null."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sparseopd.analysis.comparison import Comparisons, compare_supports, turned
from sparseopd.analysis.supports import Rounded
from sparseopd.errors import AnalysisError, MaskError
from sparseopd.masks import select
from sparseopd.masks.overlap import overlaps, together
from sparseopd.pairs import open_tensors
from tests.conftest import make_qwen3
from tests.masks.held import Held

NAME = "model.layers.0.mlp.up_proj.weight"


def weights(size: int = 100) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(size, generator=generator)


def moved(base: Tensor, places: range | list[int], by: float = 1e-3) -> Held:
    tuned = base.clone()
    tuned[list(places)] += by
    return Held({NAME: tuned})


def three() -> Comparisons:
    base = weights()
    tuned = {
        "a": moved(base, range(0, 30)),
        "b": moved(base, range(20, 40)),
        "still": moved(base, []),
    }
    return compare_supports(Held({NAME: base}, "the base"), tuned)


def test_counts_shares_and_chance_by_hand() -> None:
    found = three()
    assert [(one.label, one.count, one.density) for one in found.supports] == [
        ("a", 30, 0.3), ("b", 20, 0.2), ("still", 0, 0.0),
    ]  # fmt: skip
    one = found.overlap("a", "b")
    assert (one.both, one.numel) == (10, 100)
    assert (one.coverage, one.chance, one.jaccard) == (1 / 3, 0.2, 0.25)
    other = found.overlap("b", "a")
    assert (other.coverage, other.chance) == (0.5, 0.3)
    assert other.expected == one.expected and other == turned(one)
    assert found.base == "the base" and found.compared == ["float32"]


def test_a_checkpoint_that_did_not_move_has_no_shares() -> None:
    overlap = three().overlap("still", "a")
    assert (overlap.first, overlap.both) == (0, 0)
    assert overlap.coverage is None and overlap.null is None
    assert overlap.coverage_back == 0 and overlap.chance == 0.3
    both = Held({NAME: weights()})
    nothing = compare_supports(both, {"one": both, "two": both}).overlap("one", "two")
    assert nothing.jaccard is None and nothing.coverage is None


def test_the_agreement_of_every_two_stands_beside_it() -> None:
    found = three()
    assert found.agreement("b", "a") == {"1e-05": 0.7, "1e-04": 0.7}
    assert found.agreement("a", "still")["1e-05"] == pytest.approx(0.7)


def test_it_is_what_select_and_overlaps_say_of_folders(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(1)
    base = make_qwen3().bfloat16()
    base.save_pretrained(tmp_path / "base")
    for label in ("one", "two", "three"):
        tuned = make_qwen3()
        with torch.no_grad():
            for weight in tuned.parameters():
                weight.add_(torch.randn(weight.shape, generator=generator) * 5e-5)
        tuned.bfloat16().save_pretrained(tmp_path / label)
    paths = {label: str(tmp_path / label) for label in ("one", "two", "three")}
    found = compare_supports(str(tmp_path / "base"), paths, folder=tmp_path)
    masks = [select(tmp_path / "base", path, selector="threshold") for path in paths.values()]
    rows = overlaps(masks, open_tensors(tmp_path / "base"))
    assert found.overlap("one", "three") == together(rows[0, 2])
    one = found.overlap("two", "three")
    assert one.coverage and one.chance and one.coverage > one.chance + 0.1
    assert one.margin == pytest.approx(0, abs=0.02), (
        "rounding prefers small weights, as the null says"
    )
    pair = found.pairs[0]
    assert sum(one.both for one in pair.blocks.values()) == pair.overlap.both
    assert list(pair.layers) == [0, 1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "one", "three", "two"]


def test_weights_are_compared_in_the_narrowest_dtype_unless_told() -> None:
    base = weights().to(torch.bfloat16)
    wide = base.float() + 1e-4  # less than bfloat16 tells apart, where weights are large
    tuned = {"wide": Held({NAME: wide}), "narrow": Held({NAME: wide.to(torch.bfloat16)})}
    found = compare_supports(Held({NAME: base}), tuned)
    assert found.compared == ["bfloat16"]
    assert found.supports[0].count == found.supports[1].count < 10
    found = compare_supports(Held({NAME: base}), tuned, dtype="float32")
    assert found.compared == ["float32"] and found.supports[0].count == 100
    assert found.supports[1].count < 10


def test_the_threshold_itself_did_not_move() -> None:
    base = torch.zeros(10)
    tuned = {"at": moved(base, range(5), 0.25), "above": moved(base, range(5), 0.26)}
    found = compare_supports(Held({NAME: base}), tuned, threshold=0.25)
    assert [one.count for one in found.supports] == [0, 5] and found.threshold == 0.25


def test_a_scope_leaves_the_rest_out() -> None:
    base = Held({NAME: weights(), "lm_head.weight": weights(50)})
    tuned = {
        label: Held({NAME: weights() + by, "lm_head.weight": weights(50)})
        for label, by in (("a", 1.0), ("b", 0.0))
    }
    found = compare_supports(base, tuned, exclude=["head"])
    assert found.overlap("a", "b").numel == 100 and found.agreement("a", "b")["1e-04"] == 0


def test_json_holds_both_directions() -> None:
    text = json.dumps(three().as_json(), allow_nan=False)
    found = json.loads(text)
    assert found["supports"][0] == {
        "label": "a", "source": "the model", "count": 30, "numel": 100, "density": 0.3,
    }  # fmt: skip
    first = found["pairs"][0]
    assert (first["first"], first["second"]) == ("a", "b") and len(found["pairs"]) == 3
    assert first["all"]["chance"] == 0.2 and first["all"]["chance_back"] == 0.3
    assert first["all"]["null_back"] == pytest.approx(1.5 * first["all"]["null"])
    assert first["by_block"]["ffn"]["both"] == first["by_layer"]["0"]["both"] == 10
    assert first["agreement"]["1e-05"] == 0.7


def test_wrong_requests_are_one_sentence() -> None:
    base = Held({NAME: weights()}, "the base")
    with pytest.raises(AnalysisError, match="1 tuned checkpoint was given: an overlap needs two"):
        compare_supports(base, {"a": moved(weights(), [])})
    foreign = Held({NAME: weights(3)}, "the other")
    with pytest.raises(AnalysisError, match=r"\(100,\) in the base and \(3,\) in the other"):
        compare_supports(base, {"a": moved(weights(), []), "b": foreign})
    broken = weights()
    broken[0] = float("nan")
    with pytest.raises(MaskError, match=NAME):
        compare_supports(base, {"a": moved(weights(), [1]), "b": Held({NAME: broken})})


def test_rounded_tensors_read_alike_whole_and_in_pieces() -> None:
    rounded = Rounded(Held({NAME: weights(), "left out": weights()}), {NAME: torch.bfloat16})
    assert rounded.keys() == [NAME] and rounded.dtype(NAME) == torch.bfloat16
    assert torch.equal(rounded[NAME][8:30], rounded.flat(NAME, 8, 30))
    assert torch.equal(rounded[NAME], weights().to(torch.bfloat16))
