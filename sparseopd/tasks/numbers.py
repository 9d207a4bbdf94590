r"""Read the number a text ends on: integer, decimal, fraction, with separators, in \boxed{}."""

from __future__ import annotations

import re
from decimal import Decimal
from fractions import Fraction

RELATIVE_TOLERANCE = Fraction(1, 10**6)
_LARGEST_EXPONENT = 400
"""A completion may say 1e999999999; as an exact fraction that would fill the memory."""

_UNSIGNED = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)?(?:\.\d+)?(?<=\d)(?:[eE][+-]?\d+(?!\d))?"
_NUMBER = re.compile(
    # A minus is a sign unless something stands right before it: `10-5` ends on 5, `x=-5` on -5.
    r"(?P<sign>(?<![\w)\]}])[-+])?"
    # A number never starts inside another one: `3.14.15` is 3.14.
    rf"(?<![\d.])(?P<top>(?=[\d.]){_UNSIGNED})"
    rf"(?:\s*/\s*(?P<bottom>(?=[\d.]){_UNSIGNED}))?"
)
_LATEX_FRACTION = re.compile(r"\\[dt]?frac\s*\{\s*([^{}]+?)\s*\}\s*\{\s*([^{}]+?)\s*\}")
_BOX = re.compile(r"\\boxed\s*\{")


def last_number(text: str) -> Fraction | None:
    r"""Return the last number of `text`, exactly; of its last \boxed{…} alone where it has one.

    Reads `-1,234.50`, `2.5e-3`, `3/4` and `\frac{3}{4}`. None where there is no number, or the last
    one is divided by zero.
    """
    plain = last_box(text).replace("{,}", ",").replace("−", "-")
    plain = _LATEX_FRACTION.sub(r"\1/\2", plain)
    numbers = list(_NUMBER.finditer(plain))
    if not numbers:
        return None
    found = numbers[-1]
    top, bottom = _exact(found["top"]), _exact(found["bottom"] or "1")
    if top is None or not bottom:
        return None
    return -top / bottom if found["sign"] == "-" else top / bottom


def same_number(left: Fraction, right: Fraction) -> bool:
    """Whether two numbers agree: whole numbers exactly, others within a relative 1e-6."""
    if left.denominator == right.denominator == 1:
        return left == right
    return abs(left - right) <= RELATIVE_TOLERANCE * max(abs(left), abs(right))


def _exact(digits: str) -> Fraction | None:
    mantissa, _, exponent = digits.replace(",", "").lower().partition("e")
    if len(exponent) > 5 or abs(int(exponent or 0)) > _LARGEST_EXPONENT:
        return None
    return Fraction(Decimal(mantissa)) * Fraction(10) ** int(exponent or 0)


def last_box(text: str) -> str:
    r"""Return what stands in the last \boxed{…}, to its matching brace; `text` without a box."""
    boxes = list(_BOX.finditer(text))
    if not boxes:
        return text
    inside, depth = text[boxes[-1].end() :], 1
    for place, character in enumerate(inside):
        depth += {"{": 1, "}": -1}.get(character, 0)
        if depth == 0:
            return inside[:place]
    return inside
