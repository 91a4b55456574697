"""Arithmetic for YAML: `${mul:4,${.d_model}}`, `${div:a,b}` (exact), `${add:...}`, `${if:flag,a,b}`, ...

Arguments are numbers as people write them (`300M`, `1e3`). What cannot be computed exactly raises ValueError,
which the validation pass reports with the key and the place of the interpolation.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from omegaconf import OmegaConf

from lmx.config.hardware import devices_at_hand, preset_for
from lmx.config.types import parse_real, parse_whole

Number = int | float


def _number(value: Any, name: str) -> Number:
    for parse in (parse_whole, parse_real):
        try:
            return parse(value)
        except ValueError:
            continue
    raise ValueError(f"{name} needs numbers, got {value!r}")


def _numbers(values: tuple[Any, ...], name: str, *, least: int = 2) -> list[Number]:
    if len(values) < least:
        raise ValueError(f"{name} needs at least {least} numbers, got {len(values)}")
    return [_number(value, name) for value in values]


def add(*values: Any) -> Number:
    """The sum."""
    return sum(_numbers(values, "add"))


def sub(left: Any, right: Any) -> Number:
    """The difference."""
    return _number(left, "sub") - _number(right, "sub")


def mul(*values: Any) -> Number:
    """The product; a whole number where it comes out whole (`${mul:8,0.5}` is 4)."""
    product = math.prod(_numbers(values, "mul"))
    return int(product) if product == int(product) else product


def div(left: Any, right: Any) -> int:
    """The quotient of two whole numbers that divide exactly; ValueError otherwise."""
    a, b = parse_whole(left), parse_whole(right)
    if b == 0:
        raise ValueError(f"div: {a} cannot be divided by 0")
    if a % b:
        raise ValueError(f"div: {a} is not a multiple of {b}; ${{ratio:{a},{b}}} divides with a remainder")
    return a // b


def ratio(left: Any, right: Any) -> float:
    """The quotient as a real number."""
    a, b = _number(left, "ratio"), _number(right, "ratio")
    if b == 0:
        raise ValueError(f"ratio: {a} cannot be divided by 0")
    return a / b


def ceil_to(value: Any, multiple: Any) -> int:
    """The smallest multiple of `multiple` that is not below `value` (`${ceil_to:50257,128}` is 50304)."""
    step = parse_whole(multiple)
    if step < 1:
        raise ValueError(f"ceil_to needs a positive multiple, got {step}")
    exact = Fraction(str(_number(value, "ceil_to")))
    return math.ceil(exact / step) * step


def round_to(value: Any, multiple: Any = 1) -> int:
    """The multiple of `multiple` nearest to `value`, halves upwards."""
    step = parse_whole(multiple)
    if step < 1:
        raise ValueError(f"round_to needs a positive multiple, got {step}")
    exact = Fraction(str(_number(value, "round_to")))
    return math.floor(exact / step + Fraction(1, 2)) * step


def power(base: Any, exponent: Any) -> Number:
    """`base` to the power of `exponent`."""
    return _number(base, "pow") ** _number(exponent, "pow")


def square_root(value: Any) -> float:
    """The square root."""
    number = _number(value, "sqrt")
    if number < 0:
        raise ValueError(f"sqrt: {number} is negative")
    return math.sqrt(number)


def least(*values: Any) -> Number:
    """The smallest of the numbers."""
    return min(_numbers(values, "min"))


def greatest(*values: Any) -> Number:
    """The largest of the numbers."""
    return max(_numbers(values, "max"))


def up_to(value: Any, limit: Any) -> Number:
    """`value`, or `limit` where that is a smaller number; null is no limit."""
    return _number(value, "up_to") if limit is None else min(_numbers((value, limit), "up_to"))


def choose(flag: Any, yes: Any, no: Any) -> Any:
    """`yes` where the flag is true, else `no`."""
    if not isinstance(flag, bool):
        raise ValueError(f"if needs true or false first, got {flag!r}")
    return yes if flag else no


def by_device(*rules: Any) -> str:
    """The option of the first pattern that is found in the name of the devices (see `lmx.config.hardware`)."""
    return preset_for(devices_at_hand(), *rules)


def token(length: Any = 4) -> str:
    """Random hexadecimal letters, the same wherever one configuration uses them."""
    return secrets.token_hex(16)[: parse_whole(length)]


RESOLVERS: dict[str, Callable[..., Any]] = {
    "add": add,
    "sub": sub,
    "mul": mul,
    "div": div,
    "ratio": ratio,
    "ceil_to": ceil_to,
    "round_to": round_to,
    "pow": power,
    "sqrt": square_root,
    "min": least,
    "max": greatest,
    "up_to": up_to,
    "if": choose,
    "by_device": by_device,
}


def register() -> None:
    """Makes the resolvers known to OmegaConf; doing it again is harmless."""
    for name, function in RESOLVERS.items():
        OmegaConf.register_new_resolver(name, function, replace=True)
    OmegaConf.register_new_resolver("token", token, use_cache=True, replace=True)
