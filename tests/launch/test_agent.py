"""The program that hosts get: one text, of parts that know each other's names without importing them."""

from __future__ import annotations

import ast
import sys

from lmx.launch import agent


def test_program_stands_alone():
    tree = ast.parse(agent.source(), feature_version=(3, 8))
    defined, imported = [], set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            defined.append(node.name)
        elif isinstance(node, ast.Assign):
            defined += [target.id for target in node.targets if isinstance(target, ast.Name)]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module)
    assert imported <= set(sys.stdlib_module_names)
    assert sorted(defined) == sorted(set(defined)), "two parts define the same name"
    space = {}
    exec(compile(tree, "agent", "exec"), space)
    assert {"start", "poll", "stop", "probe", "unpack", "setup"} <= set(space["ACTIONS"])
