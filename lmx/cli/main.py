"""`lmx COMMAND [overrides]`: finds the command; imports nothing that the answer does not need."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from lmx.cli.commands import available, command, find, unknown
from lmx.cli.pipe import nobody_reads


def main(arguments: Sequence[str] | None = None) -> None:
    """The entry point: runs a command and exits with its code."""
    if arguments is None:
        from lmx.config.environment import settle

        settle(sys.argv[1:])
        # Classes of one's own are found beside one's own files; at the end, so that nothing is shadowed.
        sys.path.append(os.getcwd())
    try:
        code = run(list(sys.argv[1:] if arguments is None else arguments))
        sys.stdout.flush()
    except BrokenPipeError:
        code = nobody_reads()
    end(code)


def end(code: int) -> NoReturn:
    """As `sys.exit`, but without the threads of saves that were given up, which wait for other processes."""
    together = sys.modules.get("lmx.io.together")
    if together is not None and together.stuck():
        together.leave(code)
    sys.exit(code)


def run(arguments: list[str]) -> int:
    """Runs `lmx *arguments` and returns the exit code."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        from lmx.cli.help import front_page

        print(front_page(available()), end="")
        return 0
    if arguments[0] in ("-V", "--version", "version"):
        from importlib.metadata import version

        print(f"lmx {version('lmx')}")
        return 0
    if arguments[0] in ("--completion", "-sc", "--shell-completion"):
        from lmx.cli.completion import answer

        return answer(arguments[1:])
    name, rest = find(arguments)
    if name is None:
        family = {key: entry for key, entry in available().items() if key.split()[0] == arguments[0]}
        if family and arguments[1:] in (["-h"], ["--help"]):
            from lmx.cli.help import front_page

            print(front_page(family, arguments[0]), end="")
            return 0
        print(unknown(arguments), file=sys.stderr)
        return 2
    from lmx.cli.job import execute

    return execute(command(name), rest)
