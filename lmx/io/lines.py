"""Records in JSON, and what they must hold: files of lines, which only grow, an object a line, by processes that may be
killed while they write, and files of one object.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from lmx.config.errors import RequestError
from lmx.config.foreign import parse_json, quoted

Fits = Callable[[Mapping[str, Any]], str | None]
"""What is wrong with a line's object, in words; None where it can be used."""


class Lines(NamedTuple):
    """objects: of the lines that can be used, in order; bad: `FILE:LINE: what is wrong` of those that cannot.

    A line that a process was writing when it was killed is neither: it is passed over.
    """

    objects: list[dict[str, Any]]
    bad: tuple[str, ...]

    def sound(self) -> list[dict[str, Any]]:
        """The objects; RequestError that names the first bad line."""
        if self.bad:
            raise RequestError(
                f"{self.bad[0]}; the file is damaged: bring it back from a copy, or remove the line"
            )
        return self.objects


def read_record(path: Path, shape: Mapping[str, Callable[[Any], bool]]) -> dict[str, Any] | None:
    """The object in a file, None where there is none; RequestError where it is damaged, with what does not fit."""
    try:
        found = parse_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise RequestError(f"{path} cannot be read: {error}") from error
    expect_shape(path, found, shape)
    return found


def expect_shape(path: Path, found: Any, shape: Mapping[str, Callable[[Any], bool]]) -> None:
    """RequestError where what a file holds is no object of this shape."""
    wrong = misfit(found, shape) if isinstance(found, dict) else "no object of JSON"
    if wrong:
        raise RequestError(f"{path}: {wrong}; the file is damaged: bring it back from a copy, or remove it")


def read_lines(path: Path, fits: Fits | None = None) -> Lines:
    """The lines of a file, none where it is missing or cannot be read."""
    try:
        return parse_lines(path.read_bytes(), str(path), fits)
    except OSError:
        return Lines([], ())


def parse_lines(raw: bytes, name: str, fits: Fits | None = None) -> Lines:
    """The lines of `raw`, which problems call `name`."""
    objects: list[dict[str, Any]] = []
    bad = []
    for number, line in enumerate(raw.split(b"\n"), 1):
        if not line.rstrip().endswith(
            b"}"
        ):  # empty, or cut short by a kill: the next process began a new one
            continue
        try:
            found = parse_json(line.decode("utf-8"))
            wrong = "not an object" if not isinstance(found, dict) else fits(found) if fits else None
        except ValueError:
            found, wrong = {}, "not a line of JSON"
        if wrong is None:
            objects.append(found)
        else:
            bad.append(f"{name}:{number}: {wrong}")
    return Lines(objects, tuple(bad))


# ---- what a value can be


def is_count(value: Any) -> bool:
    """Whether a value is a number of steps, attempts or the like."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 53


def is_number(value: Any) -> bool:
    """Whether a value is a whole number, also a negative one, as exit codes can be."""
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 53


def is_switch(value: Any) -> bool:
    """Whether a value is true or false."""
    return isinstance(value, bool)


def is_time(value: Any) -> bool:
    """Whether a value is a number of seconds, also one since 1970."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value) and 0 <= value < 1e11


def is_text(value: Any) -> bool:
    """Whether a value is a string."""
    return isinstance(value, str)


def is_texts(value: Any) -> bool:
    """Whether a value is a list of texts."""
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def is_object(value: Any) -> bool:
    """Whether a value is an object of JSON."""
    return isinstance(value, dict)


def is_texts_by_name(value: Any) -> bool:
    """Whether a value is an object of JSON all of whose values are texts."""
    return isinstance(value, dict) and is_texts(list(value.values()))


def maybe(check: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """`check`, or null."""
    return lambda value: value is None or check(value)


def misfit(record: Mapping[str, Any], shape: Mapping[str, Callable[[Any], bool]]) -> str | None:
    """The first key of `shape` whose value is missing or not what its check asks for, in words; None where all fit."""
    for key, check in shape.items():
        if key not in record:
            return f"no `{key}`"
        if not check(record[key]):
            return f"`{key}` cannot be {quoted(record[key])}"
    return None
