"""`lmx schema`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from lmx.cli.command import Command
from lmx.config.component import Config, field
from lmx.config.types import Text


class Request(Config):
    """`lmx schema`."""

    to: Text = field("directory of the schemas", effect="bookkeeping")
    output: Literal["text", "json"] = field("form of the result on stdout", effect="bookkeeping")


def run(composed: Any, run_dir: Path) -> None:
    """Writes a schema for each primary configuration and each group; prints how an editor finds them."""
    from lmx.cli.commands import available, command
    from lmx.config.files import conf_dir
    from lmx.config.json_schema import all_schemas

    roots = {name.replace(" ", "_"): command(name).schema_class() for name in available()}
    folder = Path(composed.config.to)
    folder.mkdir(parents=True, exist_ok=True)
    schemas = all_schemas(roots, conf_dir())
    for name, schema in schemas.items():
        text = json.dumps(schema, indent=1, ensure_ascii=False) + "\n"
        (folder / f"{name}.json").write_text(text, encoding="utf-8")
    places = {
        (folder / f"{name}.json").as_posix(): f"conf/{name}.yaml" if name in roots else f"conf/{name}/*.yaml"
        for name in schemas
    }
    if composed.config.output == "json":
        print(json.dumps({"files": list(places), "yaml.schemas": places}, indent=1))
        return
    print(f"{len(schemas)} schemas in {folder}. For an editor with the YAML language server, its settings:")
    print(json.dumps({"yaml.schemas": places}, indent=2))
    shown = folder if folder.is_absolute() else Path("../..", folder)
    print(f"or as the first line of a file: # yaml-language-server: $schema={shown}/GROUP.json")


COMMANDS = (
    Command(
        name="schema",
        summary="write JSON Schemas, with which editors complete and check the YAML",
        schema="lmx.cli.schema:Request",
        function=run,
        keys=("to", "output"),
        examples=(("lmx schema", "into schemas/"), ("lmx schema to=DIR", "elsewhere")),
    ),
)
