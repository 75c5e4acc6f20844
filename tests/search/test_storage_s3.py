"""The run's folder in an object store: a real S3 server on loopback (moto's), reached as users reach theirs."""

import hashlib
import json

import pyarrow.fs as pafs
import pytest
from archive_maker import make_rows, make_run

import hpsearch
from greenprune_core.errors import ConfigError
from hpsearch.cli import main
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


def test_a_picked_sub_network_and_a_comparison_go_into_a_bucket(bucket, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path / "run", make_rows(20))
    make_run(tmp_path / "other", make_rows(20, seed=1))
    trial_id = hpsearch.open_run("run").pick(knee=True).trial_id
    folder = tmp_path / "run" / "subnetworks" / trial_id
    folder.mkdir(parents=True)
    content = b"weights"
    (folder / "weights.safetensors").write_bytes(content)
    files = {"weights.safetensors": hashlib.sha256(content).hexdigest()}
    (folder / "card.json").write_text(json.dumps({"schema_version": 1, "input_shape": [1, 8, 8], "files": files}))
    pick = ["pick", "run", "--knee", "--format", "safetensors", "--export", f"{bucket}/picked"]
    compare = ["compare", "run", "other", "--output", f"{bucket}/compared"]
    for command, name in ((pick, "picked/card.json"), (compare, "compared/compare.png")):
        assert main(command) == 0
        assert f"wrote {bucket}/{name}" in capsys.readouterr().out
        assert RunStorage.open(bucket).exists(name)
        assert main(command) == 2
        assert "overwrites nothing, but s3://bucket/" in capsys.readouterr().err
        assert main([*command, "--force"]) == 0
    assert not (tmp_path / "s3:").exists()


def test_what_is_written_elsewhere_may_lie_in_the_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for name in ("run", "other"):
        make_run(tmp_path / name, make_rows(20))
    assert main(["compare", "run", "other", "--output", "~/compared"]) == 0
    assert (tmp_path / "compared" / "compare.svg").exists()
