"""Decide which of the scores around the k-th largest are taken; among equals by a seeded hash.

Scores of full precision hardly ever tie, so few are undecided. Between checkpoints of low precision a
change has few significant bits: many scores tie exactly, and the lower bits of their pattern are
zero. Where they are many, these, the even ones, are kept as a bitmap and hashed a whole piece at once;
all others one by one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import repeat

import numpy as np
import torch

from sparseopd.masks.bitmap import count_bits, ones, packed
from sparseopd.masks.keys import keys, keys_at
from sparseopd.masks.stream import Kept, Shelf, for_each

_KEYS = 1 << 32
_BATCH = 1 << 22


@dataclass(frozen=True)
class Undecided:
    """The scores of one piece that lie in the range of the k-th largest."""

    name: str
    start: int
    """Where the piece begins in its tensor."""
    numel: int
    """Coordinates of the piece."""
    even: Kept | None
    """uint8: packed bitmap of those at the range's bottom, where these are many."""
    odd: Kept
    """uint32 (m,): positions of the others in the piece."""
    low: Kept
    """uint32 (m,): their bit patterns above the range's bottom."""


@dataclass(frozen=True)
class _Ties:
    """The ties of one piece, by their keys."""

    below: np.ndarray
    """uint8, packed: those below the range that is looked at."""
    near: np.ndarray
    """uint32 (m,): positions in the piece of those in that range."""
    keys: np.ndarray
    """uint32 (m,): their keys."""


class Edge:
    """All that is undecided after the pass; `decide` settles it.

    `count` is how many there are; afterwards `floor` is the lowest pattern taken, above the range's
    bottom, and `last` how many of it are taken.
    """

    def __init__(self, shelf: Shelf, seed: int, patterns: int) -> None:
        """`patterns` is the number of bit patterns in the range."""
        self._shelf, self._seed = shelf, seed
        self._all: list[Undecided] = []
        self._counts = np.zeros(patterns, dtype=np.int64)
        self.count = self.floor = self.last = 0

    def add(
        self,
        name: str,
        start: int,
        numel: int,
        even: np.ndarray | None,
        odd: np.ndarray,
        low: np.ndarray,
    ) -> None:
        """Take note of one piece: even ones packed, others by position and lower bits (`Undecided`)."""
        put = self._shelf.put
        self.count += len(low)
        if even is not None:
            number = count_bits(even)
            self._counts[0] += number
            self.count += number
        kept = None if even is None else put(even)
        self._all.append(Undecided(name, start, numel, kept, put(odd), put(low)))

    def decide(self, needed: int) -> Iterator[tuple[str, int, np.ndarray]]:
        """Take exactly `needed` of them; yield name, start and packed bits of each piece's."""
        self._count_lows()
        at_least = np.cumsum(self._counts[::-1])[::-1]
        floor = int(np.flatnonzero(at_least >= needed)[-1])
        ties = int(self._counts[floor])
        missing = needed - int(at_least[floor] - ties)
        self.floor, self.last = floor, missing
        above = floor if missing == ties else floor + 1
        taken = None if missing == ties else self._taken_ties(floor, missing, ties)
        for place, (piece, bits) in enumerate(
            for_each(self._all, lambda piece: self._from(piece, above))
        ):
            if taken is not None:
                kept, last = taken[place]
                bits |= self._shelf.get(kept) | packed(np.array(last, np.int64), piece.numel)
            yield piece.name, piece.start, bits

    def _count_lows(self) -> None:
        """Add the odd ones to the counts, a few million at a time."""
        batch, size = [], 0
        for number, kept in enumerate(self._all, 1):
            batch.append(self._shelf.get(kept.low))
            size += len(batch[-1])
            if size >= _BATCH or number == len(self._all):
                low = torch.from_numpy(np.concatenate(batch).view(np.int32))
                self._counts += torch.bincount(low, minlength=len(self._counts)).numpy()
                batch, size = [], 0

    def _taken_ties(self, floor: int, missing: int, ties: int) -> list[tuple[Kept, list[int]]]:
        share = missing / ties
        spread = 8 * (share * (1 - share) / ties) ** 0.5 + 32 / ties
        while (taken := self._first_ties(floor, missing, share, spread)) is None:
            spread *= 16
        return taken

    def _first_ties(
        self, floor: int, missing: int, share: float, spread: float
    ) -> list[tuple[Kept, list[int]]] | None:
        """Take the first `missing` ties in order of (key, name, position): of each piece packed bits,
        and the positions of the last few.

        Keys are uniform, so the last one taken lies near `share` of their range: only keys within
        `spread` of it are sorted. None if that guess was wrong.
        """
        low = max(0, int((share - spread) * _KEYS))
        high = min(_KEYS - 1, int((share + spread) * _KEYS))
        taken: list[tuple[Kept, list[int]]] = []
        near = []
        for piece, ties in for_each(self._all, lambda piece: self._ties(piece, floor, low, high)):
            where = ties.near.astype(np.int64) + piece.start
            near += zip(ties.keys.tolist(), repeat(piece.name), where.tolist(), repeat(len(taken)))
            taken.append((self._shelf.put(ties.below), []))
            missing -= count_bits(ties.below)
        if not 0 <= missing <= len(near):
            return None
        for _, _, where, place in sorted(near)[:missing]:
            taken[place][1].append(where - self._all[place].start)
        return taken

    def _ties(self, piece: Undecided, floor: int, low: int, high: int) -> _Ties:
        odd = self._shelf.get(piece.odd)
        ties = self._one_by_one(piece, odd[self._shelf.get(piece.low) == floor], low, high)
        if floor or piece.even is None:
            return ties
        more = self._even_ties(piece, self._shelf.get(piece.even), low, high)
        return _Ties(
            ties.below | more.below,
            np.concatenate([ties.near, more.near]),
            np.concatenate([ties.keys, more.keys]),
        )

    def _even_ties(self, piece: Undecided, even: np.ndarray, low: int, high: int) -> _Ties:
        if 8 * count_bits(even) < piece.numel:  # fewer are quicker one by one
            return self._one_by_one(piece, ones(even), low, high)
        own = keys("ties", piece.name, piece.start, piece.start + piece.numel, self._seed)
        less = np.packbits(own < low, bitorder="little")
        near = ones((np.packbits(own <= high, bitorder="little") ^ less) & even)
        return _Ties(less & even, near, own[near])

    def _one_by_one(self, piece: Undecided, where: np.ndarray, low: int, high: int) -> _Ties:
        own = keys_at("ties", piece.name, piece.start, where, self._seed)
        close = (own >= low) & (own <= high)
        return _Ties(packed(where[own < low], piece.numel), where[close], own[close])

    def _from(self, piece: Undecided, floor: int) -> np.ndarray:
        """Return, packed, the scores of a piece that lie at `floor` or above it."""
        odd, low = self._shelf.get(piece.odd), self._shelf.get(piece.low)
        taken = packed(odd[low >= np.uint32(floor)], piece.numel)
        return taken | self._shelf.get(piece.even) if floor == 0 and piece.even else taken
