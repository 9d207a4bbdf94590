"""What selectors look at: two models, piece by piece, within a scope of names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor

from sparseopd.errors import MaskError
from sparseopd.masks.scope import in_scope
from sparseopd.masks.stream import Piece, Scratch
from sparseopd.pairs.lora import LoraUpdate
from sparseopd.pairs.tensors import Tensors, pieces

Read = Callable[[int], None]
"""Called with the number of bytes of every piece read."""
_scratch = Scratch()


class Comparison:
    """The tensors of `base` and what became of them in `tuned`.

    `names` are the tensors whose coordinates may be chosen, sorted; `shapes` covers every tensor of
    the base. `tuned` is a sibling checkpoint, the update a LoRA adapter makes, or None for selectors
    that look at the base alone.
    """

    def __init__(
        self,
        base: Tensors,
        tuned: Tensors | LoraUpdate | None,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        seed: int = 0,
        read: Read | None = None,
    ) -> None:
        """`seed` fixes whatever is drawn. Raises `MaskError` for an empty scope, or where `tuned` is no sibling of `base`."""
        self.base, self.tuned, self.seed = base, tuned, seed
        self.shapes = {name: base.shape(name) for name in base.keys()}
        self.names = in_scope(self.shapes, include, exclude)
        self._read = read or (lambda _: None)
        self._changed = set(tuned.keys()) if isinstance(tuned, LoraUpdate) else set()
        if tuned is not None and not isinstance(tuned, LoraUpdate):
            self._check(tuned)

    @property
    def numels(self) -> dict[str, int]:
        """Number of coordinates of each tensor in scope."""
        return {name: self.shapes[name].numel() for name in self.names}

    def bytes_of(self, names: Iterable[str]) -> int:
        """Return how many bytes one pass over `names` reads."""
        sides = 1 if self.tuned is None else 2
        return sum(
            sides * self.shapes[name].numel() * self.base.dtype(name).itemsize for name in names
        )

    def pieces(self, names: Iterable[str], share: int = 1) -> Iterator[Piece]:
        """Yield the pieces of some tensors, in order; of each only the first `share`-th part."""
        for name in names:
            size = self.base.dtype(name).itemsize * (1 if self.tuned is None else 2)
            update = self._adapter_update(name)
            for start, end in pieces(self.shapes[name].numel()):
                stop = start + -(-(end - start) // share)
                base = self.base.flat(name, start, stop)
                if update is not None:
                    yield Piece(name, start, stop, base, update=update[start:stop])
                elif isinstance(self.tuned, LoraUpdate) or self.tuned is None:
                    yield Piece(name, start, stop, base)
                else:
                    yield Piece(name, start, stop, base, self.tuned.flat(name, start, stop))
                self._read((stop - start) * size)

    def magnitude(self, piece: Piece) -> Tensor:
        """Return |Δ| of a piece: float32 (numel,), both sides cast up before subtracting.

        The result is a buffer that the thread's next call overwrites. float64 weights are subtracted
        in float64 and then rounded.
        """
        size = _scratch.take("magnitude", piece.numel)
        if piece.update is not None:
            return torch.abs(piece.update, out=size)
        if piece.tuned is None:
            return size.zero_()  # a tensor that the adapter leaves alone
        if torch.float64 in (piece.base.dtype, piece.tuned.dtype):
            return size.copy_(piece.tuned.double() - piece.base.double()).abs_()
        if piece.base.dtype == piece.tuned.dtype == torch.float32:
            return torch.sub(piece.tuned, piece.base, out=size).abs_()
        before = _scratch.take("before", piece.numel)
        before.copy_(piece.base)
        return size.copy_(piece.tuned).sub_(before).abs_()

    def weight(self, piece: Piece) -> Tensor:
        """Return |W| of a piece: float32 (numel,), a buffer that the next call overwrites."""
        return _scratch.take("weight", piece.numel).copy_(piece.base).abs_()

    def after(self, piece: Piece) -> Tensor:
        """Return the tuned weights of a piece: (numel,), float32 if an adapter made them."""
        if piece.tuned is not None:
            return piece.tuned
        return piece.base if piece.update is None else piece.base.float() + piece.update

    def _adapter_update(self, name: str) -> Tensor | None:
        """The whole update of a tensor that an adapter changes, float32 (numel,)."""
        if not isinstance(self.tuned, LoraUpdate) or name not in self._changed:
            return None
        return self.tuned.update(name).reshape(-1)

    def _check(self, tuned: Tensors) -> None:
        theirs = set(tuned.keys())
        for name in self.names:
            if name not in theirs:
                raise MaskError(
                    f"{tuned.label} lacks {name}, which {self.base.label} has: not a sibling"
                )
            if tuned.shape(name) != self.shapes[name]:
                raise MaskError(
                    f"{name} is {tuple(self.shapes[name])} in {self.base.label} and "
                    f"{tuple(tuned.shape(name))} in {tuned.label}: not a sibling"
                )
