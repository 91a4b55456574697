from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from lmx.config.errors import RequestError
from lmx.io.checkpoints import Checkpoints
from lmx.io.stored import Stored
from tests.io.states import abstract, assert_same, config, make_state, save_steps

KINDS = [
    "lmx.json",
    "state/_CHECKPOINT_METADATA",
    "state/commit_success.txt",
    "state/state/_METADATA",
    "state/state/_sharding",
    "state/state/manifest.ocdbt",
    "state/state/array_metadatas/*",
    "state/state/d/*",
    "state/state/ocdbt.process_0/manifest.ocdbt",
    "state/state/ocdbt.process_0/d/*",
]


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def remove(path: Path) -> None:
    path.unlink()


DAMAGES = {flip: "sha256", truncate: "bytes instead of", empty: "0 bytes instead of", remove: "is missing"}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("sound")
    save_steps(directory, [10, 20])
    return directory


def test_every_kind_of_file_is_in_the_table(sound: Path) -> None:
    covered = {path for kind in KINDS for path in (sound / "20").glob(kind)}
    nothing_to_damage = {p for p in (sound / "20").rglob("*") if p.is_file() and p.stat().st_size == 0}
    assert covered | nothing_to_damage == {p for p in (sound / "20").rglob("*") if p.is_file()}


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda f: f.__name__)
@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_named_and_the_one_before_used(sound: Path, tmp_path: Path, kind: str, damage) -> None:
    directory = tmp_path / "checkpoints"
    shutil.copytree(sound, directory)
    file = next((directory / "20").glob(kind))
    damage(file)
    said: list[str] = []
    checkpoints = Checkpoints(directory, config(), warn=said.append)
    restored = checkpoints.restore(abstract(make_state()))
    assert restored.step == 10
    assert_same(restored.state, make_state(10))
    assert len(said) == 2
    assert str(directory / "20") in said[0]
    assert file.relative_to(directory / "20").as_posix() in said[0]
    assert kind == "lmx.json" or DAMAGES[damage] in said[0]
    assert "step 10" in said[1]


def test_every_byte_of_the_arrays_is_guarded(sound: Path, tmp_path: Path) -> None:
    directory = tmp_path / "checkpoints"
    shutil.copytree(sound, directory)
    file = max((p for p in (directory / "20").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    content = file.read_bytes()
    for at in range(0, len(content), max(len(content) // 12, 1)):
        file.write_bytes(content[:at] + bytes([content[at] ^ 0x80]) + content[at + 1 :])
        said: list[str] = []
        assert Checkpoints(directory, config(), warn=said.append).restore(abstract(make_state())).step == 10
        assert "changed after it was written" in said[0]


def test_nothing_left(sound: Path, tmp_path: Path) -> None:
    directory = tmp_path / "checkpoints"
    shutil.copytree(sound, directory)
    remove(directory / "10" / "lmx.json")
    flip(next((directory / "20" / "state/state/d").iterdir()))
    with pytest.raises(RequestError) as error:
        Checkpoints(directory, config(), warn=lambda _: None).restore(abstract(make_state()))
    text = str(error.value)
    assert text.splitlines()[0].startswith(f"{directory} has no whole checkpoint")
    assert f"{directory / '20'} is damaged: state/state/d/" in text
    assert (
        f"{directory / '10'} is damaged: lmx.json is missing: it was never finished, or copied in part"
        in text
    )
    assert sorted(p.name for p in directory.iterdir()) == ["10", "20"]


def test_no_checkpoint_at_all(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="has no whole checkpoint"):
        Checkpoints(tmp_path / "none", config()).restore(abstract(make_state()))


def test_a_damaged_one_asked_for_by_step_is_refused(sound: Path, tmp_path: Path) -> None:
    directory = tmp_path / "checkpoints"
    shutil.copytree(sound, directory)
    flip(next((directory / "20" / "state/state/d").iterdir()))
    reader = Stored(directory, warn=lambda _: None)
    with pytest.raises(RequestError, match=r"20 is damaged: state/state/d/\w+ changed after it was written"):
        reader.restore_params(abstract(make_state().params), 20)
    assert reader.restore_params(abstract(make_state().params)).step == 10
