"""The types of configuration values: numbers as people write them, exact or refused."""

from __future__ import annotations

import math
import re
from fractions import Fraction as _Exact
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

_SUFFIXES = {"k": 10**3, "M": 10**6, "B": 10**9, "G": 10**9, "T": 10**12}
_SECONDS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}
_NUMBER = r"[+-]?(?:\d+(?:_\d+)*\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"


def parse_whole(value: Any) -> Any:
    """A whole number from `12`, `1e3`, `"1_000"`, `"300M"` or `"20B"`; exact, or ValueError."""
    if isinstance(value, bool):
        raise ValueError(f"expected a whole number, got {str(value).lower()}")
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        if value != value or value in (float("inf"), float("-inf")) or value != int(value):
            raise ValueError(f"expected a whole number, got {value}")
        return int(value)
    if isinstance(value, str):
        match = re.fullmatch(rf"({_NUMBER})\s*([kMBGT]?)", value.strip())
        if match:
            exact = _Exact(match[1].replace("_", "")) * _SUFFIXES.get(match[2], 1)
            if exact.denominator == 1:
                return int(exact)
    raise ValueError(f"expected a whole number (such as 12, 1e3 or 300M), got {value!r}")


def parse_real(value: Any) -> Any:
    """A number from `0.1`, `3`, `"1e-3"`, `"10k"`; ValueError for booleans, text, NaN and what is infinite."""
    match = re.fullmatch(rf"({_NUMBER})\s*([kMBGT]?)", value.strip()) if isinstance(value, str) else None
    if match:
        value = float(match[1]) * _SUFFIXES.get(match[2], 1)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"expected a number, got {value!r}")
    if not math.isfinite(value):
        raise ValueError(f"expected a finite number, got {value}")
    return float(value)


def parse_duration(value: Any) -> Any:
    """Seconds from `90`, `"90s"`, `"30m"`, `"2h"`, `"1d"` or a sequence such as `"1h30m"`."""
    if isinstance(value, str):
        parts = re.findall(r"(\d+(?:\.\d+)?)\s*(min|[smhd])", value)
        if parts and "".join(n + u for n, u in parts) == value.replace(" ", ""):
            return float(sum(float(n) * _SECONDS[u] for n, u in parts))
    try:
        if isinstance(value, str) and value.rstrip()[-1:] in _SUFFIXES:
            raise ValueError
        return parse_real(value)
    except ValueError:
        raise ValueError(f"expected a duration (such as 90s, 30m, 2h, 1h30m), got {value!r}") from None


def parse_text(value: Any) -> Any:
    """Text; a number written without quotes counts as the text of that number."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise ValueError(f"expected text, got {value!r}")
    return value


def parse_flag(value: Any) -> Any:
    """`true` or `false`, nothing else."""
    if not isinstance(value, bool):
        raise ValueError(f"expected true or false, got {value!r}")
    return value


Whole = Annotated[int, BeforeValidator(parse_whole)]
Count = Annotated[int, BeforeValidator(parse_whole), Field(ge=0)]
Positive = Annotated[int, BeforeValidator(parse_whole), Field(gt=0)]
Real = Annotated[float, BeforeValidator(parse_real)]
NonNegative = Annotated[float, BeforeValidator(parse_real), Field(ge=0)]
PositiveReal = Annotated[float, BeforeValidator(parse_real), Field(gt=0)]
Fraction = Annotated[float, BeforeValidator(parse_real), Field(ge=0, le=1)]
Decay = Annotated[float, BeforeValidator(parse_real), Field(ge=0, lt=1)]
Duration = Annotated[float, BeforeValidator(parse_duration), Field(gt=0)]
Text = Annotated[str, BeforeValidator(parse_text)]
Flag = Annotated[bool, BeforeValidator(parse_flag)]
