"""How glibc gives out memory to the threads that measure parts."""

from __future__ import annotations

import ctypes

M_ARENA_MAX = -8
"""mallopt(3): how many arenas there may be. From glibc 2.36's malloc.h."""


def share_one_arena() -> None:
    """Let all threads allocate from one arena, where glibc is the allocator; else do nothing.

    Each thread would keep for itself what it has freed of its large temporaries: a fifth of the peak. It
    takes hold of threads that have not allocated yet.
    """
    try:
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, 1)
    except (AttributeError, OSError, TypeError):
        return
