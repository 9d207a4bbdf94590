"""Chosen coordinates of a weight, gathered and written as a vector."""

from __future__ import annotations

from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparseopd.errors import MaskError
from sparseopd.masks.places import Places

SHAPES = [(), (7,), (3, 5), (2, 3, 4), (0, 4)]
BITS = {torch.float32: torch.int32, torch.bfloat16: torch.int16, torch.float16: torch.int16}


def drawn_bits(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> Tensor:
    """Any bits at all, NaNs with payloads among them."""
    generator = torch.Generator().manual_seed(seed)
    span = torch.iinfo(BITS[dtype])
    bits = torch.randint(span.min, span.max, shape, generator=generator, dtype=BITS[dtype])
    return bits.view(dtype) if shape else bits.reshape(1).view(dtype).reshape(())


def bits_of(tensor: Tensor) -> Tensor:
    return tensor.reshape(-1).view(BITS[tensor.dtype])


@given(
    st.sampled_from(SHAPES),
    st.sampled_from([0.0, 0.3, 1.0]),
    st.sampled_from(list(BITS)),
    st.integers(0, 1000),
)
@settings(max_examples=100, deadline=None)
def test_put_and_take_are_boolean_indexing_bit_for_bit(
    shape: tuple[int, ...], density: float, dtype: torch.dtype, seed: int
) -> None:
    chosen = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < density
    weight, values = (
        drawn_bits(shape, dtype, seed),
        drawn_bits((int(chosen.sum()),), dtype, seed + 1),
    )
    places, expected = Places.of(chosen, "cpu"), weight.clone()
    assert places.k == len(values)
    assert torch.equal(bits_of(places.take(weight)), bits_of(weight[chosen]))
    expected[chosen] = values
    with mock.patch("sparseopd.masks.places._PIECE", 2):
        places.put(weight, values)
    assert torch.equal(bits_of(weight), bits_of(expected))
    assert torch.equal(bits_of(places.take(weight)), bits_of(values))


def test_values_are_rounded_to_the_weight_s_dtype() -> None:
    for chosen in (torch.tensor([True, False, True]), torch.ones(3, dtype=torch.bool)):
        weight, values = torch.zeros(3, dtype=torch.bfloat16), torch.rand(int(chosen.sum()))
        places = Places.of(chosen, weight.device)
        places.put(weight, values)
        assert torch.equal(places.take(weight), values.bfloat16())


def test_taking_copies_unless_all_is_chosen() -> None:
    weight = torch.zeros(2, 3)
    Places.of(weight == 0, "cpu").take(weight).fill_(1)
    assert weight.sum() == 6
    Places.of(torch.arange(6).view(2, 3) < 4, "cpu").take(weight).fill_(2)
    assert weight.sum() == 6


def test_a_trainable_weight_is_written_without_being_recorded() -> None:
    weight = torch.nn.Parameter(torch.zeros(4))
    Places.of(torch.tensor([True, False, False, True]), "cpu").put(weight, torch.ones(2))
    assert weight.tolist() == [1, 0, 0, 1] and weight.is_leaf


def test_writing_is_allowed_where_torch_must_be_deterministic() -> None:
    weight, places = torch.zeros(4), Places.of(torch.tensor([True, False, False, True]), "cpu")
    torch.use_deterministic_algorithms(True)
    try:
        places.put(weight, torch.ones(2))
    finally:
        torch.use_deterministic_algorithms(False)
    assert weight.tolist() == [1, 0, 0, 1]


@pytest.mark.parametrize("chosen", [torch.ones(4, dtype=torch.bool), torch.arange(4) < 3])
@pytest.mark.parametrize("count", [1, 5])
def test_another_number_of_values_is_refused(chosen: Tensor, count: int) -> None:
    places, weight = Places.of(chosen, "cpu"), torch.zeros(4)
    with pytest.raises(MaskError, match=f"give a vector of {places.k}"):
        places.put(weight, torch.ones(count))
    assert not weight.any()


@pytest.mark.parametrize("density", [0.0, 0.4, 1.0])
def test_places_from_positions_are_those_from_flags(density: float) -> None:
    chosen = torch.rand(5, 8, generator=torch.Generator().manual_seed(0)) < density
    places = Places.of(chosen, "cpu")
    again = Places.at(places.positions(), chosen)
    assert places.same(again) and (places.index is None) == bool(chosen.all())
    assert torch.equal(places.positions(), chosen.view(-1).nonzero().view(-1))
    assert places.to("meta").device.type == "meta" and places.to("cpu").same(places)


def test_other_places_are_not_the_same() -> None:
    flags = [[1, 1, 0], [1, 0, 1], [1, 0, 0], [1, 1, 1]]
    several = [Places.of(torch.tensor(row).bool(), "cpu") for row in flags]
    for one in several:
        assert [one.same(other) for other in several] == [one is other for other in several]


def test_the_index_takes_four_bytes_a_coordinate() -> None:
    places = Places.of(torch.arange(100) < 10, "cpu")
    assert places.index is not None and places.index.nbytes == 40
