"""Every selector chooses what it says, against plain whole-tensor formulas."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparseopd.errors import MaskError
from sparseopd.masks import Mask, select
from sparseopd.masks.selectors import MATRICES, RULES, SCORES
from sparseopd.masks.selectors.order import quantiles, smallest_first
from sparseopd.masks.selectors.spectrum import principal_size
from sparseopd.masks.strata import SMALLEST, STRATA, Strata
from sparseopd.selection import DATA_FREE, Selection, SelectorName, build, resolved
from sparseopd.singular import EXACT, as_matrices
from tests.masks.held import Held, compare, small_pieces


def randoms(*shapes: tuple[int, ...], seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {f"w{i}": torch.randn(shape, generator=generator) for i, shape in enumerate(shapes)}


BASE = randoms((12, 20), (30, 16), (9,), (3, 16, 12))
TUNED = {name: weight + 0.1 * randoms(weight.shape, seed=7)["w0"] for name, weight in BASE.items()}


def chosen(
    tuned: dict[str, Tensor] | None = TUNED, base: dict[str, Tensor] = BASE, **given
) -> Mask:
    with small_pieces():
        return select(Held(base), None if tuned is None else Held(tuned), **given)


def kth(scores: dict[str, Tensor], k: int) -> dict[str, Tensor]:
    """The k largest of distinct scores."""
    flat = torch.cat([score.reshape(-1) for score in scores.values()])
    limit = torch.topk(flat, k).values[-1]
    return {name: score >= limit for name, score in scores.items()}


def same(mask: Mask, flags: dict[str, Tensor]) -> bool:
    return all(torch.equal(mask[name], flags[name]) for name in flags)


def test_names_are_one_list() -> None:
    assert {*SCORES, *RULES} == set(SelectorName.__args__)  # pyright: ignore
    assert set(MATRICES) <= set(DATA_FREE) <= set(SCORES)


def test_topk_relative() -> None:
    deltas = {name: (TUNED[name] - BASE[name]).abs() for name in BASE}
    by_weight = {name: deltas[name] / BASE[name].abs() for name in BASE}
    assert same(chosen(selector="topk-relative", k=50), kth(by_weight, 50))
    by_rms = {name: deltas[name] / BASE[name].square().mean().sqrt() for name in BASE}
    assert same(chosen(selector="topk-relative", relative_to="rms", k=50), kth(by_rms, 50))


def test_topk_relative_ranks_what_left_zero_first() -> None:
    base = {"a": torch.tensor([0.0, 0.0, 1e-3, 5.0])}
    tuned = {"a": torch.tensor([1e-9, 0.0, 1.0, 5.0])}
    first = chosen(tuned, base, selector="topk-relative", k=1)
    assert first["a"].tolist() == [True, False, False, False]
    assert chosen(tuned, base, selector="topk-relative", k=2)["a"].tolist()[2]
    zeros = {"a": torch.zeros(4)}
    mask = chosen(
        {"a": torch.tensor([0.0, 1.0, 0.0, 0.0])},
        zeros,
        selector="topk-relative",
        relative_to="rms",
        k=1,
    )
    assert mask["a"].tolist() == [False, True, False, False]


def test_topk_per_tensor_is_topk_in_each() -> None:
    mask = chosen(selector="topk-per-tensor", density=0.25)
    for name in BASE:
        delta = (TUNED[name] - BASE[name]).abs()
        assert torch.equal(mask[name], kth({name: delta}, mask.count(name))[name])
        assert abs(mask.count(name) - 0.25 * delta.numel()) < 1
    assert mask == chosen(selector="topk", budget="tensor", density=0.25)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_changed_compares_in_the_stated_dtype(dtype: str) -> None:
    kind = getattr(torch, dtype)
    tuned = {name: weight * (1 + 2.0**-10) for name, weight in BASE.items()}
    flags = {name: BASE[name].to(kind) != tuned[name].to(kind) for name in BASE}
    assert same(chosen(tuned, selector="changed", dtype=dtype), flags)


def test_changed_counts_bits_and_the_relative_rule_does_not() -> None:
    base = {"a": torch.tensor([0.0, 1.0, 1.0, 256.0])}
    tuned = {"a": torch.tensor([-0.0, 1.0078125, 1.0, 264.0])}
    assert chosen(tuned, base, selector="changed")["a"].tolist() == [True, True, False, True]
    rule = chosen(tuned, base, selector="changed", eta=0.0077)["a"].tolist()
    assert rule == [False, True, False, True]
    coarse = chosen(tuned, base, selector="changed", eta=0.01)["a"].tolist()
    assert coarse == [False, False, False, True]


def test_low_magnitude() -> None:
    mirrored = {name: -weight.abs() for name, weight in BASE.items()}
    mask = chosen(None, selector="low-magnitude", k=70, budget="global")
    assert same(mask, kth(mirrored, 70))
    per_tensor = chosen(None, selector="low-magnitude", density=0.2)
    assert per_tensor.provenance.settings["budget"] == "tensor"
    assert per_tensor.count("w1") == 96


def low_rank(weight: Tensor, share: float) -> Tensor:
    left, values, right = torch.linalg.svd(weight.double(), full_matrices=False)
    count = max(1, int(share * len(values)))
    return (left[:, :count] * values[:count] @ right[:count]).abs().float()


@pytest.mark.parametrize("shape", [(12, 20), (30, 16), (40, 40)])
@pytest.mark.parametrize("rank", [0.01, 0.1, 0.5, 1.0])
def test_the_principal_part_is_that_of_the_svd(shape: tuple[int, int], rank: float) -> None:
    weight = randoms(shape)["w0"]
    assert torch.allclose(principal_size(weight, rank), low_rank(weight, rank), atol=2e-6)


def test_beyond_the_exact_size_the_principal_part_is_close(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparseopd.singular.EXACT", 8)
    assert EXACT == 4096
    generator = torch.Generator().manual_seed(0)
    strong = torch.randn(200, 6, generator=generator) @ torch.randn(6, 100, generator=generator)
    weight = strong + 0.01 * torch.randn(200, 100, generator=generator)
    close, again = principal_size(weight, 0.06), principal_size(weight, 0.06)
    assert torch.equal(close, again)
    assert float((close - low_rank(weight, 0.06)).norm() / close.norm()) < 1e-2


def test_principal_masks() -> None:
    parts = {name: low_rank(BASE[name], 0.1) for name in ("w0", "w1")}
    parts["w3"] = torch.stack([low_rank(matrix, 0.1) for matrix in BASE["w3"]])
    numel = sum(part.numel() for part in parts.values())
    top = chosen(None, selector="principal", density=0.2)
    low = chosen(None, selector="off-principal", density=0.8)
    assert (
        top.count() == round(0.2 * numel) and top.count("w2") == 0
    )  # a vector has no singular vectors
    for name, part in parts.items():
        assert torch.equal(top[name], kth({name: part}, top.count(name))[name])
    assert (top & low).count() == 0 and (top | low).count() == numel


def test_off_principal_or_low_is_a_union_of_equal_shares() -> None:
    base = randoms((64, 48))
    mask = chosen(None, base, selector="off-principal-or-low", density=0.3)
    assert mask.count() == round(0.3 * 64 * 48)
    share = _share_of_union(base["w0"], 0.3)
    part = low_rank(base["w0"], 0.1)
    union = (part <= part.reshape(-1).quantile(share)) | (
        base["w0"].abs() <= base["w0"].abs().reshape(-1).quantile(share)
    )
    assert (union ^ mask["w0"]).sum() < 0.02 * mask.count()


def _share_of_union(weight: Tensor, density: float) -> float:
    part, size = low_rank(weight, 0.1).reshape(-1), weight.abs().reshape(-1)
    low, high = 0.0, 1.0
    for _ in range(30):
        middle = (low + high) / 2
        union = (part <= part.quantile(middle)) | (size <= size.quantile(middle))
        low, high = (middle, high) if union.float().mean() < density else (low, middle)
    return low


def test_a_matrix_that_is_not_finite_is_named() -> None:
    base = {**BASE, "w1": BASE["w1"].clone()}
    base["w1"][3, 3] = float("inf")
    with pytest.raises(MaskError, match="w1 is not finite"):
        chosen(None, base, selector="principal")


def test_shapes_as_matrices() -> None:
    assert as_matrices(torch.Size((4, 16, 32))) == (4, 16, 32)  # experts
    assert as_matrices(torch.Size((4, 16, 3))) == (1, 4, 48)  # a one-dimensional convolution
    assert as_matrices(torch.Size((8, 3, 14, 14))) == (1, 8, 588)


def test_saliency_ranks_what_it_is_given() -> None:
    assert same(
        chosen(TUNED, selector="saliency", k=40), kth({n: TUNED[n].abs() for n in TUNED}, 40)
    )


@given(st.lists(st.floats(0, 2.0**100, width=32), min_size=1, max_size=60), st.integers(0, 5))
@settings(max_examples=100, deadline=None)
def test_orders_are_kept_or_mirrored(values: list[float], repeated: int) -> None:
    tensor = torch.tensor(values + values[:repeated])
    shares, mirrored = quantiles(tensor), smallest_first(tensor)
    order = torch.argsort(tensor, stable=True)
    shares_up, mirrored_down = shares[order], mirrored[order]
    assert bool((shares_up[1:] >= shares_up[:-1]).all())
    assert bool((mirrored_down[1:] <= mirrored_down[:-1]).all())
    assert bool((shares >= 0).all()) and bool((shares <= 1).all())
    assert len(mirrored.unique()) == len(tensor.unique())


def big(seed: int = 0) -> dict[str, Tensor]:
    return randoms((2000,), (50, 30), (70,), seed=seed)


def test_random_is_uniform_exact_and_seeded() -> None:
    one, again, other = (chosen(None, big(), selector="random", k=700, seed=s) for s in (1, 1, 2))
    assert one.count() == 700 and one == again and one != other
    assert one.density("w0") == pytest.approx(700 / 3570, abs=0.04)


@pytest.mark.parametrize("match", ["tensor", "magnitude"])
def test_random_masks_drawn_like_another(match: str) -> None:
    base = big()
    like = chosen(None, base, selector="low-magnitude", density=0.3, budget="global")
    drawn = chosen(None, base, selector="random", like=like, match=match, seed=3)
    assert [drawn.count(name) for name in like.names] == [like.count(name) for name in like.names]
    assert drawn != like
    comparison = compare(base, None)
    for name in like.names:
        strata = Strata(comparison, name)
        ours, theirs = (
            strata.count(lambda piece, bits=mask.bitmaps[name]: bits.flat(piece.start, piece.stop))
            for mask in (drawn, like)
        )
        assert (ours == theirs).all() == (match == "magnitude" or strata.number == 1)
    again = chosen(None, base, selector="random", like=like, match=match, seed=3)
    other = chosen(None, base, selector="random", like=like, match=match, seed=4)
    assert drawn == again and drawn != other


def test_magnitude_matched_masks_are_uniform_within_a_stratum() -> None:
    base = {"w0": torch.linspace(1, 2, 4000)}
    like = Mask.from_tensors({"w0": torch.arange(4000) < 500})
    hits = torch.zeros(4000)
    for seed in range(100):
        drawn = select(Held(base), selector="random", like=like, match="magnitude", seed=seed)
        hits += drawn["w0"]
    assert hits[610:].sum() == 0  # other strata; their borders fit the histogram, not exactly 600
    partly = hits[410:590]
    share = float(partly.mean()) / 100
    assert 0.4 < share < 0.6
    assert float((partly - 100 * share).abs().max()) < 5 * (100 * share * (1 - share)) ** 0.5


def test_strata_are_quantiles_of_the_size() -> None:
    base = {
        "w": torch.randn(20_000, generator=torch.Generator().manual_seed(0)),
        "few": torch.ones(3 * SMALLEST),
    }
    comparison = compare(base, None)
    with small_pieces(1024):
        strata, few = Strata(comparison, "w"), Strata(comparison, "few")
        sizes = strata.count(lambda piece: None)
        of = torch.cat([strata.of(piece) for piece in comparison.pieces(["w"])])
    assert strata.number == STRATA and few.number == 3
    assert sizes.sum() == 20_000 and sizes.min() > 800 and sizes.max() < 1200
    order = torch.argsort(base["w"].abs())
    assert bool((of[order].diff() >= 0).all())


@pytest.mark.parametrize(
    "given, sentence",
    [
        ({"match": "magnitude"}, "name that mask with like"),
        (
            {"like": Mask.from_tensors({"w0": torch.ones(2000, dtype=torch.bool)}), "k": 3},
            "leave out k",
        ),
    ],
)
def test_random_requests_that_do_not_fit(given: dict, sentence: str) -> None:
    with pytest.raises(MaskError, match=sentence):
        chosen(None, big(), selector="random", **given)


def test_defaults_are_resolved_once() -> None:
    assert resolved(build(selector="principal")) == Selection(
        selector="principal", density=0.1, budget="tensor", rank=0.1
    )
    assert resolved(build(selector="changed")).settings() == {"dtype": "bfloat16"}
    assert resolved(build(k=5)).settings() == {"k": 5, "budget": "global"}
