"""A store that refuses and then answers slowly: calls are tried again, and a search in it loses nothing."""

import os
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pyarrow.fs as pafs
import pytest
from namespace_hosts import wait_for
from search_driver import wait_until_gone
from short_folder import short_folder

from greenprune_core.errors import ConfigError
from hpsearch import storage
from hpsearch.archive import read_archive, rows
from hpsearch.storage import RunStorage
from hpsearch.study.journal import JournalReader

server = pytest.importorskip("moto.server", reason="moto is in the extra test")


OVERLOADED = (
    b"HTTP/1.1 503 Slow Down\r\nContent-Type: application/xml\r\nConnection: close\r\nContent-Length: 66\r\n\r\n"
    b"<Error><Code>SlowDown</Code><Message>Slow down.</Message></Error>\n"
)


class Proxy:
    """Passes connections on to a server, refuses them, or lets each piece of an answer wait."""

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.refuses = False
        self.refusal = b""
        """What is answered meanwhile; nothing closes the connection."""
        self.delay_s = 0.0
        self.n_refused = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            outer, _ = self._listener.accept()
            threading.Thread(target=self._serve, args=(outer,), daemon=True).start()

    def _serve(self, outer: socket.socket) -> None:
        with outer:
            if self.refuses:
                self.n_refused += 1
                if self.refusal and outer.recv(65536):
                    outer.sendall(self.refusal)
                return
            with socket.create_connection(self._target) as inner:
                back = threading.Thread(target=self._pump, args=(inner, outer, True), daemon=True)
                back.start()
                self._pump(outer, inner, False)
                back.join()

    def _pump(self, source: socket.socket, sink: socket.socket, is_answer: bool) -> None:
        try:
            while content := source.recv(65536):
                if self.refuses:
                    break
                time.sleep(self.delay_s if is_answer else 0.0)
                sink.sendall(content)
        except OSError:
            pass
        for end in (source, sink):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue


@pytest.fixture(scope="module")
def proxy() -> Iterator[Proxy]:
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    proxy = Proxy(running.get_host_and_port())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "key")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        maker = pafs.S3FileSystem(
            endpoint_override=f"127.0.0.1:{proxy.port}", scheme="http", allow_bucket_creation=True
        )
        maker.create_dir("bucket")
        yield proxy
    running.stop()


@pytest.fixture
def ray_folder() -> Iterator[Path]:
    with short_folder() as folder:
        yield folder
        assert wait_until_gone(str(folder)) == []


@pytest.mark.slow
@pytest.mark.parametrize("refusal", [b"", OVERLOADED], ids=["connection closed", "503 Slow Down"])
def test_a_call_that_is_refused_is_tried_again_until_the_store_answers(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch, refusal: bytes
) -> None:
    monkeypatch.setattr(proxy, "refusal", refusal)
    run = RunStorage.open("s3://bucket/calls")
    run.write_bytes("a", b"before")
    pauses: list[float] = []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        proxy.refuses = len(pauses) < 3

    monkeypatch.setattr(storage, "time", SimpleNamespace(sleep=sleep, monotonic=time.monotonic))
    for call in (
        lambda: run.write_bytes("a", b"after"), lambda: run.read_bytes("a"), run.list, lambda: run.exists("a"),
        lambda: run.delete("a"),
    ):  # fmt: skip
        pauses.clear()
        proxy.refuses = True
        call()
        assert pauses == [0.5, 1.0, 2.0]
    assert not run.exists("a")


def test_a_store_that_never_answers_is_an_error_with_the_way_out_when_patience_ends(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunStorage.open("s3://bucket/calls", patience_s=0.0)
    monkeypatch.setattr(proxy, "refuses", True)
    with pytest.raises(ConfigError, match="storage path must be writable"):
        run.write_bytes("a", b"content")


def test_a_bucket_that_is_not_there_is_an_error_at_once(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(sleep=lambda seconds: pytest.fail("asked again"), monotonic=time.monotonic)
    monkeypatch.setattr(storage, "time", clock)
    with pytest.raises(ConfigError, match="NO_SUCH_BUCKET"):
        RunStorage.open("s3://nowhere/calls").write_bytes("a", b"content")


@pytest.mark.slow
@pytest.mark.timeout(500)
def test_a_search_outlives_a_store_that_refuses_for_20_seconds_and_then_is_slow(
    proxy: Proxy,
    tmp_path: Path,
    ray_folder: Path,
) -> None:
    run = RunStorage.open("s3://bucket/runs/run")
    command = [sys.executable, "-m", "hpsearch.run", "--space", "digits", "--set", "epochs=3", "--trials", "4"]
    command += ["--storage-path", "s3://bucket/runs", "--name", "run", "--address", "local", "--max-failures", "0"]
    # Ray gives its workers the lowest priority, with which they starve beside other tests
    variables = {**os.environ, "RAY_TMPDIR": str(ray_folder), "OMP_NUM_THREADS": "1", "RAY_worker_niceness": "0"}
    output = tmp_path / "output.txt"
    with output.open("w") as stream:
        search = subprocess.Popen(command, cwd=tmp_path, env=variables, stdout=stream, stderr=subprocess.STDOUT)
    try:
        wait_for(lambda: bool(run.list("trials")) or search.poll() is not None, "a trial to end", 200)
        assert search.poll() is None, output.read_text()
        before = _outage(proxy, run)
        assert search.wait(timeout=240) == 0, output.read_text()
    finally:
        search.kill()
        proxy.refuses, proxy.delay_s = False, 0.0
    found = rows(read_archive(run).table)
    assert Counter(row["state"] for row in found) == {"complete": 4}
    assert {row["trial_id"]: row for row in found if row["trial_id"] in before} == before
    study = optuna.load_study(study_name="run", storage=optuna.storages.JournalStorage(JournalReader(run)))
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 4


def _outage(proxy: Proxy, run: RunStorage) -> dict[str, dict[str, Any]]:
    """Let the store refuse for 20 s, then answer slowly; return the rows of before."""
    before = {row["trial_id"]: row for row in rows(read_archive(run).table)}
    proxy.refuses = True
    time.sleep(20)
    proxy.refuses, proxy.delay_s = False, 0.1
    assert proxy.n_refused > 0
    return before
