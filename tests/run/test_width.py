"""`lmx verify width`: the coordinate check."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from lmx.config.compose import Composer
from lmx.run.width import Coordinate, Found, Grows, as_text, check, exponent
from lmx.run.width_config import VerifyWidth
from tests.support import ROOT


def test_the_exponent_is_that_of_a_power_law():
    assert exponent([32, 64, 128], [3.0, 6.0, 12.0]) == pytest.approx(1.0)
    assert exponent([32, 64, 128], [2.0, 2.0, 2.0]) == pytest.approx(0.0)


def test_what_grows_is_named():
    steady, grows = Coordinate("query", [1.0, 1.0], 0.0), Coordinate("logits", [1.0, 2.0], 1.0)
    found = Found([32, 64], 4, [3.0, 2.9], [steady, grows], 0.25)
    with pytest.raises(Grows, match="logits"):
        check(found)
    assert [line.endswith("grows") for line in as_text(found).splitlines()[2:4]] == [False, True]
    check(found._replace(coordinates=[steady]))


def test_one_width_has_no_exponent():
    problems = Composer("verify_width", VerifyWidth).check(["widths=[64]"])[1]
    assert [(p.key, p.fix) for p in problems] == [("widths", "'widths=[64,128]'")]


@pytest.mark.slow
@pytest.mark.parametrize(("experiment", "code"), [("width_ladder_mup", 0), ("width_ladder", 1)])
def test_mup_keeps_changes_alike_and_the_standard_parametrisation_does_not(experiment, code):
    words = [f"experiment={experiment}", "widths=[64,256]", "data.max_bytes=1M", "output=json"]
    done = subprocess.run(
        [sys.executable, "-m", "lmx", "verify", "width", *words], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == code, done.stderr[-2000:]
    exponents = [c["exponent"] for c in json.loads(done.stdout)["coordinates"]]
    assert max(exponents) < 0.25 if code == 0 else min(exponents) > 0.25
