"""A whole search in an object store (moto's S3 on loopback): run, gone on with, read, and no credential left behind."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow.fs as pafs
import pytest
from short_folder import short_folder

from hpsearch.archive import read_trials
from hpsearch.cli import main
from hpsearch.storage import RunStorage

server = pytest.importorskip("moto.server", reason="moto is in the extra test")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SECRET = "the-secret-key-of-this-test"
KEY = "the-access-key-of-this-test"


@pytest.fixture(scope="module")
def environment() -> Iterator[dict[str, str]]:
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    maker = pafs.S3FileSystem(
        endpoint_override=f"{host}:{port}", scheme="http", access_key=KEY, secret_key=SECRET, allow_bucket_creation=True
    )
    maker.create_dir("bucket")
    variables = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        yield variables
    running.stop()


@pytest.fixture(scope="module")
def ray_session(environment: dict[str, str]) -> Iterator[Path]:
    """One Ray for both searches, started with the bucket's variables: its workers inherit them. Its folder."""
    import ray

    from hpsearch.cluster.session import connect

    with short_folder() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", str(folder))
        patch.setenv("RAY_worker_niceness", "0")
        connect("local")
        yield folder
        ray.shutdown()


def test_a_search_in_a_bucket_is_gone_on_with_and_read(
    environment: dict[str, str], ray_session: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = _search(capsys, "--trials", "2")
    again = _search(capsys, "--trials", "3", "--resume")
    assert "report: s3://bucket/runs/one/report.html" in first
    storage = RunStorage.open("s3://bucket/runs/one")
    rows = read_trials(storage).to_pylist()
    assert [row["state"] for row in rows] == ["complete"] * 3
    assert len({row["trial_id"] for row in rows}) == 3
    for row in rows:
        assert storage.exists(f"subnetworks/{row['trial_id']}/program.pt2")
    assert storage.read_bytes("report.html").startswith(b"<!doctype html>")
    stored = _everything_in_the_bucket(environment)
    assert {path.split("/")[3] for path in stored} >= {"settings.json", "study.journal", "trials", "subnetworks", "ray"}
    logs = {
        str(path): path.read_bytes() for path in ray_session.rglob("*.*") if path.is_file() and "/logs/" in str(path)
    }
    assert any("worker-" in path for path in logs)
    for path, content in (stored | logs).items():
        assert KEY.encode() not in content, path
        assert SECRET.encode() not in content, path
    assert KEY not in first + again
    assert SECRET not in first + again


def _everything_in_the_bucket(environment: dict[str, str]) -> dict[str, bytes]:
    store = pafs.S3FileSystem(endpoint_override=environment["AWS_ENDPOINT_URL"].removeprefix("http://"), scheme="http")
    found = store.get_file_info(pafs.FileSelector("bucket", recursive=True))
    return {info.path: store.open_input_file(info.path).read() for info in found if info.is_file}


def _search(capsys: pytest.CaptureFixture[str], *options: str) -> str:
    command = ["search", "--space", "digits", "--name", "one", "--set", "epochs=2", "--set", "target=0.5"]
    code = main([*command, "--storage-path", "s3://bucket/runs", *options])
    said = capsys.readouterr()
    assert code == 0, said.out + said.err
    return said.out + said.err
