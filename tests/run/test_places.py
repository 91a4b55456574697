"""Directories and files of a request that are wrong are told before anything is loaded, all at once."""

from __future__ import annotations

import pytest

from lmx.config.compose import load as compose
from lmx.config.errors import ConfigError
from lmx.run.export_config import ExportConfig
from lmx.run.infer_config import EvalConfig, GenerateConfig


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "bare").mkdir()
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "model.safetensors").write_bytes(b"")
    for step in (10, 20):
        (tmp_path / "run" / "checkpoints" / str(step)).mkdir(parents=True)
    (tmp_path / "run" / "config.yaml").write_text("{}")
    for name in ("lost", "never"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text("{}")
    (tmp_path / "lost" / "remote.json").write_text('{"name": "lost-0"}')
    (tmp_path / "full.txt").write_text("a\n\nb\n")
    (tmp_path / "latin.txt").write_bytes("caf\u00e9".encode("latin-1"))
    return tmp_path


def problems(command, schema, *overrides):
    with pytest.raises(ConfigError) as caught:
        compose(command, list(overrides), schema=schema)
    return {p.key: (p.message, p.fix) for p in caught.value.problems}


@pytest.mark.parametrize(
    ("source", "message", "fix"),
    [
        ("modle", "does not exist", "from=model"),
        ("bare", "is no run directory .* and no HuggingFace directory", None),
        ("weights", "has weights but no config.json", None),
        ("full.txt", "is a file; give its directory", "from=."),
        ("never", "the run has no checkpoints; checkpoint=default", None),
        (
            "lost",
            "checkpoints are gone; `lmx train resume=lost` brings the newest from the remote tier",
            None,
        ),
        ("run/checkpoints/30", "the run has no checkpoint 30; it has 10, 20", "from=run/checkpoints/20"),
    ],
)
def test_sources(folder, source, message, fix):
    import re

    found = problems("generate", GenerateConfig, f"from={source}", "prompt=x")
    assert re.search(message, found["from"][0])
    if fix != "from=.":
        assert found["from"][1] == fix


def test_all_at_once(folder):
    found = problems("generate", GenerateConfig, "from=nowhere", "prompts_file=full.txt", "temperature=-1")
    assert {"from", "prompts_file", "temperature"} <= found.keys()
    assert "line 2 is empty" in found["prompts_file"][0]
    found = problems("generate", GenerateConfig, "from=model", "prompts_file=latin.txt")
    assert found["prompts_file"][0] == "is not UTF-8 text"
    found = problems("eval", EvalConfig, "from=model", "tasks=[mine]", "include_path=tasks")
    assert found["include_path"][0] == "does not exist"
    found = problems("export", ExportConfig, "from=model", "to=run")
    assert found["to"] == ("exists already; give a directory that does not, or remove it", "to=run_2")
