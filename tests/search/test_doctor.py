"""What the doctor says of this machine."""

import socket
from pathlib import Path

import pytest

from hpsearch import doctor
from hpsearch.cli import main
from hpsearch.doctor import Finding, data_sets, examine, machine, open_ports

HEADER = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"


def test_every_topic_is_looked_at_and_says_something(tmp_path: Path) -> None:
    findings = examine(storage=str(tmp_path))
    assert {finding.topic for finding in findings} >= {"versions", "machine", "devices", "meters", "data"}
    assert all(finding.detail for finding in findings)
    assert _named(findings, "ray").state == "works"
    assert _named(findings, "digits").state == "works"


def test_a_storage_place_that_does_not_exist_yet_is_judged_by_its_parent(tmp_path: Path) -> None:
    finding = _named(list(machine(str(tmp_path / "a" / "b"))), "storage")
    assert str(tmp_path) in finding.detail
    assert finding.state != "missing"


def test_a_data_set_that_is_nowhere_comes_with_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    finding = _named(list(data_sets(str(tmp_path))), "cifar10")
    assert finding.state == "missing"
    assert "--data-dir" in finding.detail
    (tmp_path / "cifar-10-batches-py").mkdir()
    assert _named(list(data_sets(str(tmp_path))), "cifar10").state == "works"


@pytest.mark.parametrize(
    ("address", "n_warnings"),
    [("0100007F:18EB", 0), ("00000000:18EB", 1), ("0501A8C0:2049", 1), ("0501A8C0:0016", 0)],
    ids=["loopback", "all interfaces", "one interface, dashboard", "ssh is not Ray's"],
)
def test_a_ray_port_beyond_loopback_is_a_warning(tmp_path: Path, address: str, n_warnings: int) -> None:
    table = tmp_path / "tcp"
    table.write_text(HEADER + f"   0: {address} 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 1\n")
    assert len(list(open_ports([table]))) == n_warnings


@pytest.mark.parametrize("order", [("0500000A", "0100007F"), ("0100007F", "0500000A")])
def test_a_ray_port_on_loopback_hides_no_other_address_of_it(tmp_path: Path, order: tuple[str, str]) -> None:
    lines = [f"   {place}: {address}:2711 00000000:0000 0A\n" for place, address in enumerate(order)]
    (tmp_path / "tcp").write_text(HEADER + "".join(lines))
    (finding,) = open_ports([tmp_path / "tcp"])
    assert "port 10001 listens on 10.0.0.5:" in finding.detail


def test_a_connection_that_does_not_listen_is_no_open_port(tmp_path: Path) -> None:
    table = tmp_path / "tcp"
    table.write_text(HEADER + "   0: 00000000:18EB 00000000:0000 01 00000000:00000000 00:00000000 00000000 0 0 1\n")
    assert list(open_ports([table])) == []


def test_a_heads_ray_port_that_answers_from_here_is_told_and_ends_with_code_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        open_port = listener.getsockname()[1]
        monkeypatch.setattr(doctor, "RAY_PORTS", {open_port: "Ray's head", 1: "Ray's dashboard"})
        (finding,) = doctor.reachable_ports("127.0.0.1")
        assert f"port {open_port} of 127.0.0.1 answers" in finding.detail
        assert main(["doctor", "--head", "127.0.0.1"]) == 1
    assert "run any code" in " ".join(capsys.readouterr().out.split())
    (finding,) = doctor.reachable_ports("127.0.0.1")
    assert finding.state == "works"
    assert main(["doctor", "--head", "127.0.0.1"]) == 0


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a..b"])
def test_a_head_without_an_address_is_not_taken_for_a_safe_one(host: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--head", host]) == 2
    told = capsys.readouterr()
    assert host in told.err
    assert told.err.count("\n") == 1
    assert not told.out


def test_a_storage_place_that_cannot_be_looked_at_is_told_beside_the_rest(tmp_path: Path) -> None:
    finding = _named(list(machine(str(tmp_path / ("a" * 300) / "b"))), "storage")
    assert finding.state == "missing"
    assert "too long; choose another with --storage-path" in finding.detail


def test_the_command_prints_its_table_and_ends_well(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    shown = capsys.readouterr().out
    assert "torchvision" in shown
    assert "fashion_mnist" in shown


def _named(findings: list[Finding], name: str) -> Finding:
    (found,) = [finding for finding in findings if finding.name == name]
    return found
