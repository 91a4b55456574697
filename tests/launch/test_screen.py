"""What the launching terminal shows of a log."""

from __future__ import annotations

from lmx.launch.screen import Screen

NOISE = """\
[Gloo] Rank 1 is connected to 3 peer ranks. Expected number of connected peer ranks is : 3
W1128 22:11:55.309953   29034 preemption_notifier.cc:90] SIGTERM caught at 2026-11-28T22:11:55.309952039+00:00
I1128 22:11:55.309953   29034 coordination_service_agent.cc:346] Coordination agent has been connected.
WARNING: All log messages before absl::InitializeLog() is called are written to STDERR
"""
KEPT = """\
step 1/8  loss 5.7332
E1128 22:11:55.309953   29034 coordination_service_agent.cc:346] Polled an error from coordination service
W1128 22:11:55.309953   29034 device_event_mgr.cc:12] Terminate connection: connection reset by peer
F1128 22:11:55.309953   29034 client.h:77] Terminating process because the JAX distributed service detected errors
[Gloo] connection closed by peer
lmx train: the disk is full
"""


def test_errors_are_shown_and_noise_is_not(tmp_path):
    log, shown = tmp_path / "task-0.log", []
    log.write_text(
        "".join(map("".join, zip(NOISE.splitlines(True) * 2, KEPT.splitlines(True), strict=False)))
    )
    Screen(shown.append).update(log)
    assert "".join(shown) == KEPT


def test_each_line_is_shown_once_and_whole(tmp_path):
    """A line may be read while it is written, in the middle of a letter too."""
    log, shown = tmp_path / "task-0.log", []
    screen = Screen(shown.append)
    screen.update(log)
    written = "[Gloo] Rank 0 is connected to 1 peer ranks.\nstep 1  äöü\nthe last words".encode()
    for end in range(0, len(written) + 1, 3):
        log.write_bytes(written[:end])
        screen.update(log)
    log.write_bytes(written)
    assert "".join(shown) == "step 1  äöü\n"
    screen.update(log, last=True)
    assert "".join(shown) == "step 1  äöü\nthe last words\n"
