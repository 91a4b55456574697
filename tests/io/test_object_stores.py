"""The remote tier in S3 and in Google's storage: their real clients, with stand-ins of the services on this machine.

Needs `pip install -e '.[stores]'`; what is not installed is skipped.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from lmx.io.remote import ASIDE, Remote
from tests.io.test_tiers import Run


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    s3fs = pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server").ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "any")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "any")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        s3fs.S3FileSystem().mkdir("bucket")
        yield "s3://bucket"
        s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


@pytest.fixture(scope="module")
def gs() -> Iterator[str]:
    gcsfs = pytest.importorskip("gcsfs")
    emulator = pytest.importorskip("gcp_storage_emulator.server")
    server = emulator.create_server("127.0.0.1", 0, in_memory=True, default_bucket="bucket")
    server.start()
    host, port = server._api._httpd.server_address[:2]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", f"http://{host}:{port}")
        yield "gs://bucket"
        gcsfs.GCSFileSystem.clear_instance_cache()
    server.stop()


@pytest.fixture(params=["s3", "gs"])
def bucket(request: pytest.FixtureRequest) -> str:
    return request.getfixturevalue(request.param)


def test_a_lost_folder_comes_back(bucket: str, tmp_path: Path) -> None:
    url = f"{bucket}/lost/run-0"
    run = Run(tmp_path, url, tier={"keep_last": 1, "keep_every": 30})
    run.save(10, 20, 30, 40)
    assert run.checkpoints.close() == []
    assert list(Remote(url).manifests()) == [30, 40]  # what was kept no longer is gone there
    assert set(Remote(url).names()) >= {"30", "40"}
    shutil.rmtree(run.folder / "checkpoints")
    again = Run(tmp_path, url)
    assert again.restore() == 40
    assert any("step 40 was brought from" in text for text in again.said)


def test_what_is_damaged_there_is_set_aside(bucket: str, tmp_path: Path) -> None:
    url = f"{bucket}/damaged/run-0"
    run = Run(tmp_path, url)
    run.save(10, 20)
    run.checkpoints.close()
    there = Remote(url)
    name = max(there.manifests()[20].files.items(), key=lambda file: file[1][0])[0]
    data = bytearray(there._fs.cat_file(there._path(20, name)))
    data[len(data) // 2] ^= 1
    there._fs.pipe_file(there._path(20, name), bytes(data))
    shutil.rmtree(run.folder / "checkpoints")
    again = Run(tmp_path, url)
    assert again.restore() == 10
    assert any("20 is no help" in text for text in again.said)
    assert list(Remote(url).manifests()) == [10]
    assert there._fs.exists(there._path(20, ASIDE))
    again.save(20)  # and that step is written anew
    assert again.checkpoints.close() == []
    assert list(Remote(url).manifests()) == [10, 20]
