"""`lmx verify mesh=a,b`: the command is found, and options with commas between them become a list."""

from __future__ import annotations

from lmx.cli.commands import command, find


def test_the_mesh_alone_tells_the_command():
    assert find(["verify", "mesh=single,fsdp"]) == ("verify mesh", ["mesh=single,fsdp"])
    assert find(["verify", "experiment=quickstart"]) == ("verify mesh", ["experiment=quickstart"])
    assert find(["verify", "mesh", "mesh=a"]) == ("verify mesh", ["mesh=a"])


def test_options_are_listed_and_the_first_is_chosen():
    lines = command("verify mesh").with_implied(["mesh=single,fsdp", "trainer.seed=1"])
    assert lines == ["mesh=single", "meshes=[single,fsdp]", "trainer.seed=1"]
    assert command("train").with_implied(["mesh=a,b"]) == ["mesh=a,b"]
