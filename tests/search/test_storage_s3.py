"""The run's folder in an object store: a real S3 server on loopback (moto's), reached as users reach theirs."""

import pyarrow.fs as pafs
import pytest
from archive_maker import make_rows, make_run

import hpsearch
from greenprune_core.errors import ConfigError
from hpsearch.lock import DriverLock
from hpsearch.report import write_report
from hpsearch.storage import RunStorage

server = pytest.importorskip("moto.server", reason="moto is in the extra test")


@pytest.fixture(scope="module")
def bucket():
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        maker = pafs.S3FileSystem(endpoint_override=f"{host}:{port}", scheme="http", allow_bucket_creation=True)
        maker.create_dir("bucket")
        yield "s3://bucket/runs"
    running.stop()


def test_files_come_back_and_are_listed(bucket):
    storage = RunStorage.open(f"{bucket}/files")
    assert storage.local is None
    assert not storage.exists("a/x")
    storage.write_bytes("a/x", b"one")
    storage.write_bytes("a/x", b"two")
    assert (storage.read_bytes("a/x"), storage.list("a")) == (b"two", ["a/x"])
    storage.delete("a/x")
    assert not storage.exists("a/x")


def test_a_run_in_a_bucket_is_read_reported_and_picked_from(bucket, tmp_path):
    location = f"{bucket}/search"
    source = make_run(tmp_path / "search", make_rows(30), in_one_part=True)
    storage = RunStorage.open(location)
    for path in (*source.list(), *source.list("trials")):
        storage.write_bytes(path, source.read_bytes(path))
    run = hpsearch.open_run(location)
    assert run.trials.num_rows == 30
    assert write_report(run)[0] == f"{location}/report.html"
    assert storage.read_bytes("report.html").startswith(b"<!doctype html>")
    assert run.pick(knee=True).is_on_front


def test_on_one_machine_two_drivers_never_search_one_run_in_a_bucket(bucket, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    lock = DriverLock(RunStorage.open(f"{bucket}/locked"))
    with pytest.raises(ConfigError, match="being searched"):
        DriverLock(RunStorage.open(f"{bucket}/locked"))
    DriverLock(RunStorage.open(f"{bucket}/another")).release()
    lock.release()
    DriverLock(RunStorage.open(f"{bucket}/locked")).release()


def test_a_folder_goes_in_and_out(bucket, tmp_path):
    (tmp_path / "from").mkdir()
    (tmp_path / "from" / "card.json").write_text("{}")
    storage = RunStorage.open(f"{bucket}/folders")
    storage.put_folder(tmp_path / "from", "subnetworks/t1")
    storage.get_folder("subnetworks/t1", tmp_path / "to")
    assert (tmp_path / "to" / "card.json").read_text() == "{}"


def test_a_bucket_that_is_not_there_is_one_clear_error(bucket):
    with pytest.raises(ConfigError, match="storage path must be writable"):
        RunStorage.open("s3://nobodys-bucket/run").write_bytes("settings.json", b"{}")
    with pytest.raises(ConfigError, match=r"a run is a folder with settings\.json|must be readable"):
        hpsearch.open_run("s3://nobodys-bucket/run")
