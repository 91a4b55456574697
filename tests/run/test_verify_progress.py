"""What `lmx verify mesh` says while it runs."""

from __future__ import annotations

from lmx.run.verify_progress import Progress, opening


def test_rows_are_counted_and_the_rest_is_estimated():
    now, said = [0.0], []
    progress = Progress(3, said.append, clock=lambda: now[0])
    for name, seconds in (("single", 20.0), ("fsdp", 60.0), ("remat", 10.0)):
        now[0] += seconds
        progress.ended(name, seconds)
    assert said == [
        "lmx verify mesh: row 1 of 3: single (20 s; 20 s so far, about 40 s to go)",
        "lmx verify mesh: row 2 of 3: fsdp (60 s; 80 s so far, about 40 s to go)",
        "lmx verify mesh: row 3 of 3: remat (10 s; 90 s so far)",
    ]


def test_what_will_run_is_said_and_how_to_leave_it_out():
    said = opening(["single", "fsdp"], ["remat"], steps=4)
    assert said.startswith("lmx verify mesh: 4 rows of 4 steps, single twice: single, fsdp; then remat")
    assert "verify.rows=[]" in said
    assert "verify.rows" not in opening(["single", "fsdp"], [], steps=4)
