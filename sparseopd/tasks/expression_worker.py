"""The process that compares expressions: a pair a line on stdin, true or false a line on stdout.

Run by path, so that it loads nothing of this package. `sparseopd.tasks.expressions` starts it, and
ends it where SymPy is caught in a number such as 9^9^9^9: no signal reaches it there.
"""

from __future__ import annotations

import json
import logging
import sys

MEMORY = 4 * 2**30
"""Bytes of address space it may have, where the system can limit it."""


def same(said: str, wanted: str) -> bool:
    """Whether two expressions are the same by math-verify; raises nothing."""
    from math_verify import parse, verify

    try:
        wished, given = (parse(text, parsing_timeout=None) for text in (wanted, said))  # pyright: ignore
        # None: its own timeouts are signals, which work in the main thread alone.
        return bool(wished and given and verify(wished, given, timeout_seconds=None))
    except (Exception, RecursionError, MemoryError):
        return False


def main() -> None:
    """Answer until stdin ends, which is when the process that asks has ended."""
    logging.disable(logging.CRITICAL)
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    except (ImportError, ValueError, OSError):
        pass
    import math_verify  # noqa: F401

    print("ready", flush=True)
    for line in sys.stdin:
        said, wanted = json.loads(line)
        print(json.dumps(same(said, wanted)), flush=True)


if __name__ == "__main__":
    main()
