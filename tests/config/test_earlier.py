"""Runs of earlier versions: keys that came since are filled in where that changes nothing, and named where it would."""

from pathlib import Path

import yaml

from lmx.config.component import Component, Config, field
from lmx.config.earlier import completed, read_frozen
from lmx.config.validate import validate
from lmx.run.config import TrainConfig

FROZEN = Path(__file__).parent / "earlier"


class Part(Component):
    size: int = field("a number")


class Grown(Part):
    more: int = field("a number that came later", before=0)


class Root(Config):
    part: Part = field("one")
    parts: dict[str, Part] = field("some")
    row: list[Part] = field("others")
    note: str | None = field("a text that came later", before=None)
    new: int = field("a number that came later, for which no value does what was done before")


def test_keys_that_came_later_are_filled_in_at_every_depth():
    here = {"_target_": f"{__name__}.Grown", "size": 1}
    tree = {"part": dict(here), "parts": {"a": dict(here)}, "row": [{**here, "more": 7}, dict(here)]}
    found = completed(tree, Root)
    assert found["part"] == {**here, "more": 0}
    assert found["parts"] == {"a": {**here, "more": 0}}
    assert [part["more"] for part in found["row"]] == [7, 0]
    assert found["note"] is None
    assert "new" not in found
    assert "more" not in tree["part"]
    assert [p.key for p in validate(Root, found).problems] == ["new"]


def test_every_frozen_run_of_the_past_is_still_read():
    """One file a version that froze it. A key that is new since then needs `before` in its class."""
    files = sorted(FROZEN.glob("*.yaml"))
    assert files
    for file in files:
        checked = validate(TrainConfig, read_frozen(file, TrainConfig))
        assert checked.problems == [], file
        assert yaml.safe_load(file.read_text()).keys() <= TrainConfig.model_fields.keys()
