"""Credentials of an object store: missing or wrong ones are one clear line, and none of them is ever shown."""

import logging
from collections.abc import Iterator

import pyarrow.fs as pafs
import pytest

from hpsearch.cli import main

server = pytest.importorskip("moto.server", reason="moto is in the extra test")
settings = pytest.importorskip("moto.settings")

KEY, SECRET = "AKIAWRONGWRONGWRONG7", "a-secret-that-nobody-may-see"
NAMES = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_DEFAULT_PROFILE")


@pytest.fixture
def strict(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A store that looks at signatures, as Amazon does; nobody here has any right in it."""
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    address = f"http://{host}:{port}"
    maker = pafs.S3FileSystem(
        endpoint_override=f"{host}:{port}", scheme="http", access_key="a", secret_key="b", allow_bucket_creation=True
    )
    maker.create_dir("bucket")
    monkeypatch.setattr(settings, "INITIAL_NO_AUTH_ACTION_COUNT", 0)
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("home")))  # no ~/.aws
    monkeypatch.setenv("AWS_ENDPOINT_URL", address)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    yield "s3://bucket/runs"
    running.stop()


@pytest.mark.slow
@pytest.mark.parametrize(
    "given", [{}, {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET}], ids=["no", "wrong"]
)
def test_missing_or_wrong_credentials_are_one_line_that_shows_none(
    strict: str,
    given: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("hpsearch.tuner.connect", lambda address: pytest.fail("Ray was started"))
    caplog.set_level(logging.DEBUG)
    assert main(["search", "--space", "digits", "--storage-path", strict, "--name", "one"]) == 2
    said = capfd.readouterr()
    (line,) = [line for line in said.err.splitlines() if line.startswith("hpsearch: ")]
    assert "s3://bucket/runs" in line
    assert "credentials" in line
    assert "Traceback" not in said.err
    # moto runs in this process and logs the requests that it gets
    logged = "\n".join(
        record.getMessage() for record in caplog.records if not record.name.startswith(("moto", "boto", "werkzeug"))
    )
    for text in (said.out, said.err, logged):
        assert SECRET not in text
        assert KEY not in text
