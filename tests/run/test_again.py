"""The command that goes on with a run."""

from lmx.run.again import command_again


def test_a_launched_run_is_gone_on_with_by_its_launcher(tmp_path):
    run = tmp_path / "a run"
    (run / "launch").mkdir(parents=True)
    assert command_again(run).startswith("lmx train 'resume=")
    (run / "launch/plan.json").touch()
    assert command_again(run) == f"lmx launch resume '{run}'"
