"""autograd is told which bits a weight holds: one count for each state, whoever else writes."""

from __future__ import annotations

import inspect
import random

import pytest
import torch
from torch import Tensor, nn

from sparseopd.masks.places import Places
from sparseopd.overlays.overlay import Overlay, Stack
from sparseopd.overlays.versions import set_version


def test_the_count_can_be_set_and_autograd_goes_by_it() -> None:
    weight = nn.Parameter(torch.ones(3))
    loss = (weight * weight).sum()
    seen = weight._version
    weight.data.view(-1)  # no write
    with torch.no_grad():
        weight.add_(1)
    assert weight._version != seen
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward(retain_graph=True)
    set_version(weight, seen)
    assert weight._version == weight.detach()._version == seen
    loss.backward()


def test_torchs_own_context_manager_uses_the_same_function() -> None:
    own = torch.autograd.grad_mode._unsafe_preserve_version_counter
    assert "_unsafe_set_version_counter(self.tensors, self.prev_versions)" in inspect.getsource(own)
    weight = torch.ones(3)
    before = weight._version
    with own(weight):
        weight.add_(1)
    assert weight._version == before


def overlays(weight: Tensor, count: int) -> list[Overlay]:
    """Overlapping values for a weight."""
    generator = torch.Generator().manual_seed(0)
    made = []
    for _ in range(count):
        places = Places.of(torch.rand(weight.shape, generator=generator) < 0.5, "cpu")
        made.append(Overlay(places, torch.randn(places.k, generator=generator)))
    return made


@pytest.mark.parametrize("seed", range(5))
def test_a_count_never_stands_for_two_contents(seed: int) -> None:
    """Over random switches, changes of the values and writes by others."""
    drawn, weight = random.Random(seed), nn.Parameter(torch.randn(5, 5))
    stack, made = Stack(), overlays(weight, 3)
    contents: dict[int, bytes] = {}
    repeated = 0
    for _ in range(300):
        action = drawn.random()
        if action < 0.8:
            stack.switch(weight, drawn.sample(made, drawn.randint(0, 3)))
        elif action < 0.9 and stack.applied:
            stack.applied[-1].values.add_(1.0)
            stack.rewrite(weight)
        elif not stack.applied:
            with torch.no_grad():
                weight.mul_(1.1)
        held = weight.detach().numpy().tobytes()
        repeated += weight._version in contents
        assert contents.setdefault(weight._version, held) == held
    assert repeated > 50


def test_a_backward_pass_goes_on_where_the_same_bits_are_back() -> None:
    weight = nn.Parameter(torch.randn(5, 5))
    stack, (one, two) = Stack(), overlays(weight, 2)
    stack.switch(weight, [one])
    loss = (weight @ weight).sum()
    stack.switch(weight, [two])
    stack.switch(weight, [])
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward(retain_graph=True)
    stack.switch(weight, [one])
    loss.backward()


def test_changed_values_are_written_again_though_they_lie_there_already() -> None:
    weight = nn.Parameter(torch.randn(5, 5))
    before = weight.detach().clone()
    stack, (one, two) = Stack(), overlays(weight, 2)
    stack.switch(weight, [one, two])
    one.values.fill_(7.0)
    stack.switch(weight, [one, two])
    assert torch.equal(two.places.take(weight.detach()), two.values)
    stack.switch(weight, [one])
    assert torch.equal(one.places.take(weight.detach()), one.values)
    stack.switch(weight, [])
    assert torch.equal(weight, before)
