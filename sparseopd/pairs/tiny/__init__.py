"""The bundled student/teacher pairs: small enough for a laptop, real enough to learn from.

Each pair is a folder of two Hugging Face models and two prompt files, made by
`python -m sparseopd.pairs.tiny.build NAME -o DIR`:

    tiny-arithmetic/            a noisy student, a larger teacher      train.jsonl, test.jsonl
    tiny-arithmetic-sibling/    a student without borrowing, its own further-trained sibling
    tiny-digits/                a vision-language pair on 8x8 digits   train.parquet, test.parquet

Importing this package loads no torch; only the build modules inside it do.
"""

from pathlib import Path

from sparseopd.errors import RequestError

BUNDLED: tuple[str, ...] = ("tiny-arithmetic", "tiny-arithmetic-sibling", "tiny-digits")


def folder(name: str) -> Path:
    """Return the folder of one bundled pair.

    Raises:
        RequestError: no pair of that name is bundled.
    """
    if name not in BUNDLED:
        raise RequestError(
            f"no bundled pair is called {name!r}: choose one of {', '.join(BUNDLED)}"
        )
    return Path(__file__).parent / name


__all__ = ["BUNDLED", "folder"]
