"""Changes to all layers of a model, of which either all happen or none."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

from sparseopd.adapters.adapted import Adapted
from sparseopd.adapters.layer import Shown, SparseLayer


def change_all(layers: Sequence[SparseLayer], change: Callable[[SparseLayer], None]) -> None:
    """Change every layer, or none."""
    before = [(layer, layer.shown()) for layer in layers]
    try:
        for layer in layers:
            change(layer)
    except BaseException:
        restore(before)
        raise


def put_all(
    layers: Sequence[SparseLayer], adapter: str, new: Mapping[str, Adapted], shown: Shown
) -> None:
    """Give every layer what an adapter has for it now, by parameter, and show `shown`; or change none."""
    before = [(layer, layer.shown()) for layer in layers]
    held = [(layer, layer.adapted(adapter)) for layer in layers]
    data = [None if old is None else old.values.data for _, old in held]
    try:
        for layer, old in held:
            adapted = new.get(layer.name)
            if adapted is not None and old is not None:
                adapted.take_place_of(old)
            layer.put(adapter, adapted)
        for layer in layers:
            layer.show(shown)
    except BaseException:
        for (layer, old), values in zip(held, data, strict=True):
            if old is not None and values is not None:
                old.values.data = values
            layer.put(adapter, old)
        restore(before)
        raise


@contextmanager
def base_bits(layers: Sequence[SparseLayer]) -> Iterator[None]:
    """Have the base's bits on the weights for a while."""
    before = [(layer, layer.shown()) for layer in layers]
    try:
        for layer, shown in before:
            layer.show(replace(shown, disabled=True))
        yield
    finally:
        restore(before)


@contextmanager
def shown_alone(layers: Sequence[SparseLayer], adapter: str) -> Iterator[None]:
    """Have one adapter, and no other, on the weights for a while."""
    before = [(layer, layer.shown()) for layer in layers]
    try:
        for layer, shown in before:
            layer.show(replace(shown, active=(adapter,), disabled=False, unmerged=False))
        yield
    finally:
        restore(before)


def restore(before: Sequence[tuple[SparseLayer, Shown]]) -> None:
    """Let layers show what they did. Where that breaks off, once more, and raise why afterwards."""
    try:
        for layer, shown in before:
            layer.show(shown)
    except BaseException:
        for layer, shown in before:
            layer.show(shown)
        raise
