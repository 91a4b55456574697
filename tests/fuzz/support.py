"""What the fuzz tests share: how many cases, damaged documents and bytes, and what a reader may answer."""

from __future__ import annotations

import copy
import json
import os
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from lmx.config.errors import ConfigError

CASES = int(os.environ.get("LMX_FUZZ_CASES", "30"))
_MEMORY = 1 << 30
_HANG_S = 60
_BARE = (UnicodeDecodeError, json.JSONDecodeError, ValidationError)
"""ValueErrors in the words of a library, which name no file and no cure."""


def cases(share: float = 1.0) -> settings:
    """`share` of LMX_FUZZ_CASES examples: the same ones each time in CI, others each night."""
    return settings(
        max_examples=max(5, int(CASES * share)),
        deadline=None,
        derandomize=CASES < 1000,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


class Hung(BaseException):
    """A reader did not come back; none of those that catch every Exception may catch this."""


@contextmanager
def bounded() -> Iterator[None]:
    """Inside, at most a GiB more of address space can be had, and a minute is all the time there is."""

    def hung(*_: object) -> None:
        raise Hung

    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    before = signal.signal(signal.SIGALRM, hung)
    signal.alarm(_HANG_S)
    resource.setrlimit(resource.RLIMIT_AS, (size + _MEMORY, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def answer(read: Callable[[], Any]) -> Any:
    """What a reader gives, or None where it refuses in words of its own; every other exception goes on."""
    with bounded():
        try:
            return read()
        except (ValueError, ConfigError, OSError) as error:
            assert not isinstance(error, _BARE), f"not in words of our own: {error!r}"  # noqa: PT017
            several = len(error.problems) if isinstance(error, ConfigError) else 0  # every one is told
            told = len(str(error))
            assert 0 < told < 20_000 + 300 * several, "the message is empty, or floods the terminal"
            return None


SCALARS = st.sampled_from(
    [None, True, False, 0, -1, 1, 7, 2**31, 2**63, 2**64, 10**30, -(10**30), 0.0, 0.5, -1.5, 1e308]
    + [float("inf"), float("-inf"), float("nan"), "", "x", "NaN", "../x", "/etc/passwd", "a\nb", "\x00", "é"]
    + ["\ud800", "1e3", "300M", "${x}", "___class___", "x" * 300, [], {}, [None], [[]], {"": None}, {"a": []}]
)
VALUES = SCALARS | st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)


def _places(node: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) in a document."""
    found = []
    for key in list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ():
        found += [(node, key), *_places(node[key])]
    return found


@st.composite
def damaged(draw: Any, document: Any) -> Any:
    """A JSON document with one to three values replaced, removed, renamed, added or swapped."""
    whole = [copy.deepcopy(document)]
    for _ in range(draw(st.integers(1, 3))):
        places = _places(whole)
        node, key = places[draw(st.integers(0, len(places) - 1))]
        act = draw(st.sampled_from(["replace", "replace", "replace", "remove", "rename", "add", "swap"]))
        if act == "replace" or node is whole:
            node[key] = copy.deepcopy(draw(VALUES))
        elif act == "remove":
            del node[key]
        elif act == "rename" and isinstance(node, dict):
            node[draw(st.text(max_size=5))] = node.pop(key)
        elif act == "add" and isinstance(node[key], list):
            node[key].append(copy.deepcopy(draw(VALUES)))
        elif act == "add" and isinstance(node[key], dict):
            node[key][draw(st.text(max_size=5))] = copy.deepcopy(draw(VALUES))
        else:
            other, at = places[draw(st.integers(0, len(places) - 1))]
            node[key] = copy.deepcopy(other[at])
        if not whole:
            whole = [None]
    return whole[0]


_PIECES = st.sampled_from(
    [b"", b"\0", b"\xff", b"\n", b"\r", b"{", b"}", b"[" * 30_000, b'{"a":' * 30_000]
) | (st.binary(max_size=12))


@st.composite
def damaged_bytes(draw: Any, raw: bytes) -> bytes:
    """Bytes with one to three stretches overwritten, cut out or put in, or the end lost."""
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(raw)))
        until = min(len(raw), at + draw(st.sampled_from([0, 1, 1, 2, 4, 8, 100])))
        act = draw(st.sampled_from(["put", "put", "put", "cut", "twice"]))
        if act == "cut":
            raw = raw[:at]
        elif act == "twice":
            raw = raw[:until] + raw[at:until] + raw[until:]
        else:
            raw = raw[:at] + draw(_PIECES) + raw[until:]
    return raw


def as_text(document: Any) -> str:
    """The document as JSON, lone surrogates and numbers that are not finite as Python writes them."""
    return json.dumps(document)


def documents_or_bytes(document: Any, indent: int | None = None) -> st.SearchStrategy[bytes]:
    """A file of JSON, damaged in its values or in its bytes."""
    raw = json.dumps(document, indent=indent).encode()
    return damaged(document).map(lambda found: as_text(found).encode()) | damaged_bytes(raw)
