"""Configurations from outside: frozen ones, damaged, and overrides of any characters."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from lmx.cli.frozen import load_frozen
from lmx.config.compose import load
from lmx.io.records import read_config, read_overrides
from lmx.run.config import TrainConfig
from tests.fuzz.support import answer, cases, damaged, damaged_bytes

FROZEN = Path(__file__).parents[1] / "config" / "earlier" / "before_waivers.yaml"
COMMAND = SimpleNamespace(name="train", schema_class=lambda: TrainConfig)
TEXT = """
model trainer optimizer mesh.axes data hydra.run.dir . = + ~ ++ [ ] { } , : ${ } ${oc.env:HOME} $ ' \\" \\ @ / ../x
experiment /etc/passwd null true 1e3 300M .nan -1 _target_ os.system steps n_layers choice( range(0,10**9) glob(*)
"""
WORDS = st.sampled_from(TEXT.split())
LINES = st.lists(WORDS | st.text(max_size=3), min_size=1, max_size=6).map("".join)
BOMB = "k0: &a0 [1, 1]\n" + "".join(f"k{n + 1}: &a{n + 1} [*a{n}, *a{n}, *a{n}]\n" for n in range(20))


@given(data=st.data())
@cases(0.3)
def test_a_damaged_frozen_configuration(data, tmp_path):
    tree = data.draw(damaged(yaml.safe_load(FROZEN.read_text())))
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(tree, allow_unicode=True), encoding="utf-8", errors="replace")
    answer(lambda: load_frozen(path, COMMAND))


@given(data=st.data())
@cases(0.5)
def test_damaged_bytes_of_a_frozen_configuration(data, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_bytes(data.draw(damaged_bytes(FROZEN.read_bytes())))
    answer(lambda: load_frozen(path, COMMAND))
    answer(lambda: (read_config(tmp_path), read_overrides(tmp_path)))


@pytest.mark.parametrize(
    "text",
    [
        BOMB,
        "a: &a [*a]\n",
        "a: " + "[" * 20_000,
        "a: " + "[" * 20_000 + "]" * 20_000,
        "a: !!python/object/apply:os.system ['touch here']\n",
        "a: !!binary x\n",
        "? [a, b]\n: 1\n",
        "2001-01-01: 2001-01-01T00:00:00Z\n",
    ],
    ids=["aliases", "cycle", "nested", "nested and closed", "object", "binary", "list as key", "dates"],
)
def test_yaml_that_is_none_of_ours(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text(text)
    assert answer(lambda: load_frozen(tmp_path / "config.yaml", COMMAND)) is None
    answer(lambda: read_config(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


@given(words=st.lists(LINES, min_size=1, max_size=2))
@cases(0.17)
def test_any_overrides(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    answer(lambda: load("train", words, schema=TrainConfig))
    assert list(tmp_path.iterdir()) == []
