"""Every bad request and its exact answer, in `bad_requests.txt`.

`python -m tests.config.test_bad_requests` renews it and shows what changes.
"""

from __future__ import annotations

import difflib
import re
import shlex
import sys
from functools import cache
from pathlib import Path

import pytest

from lmx.cli.arguments import parse
from lmx.cli.commands import command
from lmx.config.compose import Composer
from lmx.config.errors import ConfigError, LmxError, Problem, format_problem
from lmx.config.sweep import check_sweep

ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).parent / "bad_requests.txt"


@cache
def composer(places: tuple[tuple[str, str | None], ...]) -> Composer:
    return Composer("train", command("train").schema_class(), **dict(places))


def problems_of(words: list[str]) -> list[Problem]:
    """What `lmx train *words` complains of."""
    return _problems_of(tuple(words))


@cache
def _problems_of(words: tuple[str, ...]) -> list[Problem]:
    try:
        options = parse(command("train"), words)
        places = (("config_dir", options.config_dir), ("primary", options.config_name))
        if any("searchpath" in word for word in words):
            schema = command("train").schema_class()
            return Composer("train", schema, overrides=options.overrides, **dict(places)).check(
                options.overrides
            )[1]
        if options.multirun:
            return check_sweep(composer(places), options.overrides).problems
        return composer(places).check(options.overrides)[1]
    except ConfigError as error:
        return error.problems
    except LmxError as error:
        return [Problem("", str(error), kind="request")]


def requests() -> list[str]:
    return [line[2:] for line in GOLDEN.read_text().splitlines() if line.startswith("$ ")]


def answer(request: str) -> str:
    report = "\n\n".join(format_problem(problem) for problem in problems_of(shlex.split(request)))
    return f"$ {request}\n\n{_steady(report) or '  (no problem)'}\n"


def _steady(report: str) -> str:
    """The report without what changes whenever a file is added under conf/, or a line in one of them."""
    for folder in [*(ROOT / "conf").iterdir(), ROOT / "conf"]:
        names = [path.stem for path in folder.glob("[!_]*.yaml")]
        names += [path.stem for path in (GOLDEN.parent / "bad_files" / folder.name).glob("[!_]*.yaml")]
        for listed in (names, [path.stem for path in folder.glob("[!_]*.yaml")]):
            if len(listed) > 1:
                report = report.replace(", ".join(sorted(listed)), f"<the files of {folder.name}>")
    return re.sub(r"(?<![\w/])(conf/\S+\.yaml):\d+", r"\1:<line>", report)


def golden() -> dict[str, str]:
    parts = re.split(r"(?m)^(?=\$ )", GOLDEN.read_text())[1:]
    return {part.splitlines()[0][2:]: part.rstrip("\n") + "\n" for part in parts}


@pytest.fixture(autouse=True)
def at_root(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("NO_SUCH_VARIABLE", raising=False)


def test_there_are_many_requests_and_none_is_there_twice():
    assert len(requests()) >= 100
    assert len(set(requests())) == len(requests())


@pytest.mark.parametrize("request_", requests())
def test_the_answer_is_exactly_this(request_):
    expected, found = golden()[request_], answer(request_)
    diff = "\n".join(
        difflib.unified_diff(expected.splitlines(), found.splitlines(), "expected", "found", lineterm="")
    )
    assert found == expected, f"\n{diff}\nrenew: python -m tests.config.test_bad_requests"


@pytest.mark.parametrize("request_", requests())
def test_every_bad_request_is_refused_with_key_origin_and_no_false_advice(request_):
    found = problems_of(shlex.split(request_))
    assert found
    for problem in found:
        text = format_problem(problem)
        assert "Traceback" not in text
        assert "HYDRA_FULL_ERROR" not in text
        if problem.kind in ("unknown_key", "inside_value"):
            assert not (problem.fix or "").startswith(("+", "'+"))
        if problem.kind not in ("yaml", "request"):
            assert problem.key
        if problem.kind not in ("request", "primary"):
            assert problem.origin or problem.key.startswith("--"), text


def with_fixes(words: list[str], found: list[Problem], tmp_path: Path) -> list[str]:
    """The request with every fix pasted in place of what it mends."""
    words = list(words)
    for problem in found:
        fix = problem.fix or ""
        if re.match(r"\S+\.yaml:\d+: ", fix):
            words = _mend_file(words, fix, tmp_path)
            continue
        for old in {(problem.origin or "").removeprefix("command line: "), *_typed(problem, words)}:
            while old in words:
                words.remove(old)
        words += shlex.split(fix)
    return words


def _typed(problem: Problem, words: list[str]) -> list[str]:
    """The words of an override that could not be read."""
    if problem.kind not in ("syntax", "bare"):
        return []
    return [problem.key] if problem.key in words else problem.key.split(" ")


def _mend_file(words: list[str], fix: str, tmp_path: Path) -> list[str]:
    """A copy of the folder of configurations with the line replaced."""
    import shutil

    place, number, text = re.match(r"(\S+\.yaml):(\d+): (.*)", fix).groups()
    index = words.index("--config-dir") + 1
    copied = tmp_path / "files"
    if words[index] != str(copied):
        shutil.copytree(words[index], copied)
    path = copied / Path(place).relative_to(Path(__file__).parent.relative_to(ROOT) / "bad_files")
    lines = path.read_text().splitlines()
    old = lines[int(number) - 1]
    lines[int(number) - 1] = re.match(r"[\s-]*(override /)?", old).group(0) + text
    path.write_text("\n".join(lines) + "\n")
    words[index] = str(copied)
    return words


def _fixes(request: str) -> tuple[int, int]:
    """How many problems a request's golden answer has, and how many of them a fix."""
    parts = golden()[request].split("\n\n")[1:]
    return len(parts), sum("\n    fix: " in part for part in parts)


def test_a_hundred_requests_have_a_fix_for_all_that_is_wrong():
    assert sum(problems == fixes for problems, fixes in map(_fixes, requests())) >= 125


@pytest.mark.parametrize("request_", [r for r in requests() if "    fix: " in golden()[r]])
def test_the_fix_mends_it_when_pasted_and_breaks_nothing_else(request_, tmp_path):
    words = shlex.split(request_)
    found = problems_of(words)
    mendable = [problem for problem in found if problem.fix]
    after = problems_of(with_fixes(words, mendable, tmp_path))
    without_fix = {(p.key, p.kind) for p in found if not p.fix}
    assert {(p.key, p.kind) for p in after} <= without_fix, "\n".join(format_problem(p) for p in after)


def renew() -> None:
    before = GOLDEN.read_text()
    after = "\n".join(answer(request) for request in requests())
    GOLDEN.write_text(after)
    sys.stdout.writelines(
        difflib.unified_diff(before.splitlines(True), after.splitlines(True), "before", "after")
    )


if __name__ == "__main__":
    renew()
