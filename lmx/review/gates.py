"""`gates`: named rules over what a review knows, each with its reason; one that fails can be waived, in writing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from lmx.config.component import Config, field
from lmx.config.near import nearest
from lmx.config.types import Real, Text


class Gate(Config):
    """A number of the review, and the range it should lie in."""

    value: Text = field(
        "name of a number of the review (consequences, derived, checks)", effect="bookkeeping"
    )
    at_least: Real | None = field("the least that passes; null: no such limit", effect="bookkeeping")
    at_most: Real | None = field("the most that passes; null: no such limit", effect="bookkeeping")
    reason: Text = field("why, and what to do about it", effect="bookkeeping")


Status = Literal["pass", "fail", "waived", "unknown", "off"]


class Judged(NamedTuple):
    """A gate as it stands: `unknown` where the review cannot tell its number, `off` where it has no limit.

    number         the name of the number that it is about, `value` the number
    justification  of a waived one, as it is written in the configuration
    origin         where that stands
    """

    name: str
    status: Status
    number: str
    value: float | None
    at_least: float | None
    at_most: float | None
    reason: str
    justification: str = ""
    origin: str = ""


def judge(
    gates: Mapping[str, Gate],
    facts: Mapping[str, Any],
    waived: Mapping[str, str],
    origins: Mapping[str, str],
) -> list[Judged]:
    """Every gate. ValueError: a waiver of no gate, or without words; a gate over an unknown number."""
    for name, words in waived.items():
        if name not in gates:
            near = nearest(name, gates)
            meant = f"; meant: waive.{near}" if near else ""
            raise ValueError(f"waive.{name}: there is no such gate{meant}; there are {', '.join(gates)}")
        if len(words.split()) < 3:
            raise ValueError(
                f"waive.{name}={words!r}: say why in a sentence, for those who review it after you"
            )
    found = []
    for name, gate in gates.items():
        if gate.value not in facts:
            raise ValueError(
                f"gates.{name}.value={gate.value}: a review has no such number; it has {', '.join(sorted(facts))}"
            )
        found.append(_judged(name, gate, facts[gate.value], waived, origins))
    order = ("fail", "waived", "unknown", "pass", "off")
    return sorted(found, key=lambda j: order.index(j.status))


def judge_again(
    judged: Sequence[Mapping[str, Any]],
    gates: Mapping[str, Gate],
    facts: Mapping[str, Any],
    waived: Mapping[str, str],
    origins: Mapping[str, str],
) -> list[Judged]:
    """The gates once more, where some of the numbers, `facts`, are known better since."""
    return judge(gates, {**{one["number"]: one["value"] for one in judged}, **facts}, waived, origins)


def _judged(
    name: str, gate: Gate, value: Any, waived: Mapping[str, str], origins: Mapping[str, str]
) -> Judged:
    status: Status = "pass"
    if gate.at_least is None and gate.at_most is None:
        status = "off"
    elif value is None:
        status = "unknown"
    elif (gate.at_least is not None and value < gate.at_least) or (
        gate.at_most is not None and value > gate.at_most
    ):
        status = "waived" if name in waived else "fail"
    words = waived.get(name, "") if status == "waived" else ""
    origin = origins.get(f"waive.{name}", "") if words else ""
    return Judged(name, status, gate.value, value, gate.at_least, gate.at_most, gate.reason, words, origin)
