"""Numbers and foreign text as words: the one place that decides digits, units and signs.

Shares are 0…1 and come out in percent; KL is in nats a token; times are in seconds. A figure that
is missing or not finite comes out as `MISSING`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable

from sparseopd.artifacts import Interval

MISSING = "–"
Form = Callable[[float], str]

# Control characters and lone surrogates: XML and UTF-8 forbid them, and some steer a terminal.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def clean(text: str) -> str:
    """Replace characters that cannot stand in XML, UTF-8 or a terminal by U+FFFD."""
    return _UNPRINTABLE.sub("\ufffd", text.replace("\r\n", "\n"))


def shorten(text: str, limit: int) -> str:
    """Put `text` on one line and cut it to `limit` characters.

    The middle goes: names of runs differ at their ends.
    """
    line = " ".join(clean(text).split())
    if len(line) <= limit:
        return line
    tail = (limit - 1) // 2
    return f"{line[: limit - 1 - tail]}…{line[len(line) - tail :]}"


def _number(value: float, spec: str) -> str:
    """Format with a real minus sign, never showing −0."""
    text = format(value, spec)
    if not text.strip("-0."):
        text = text.lstrip("-")
    return text.replace("-", "−")


def accuracy(share: float) -> str:
    """61.2 for 0.612."""
    return _number(100 * share, ".1f")


def signed(value: float, spec: str) -> str:
    """Format with its sign, +34.8 or −0.5; what rounds to nothing has none."""
    text = _number(value, spec)
    return f"+{text}" if value > 0 and text.strip("0.") else text


def points(share: float) -> str:
    """+34.8 for 0.348: a difference of accuracies, in percentage points."""
    return signed(100 * share, ".1f")


def kept(ratio: float) -> str:
    """97 for 0.971; ratios of tiny gains run away, so they end at ±999."""
    if abs(ratio) >= 9.995:
        return ">999" if ratio > 0 else "<−999"
    return _number(100 * ratio, ".0f")


def density(share: float) -> str:
    """10 for 0.1, 0.25 for 0.0025: three significant digits."""
    return scientific(100 * share)


def percent(share: float) -> str:
    """10.0 for 0.1, 0.12 for 0.0012, 1.2e-4: two or three digits, zeros kept, for columns of them."""
    value = 100 * share
    if value < 1e-3:
        return rate(float(f"{value:.1e}"))
    return format(value, "#.3g" if value >= 1 else "#.2g").rstrip(".")


def scientific(value: float) -> str:
    """Three significant digits: 0.0123, 3e-4. Used for KL and learning rates."""
    return re.sub(r"e([+-])0*", lambda found: "e" + found[1].strip("+"), f"{value:.3g}")


def rate(value: float) -> str:
    """A learning rate, in scientific notation below 0.01 (torch's own habit: 3e-4)."""
    if not 0 < value < 0.01:
        return scientific(value)
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


def duration(seconds: float) -> str:
    """17 s, 12 min, 3.4 h."""
    if seconds < 120:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def show(value: float | None, form: Form, unit: str = "") -> str:
    """Format a figure that may be missing."""
    return MISSING if value is None or not math.isfinite(value) else form(value) + unit


def bracket(interval: Interval, form: Form) -> str:
    """[91, 103]"""
    return f"[{show(interval.low, form)}, {show(interval.high, form)}]"


def with_interval(interval: Interval | None, form: Form, unit: str = "") -> str:
    """97 % [91, 103]"""
    if interval is None:
        return MISSING
    return f"{show(interval.mean, form, unit)} {bracket(interval, form)}"
