"""Decide which scores of the edge bin are taken: the largest, and among equals by a seeded hash."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from sparseopd.masks.keys import keys
from sparseopd.masks.stream import Kept, Piece, Shelf

_WHOLE = 1 << 64


@dataclass(frozen=True)
class Undecided:
    """The scores of one piece that share their upper bits with the k-th largest."""

    name: str
    start: int
    """Where the piece begins in its tensor."""
    numel: int
    """Coordinates of the piece."""
    count: int
    positions: Kept
    """uint32 within the piece; or, where that is shorter, a packed bitmap of the piece."""
    low: Kept | int
    """uint16 lower bits of each; a number where all have the same, as ties do."""

    @classmethod
    def keep(cls, shelf: Shelf, piece: Piece, positions: np.ndarray, low: np.ndarray) -> Undecided:
        """Put the positions (m,) and lower bits (m,) of a piece on a shelf."""
        if 4 * len(positions) > piece.numel // 8:
            flags = np.zeros(piece.numel, dtype=np.bool_)
            flags[positions] = True
            where = shelf.put(np.packbits(flags, bitorder="little"))
        else:
            where = shelf.put(positions)
        same = bool((low == low[0]).all())
        kept = int(low[0]) if same else shelf.put(low)
        return cls(piece.name, piece.start, piece.numel, len(positions), where, kept)

    def where(self, shelf: Shelf) -> np.ndarray:
        """Return the positions in the piece, int64 (count,), ascending."""
        kept = shelf.get(self.positions)
        if kept.dtype == np.uint8:
            return np.flatnonzero(np.unpackbits(kept, count=self.numel, bitorder="little"))
        return kept.astype(np.int64)

    def lows(self, shelf: Shelf) -> np.ndarray:
        """Return the lower bits, uint16 (count,)."""
        if isinstance(self.low, int):
            return np.full(self.count, self.low, dtype=np.uint16)
        return shelf.get(self.low)


class Edge:
    """All that is undecided after pass two, and after `decide` the rule that settles it."""

    def __init__(self, shelf: Shelf, seed: int) -> None:
        self._shelf, self._seed = shelf, seed
        self._of: dict[str, list[Undecided]] = {}
        self._counts = np.zeros(1 << 16, dtype=np.int64)
        self._floor = 0
        self._last: tuple[int, str, int] | None = None

    def add(self, undecided: Undecided) -> None:
        """Take note of one piece."""
        self._of.setdefault(undecided.name, []).append(undecided)
        if isinstance(undecided.low, int):
            self._counts[undecided.low] += undecided.count
        else:
            np.add.at(self._counts, undecided.lows(self._shelf), 1)

    def decide(self, needed: int) -> None:
        """Settle that exactly `needed` of them are taken."""
        at_least = np.cumsum(self._counts[::-1])[::-1]
        self._floor = int(np.flatnonzero(at_least >= needed)[-1])
        ties = int(self._counts[self._floor])
        missing = needed - int(at_least[self._floor] - ties)
        self._last = None if missing == ties else self._last_tie(missing, ties)

    def taken(self, name: str) -> Iterator[tuple[int, np.ndarray]]:
        """Yield of each piece of a tensor its start and what is taken of it: uint8, packed."""
        for undecided in self._of.get(name, []):
            where, low = undecided.where(self._shelf), undecided.lows(self._shelf)
            chosen = low >= self._floor
            if self._last is not None:
                ties = low == self._floor
                chosen[ties] = self._among_first(undecided, where[ties])
            flags = np.zeros(undecided.numel, dtype=np.bool_)
            flags[where[chosen]] = True
            yield undecided.start, np.packbits(flags, bitorder="little")

    def _among_first(self, undecided: Undecided, where: np.ndarray) -> np.ndarray:
        """Whether ties come no later than the last one taken, in order of (key, name, position)."""
        assert self._last is not None
        key, last_name, last_position = self._last
        where = where + undecided.start
        own = keys("ties", undecided.name, where, self._seed)
        chosen = own < np.uint64(key)
        if undecided.name <= last_name:
            equal = own == np.uint64(key)
            chosen |= equal & (where <= last_position) if undecided.name == last_name else equal
        return chosen

    def _last_tie(self, missing: int, ties: int) -> tuple[int, str, int]:
        """Find the `missing`-th tie in order of (key, name, position).

        Keys are uniform, so its key lies close to missing / ties of their range: only those near it
        are looked at, and more only if that guess should fail.
        """
        share = missing / ties
        spread = 8 * (share * (1 - share) / ties) ** 0.5 + 32 / ties
        while True:
            low = max(0, int((share - spread) * _WHOLE))
            high = min(_WHOLE - 1, int((share + spread) * _WHOLE))
            below, near = self._ties_near(low, high)
            if below < missing <= below + len(near):
                return sorted(near)[missing - below - 1]
            spread *= 16

    def _ties_near(self, low: int, high: int) -> tuple[int, list[tuple[int, str, int]]]:
        """Count the ties whose key is below `low`, and list those from there to `high`."""
        below, near = 0, []
        for name, pieces in self._of.items():
            for undecided in pieces:
                if isinstance(undecided.low, int) and undecided.low != self._floor:
                    continue
                where, lows = undecided.where(self._shelf), undecided.lows(self._shelf)
                where = where[lows == self._floor] + undecided.start
                own = keys("ties", name, where, self._seed)
                below += int(np.count_nonzero(own < np.uint64(low)))
                close = np.flatnonzero((own >= np.uint64(low)) & (own <= np.uint64(high)))
                near += [(int(own[i]), name, int(where[i])) for i in close]
        return below, near
