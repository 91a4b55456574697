"""The command line: one thin file a command; a new one is a `Command` and a line in `lmx.cli.commands`."""

from lmx.cli.command import Command

__all__ = ["Command"]
