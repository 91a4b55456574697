"""How a command ends that failed: the message on stderr, the traceback in the run's log, the exit code."""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path

from lmx.config.errors import FAILED, ConfigError, LmxError, format_problems


def report(
    name: str, error: BaseException, run_dir: Path | None = None, *, log: str = "log.txt"
) -> tuple[int, str]:
    """Shows an error on stderr, keeps its traceback in the run's log; exit code and message."""
    if isinstance(error, ConfigError):
        print(format_problems(error.problems, name, color=_color()), file=sys.stderr)
        return error.exit_code, str(error)
    if isinstance(error, LmxError):
        print(f"lmx {name}: {error}", file=sys.stderr)
        return error.exit_code, str(error)
    message = str(error).strip()
    kind = type(error).__name__
    text = (
        message
        if message and isinstance(error, ValueError | RuntimeError)
        else f"{kind}: {message}".rstrip(": ")
    )
    lines = [f"lmx {name}: {text}"]
    if run_dir is not None and run_dir.is_dir() and run_dir.resolve() != Path.cwd().resolve():
        path = run_dir / log
        try:
            with open(path, "a", encoding="utf-8") as stream:
                stream.write("".join(traceback.format_exception(error)))
            lines.append(f"    the traceback is in {path}")
        except OSError:
            lines.append("".join(traceback.format_exception(error)))
    elif os.environ.get("LMX_TRACEBACK"):
        lines.append("".join(traceback.format_exception(error)))
    else:
        frame = traceback.extract_tb(error.__traceback__)[-1:]
        lines += [f"    at {f.filename}:{f.lineno}; LMX_TRACEBACK=1 shows the whole traceback" for f in frame]
    print("\n".join(lines), file=sys.stderr)
    return FAILED, text


def _color() -> bool:
    return sys.stderr.isatty() and "NO_COLOR" not in os.environ
