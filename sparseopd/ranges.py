"""The kinds of numbers a setting may be; pydantic checks them."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt
from pydantic import FiniteFloat

Fraction = Annotated[FiniteFloat, Gt(0), Le(1)]
Positive = Annotated[FiniteFloat, Gt(0)]
NotNegative = Annotated[FiniteFloat, Ge(0)]
Beta = Annotated[FiniteFloat, Ge(0), Lt(1)]
Confidence = Annotated[float, Gt(0.5), Le(0.999)]
Count = Annotated[int, Ge(1)]
CountOrZero = Annotated[int, Ge(0)]
Seed = Annotated[int, Ge(0), Lt(2**31)]
Dtype = Literal["float32", "bfloat16", "float16"]
