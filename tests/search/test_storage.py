import pytest

from greenprune_core.errors import ConfigError
from hpsearch.storage import ASIDE_SUFFIX, RunStorage


@pytest.fixture
def storage(tmp_path):
    return RunStorage.open(tmp_path / "run")


def test_opening_a_run_makes_nothing(storage, tmp_path):
    assert not storage.exists()
    assert storage.list("trials") == []
    assert list(tmp_path.iterdir()) == []


def test_a_file_comes_back_as_written_and_can_be_replaced(storage):
    storage.write_bytes("a/b.txt", b"one")
    storage.write_bytes("a/b.txt", b"two")
    assert storage.read_bytes("a/b.txt") == b"two"
    assert storage.list("a") == ["a/b.txt"]
    storage.delete("a/b.txt")
    storage.delete("a/b.txt")
    assert not storage.exists("a/b.txt")


def test_a_write_that_fails_leaves_the_old_file_and_no_debris(storage, monkeypatch, tmp_path):
    storage.write_bytes("x", b"old")

    def no_space(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("hpsearch.storage.os.fsync", no_space)
    with pytest.raises(ConfigError, match="No space left"):
        storage.write_bytes("x", b"new")
    assert storage.read_bytes("x") == b"old"
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["x"]


def test_a_half_written_file_is_not_listed(storage, tmp_path):
    storage.write_bytes("x", b"1")
    (tmp_path / "run" / f".y.1{ASIDE_SUFFIX}").write_bytes(b"half")
    assert storage.list() == ["x"]


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigError, match=r"storage path must be writable.*--storage-path"):
        RunStorage.open(tmp_path / "file" / "run").write_bytes("settings.json", b"{}")


@pytest.mark.parametrize("path", ["../outside", "/etc/passwd", "a/../../b"])
def test_no_path_leads_out_of_the_storage(storage, path):
    with pytest.raises(ConfigError, match="stays inside"):
        storage.write_bytes(path, b"")


def test_an_unknown_store_is_refused_with_its_address():
    with pytest.raises(ConfigError, match=r"s3://bucket/prefix.*nowhere://x"):
        RunStorage.open("nowhere://x")


def test_a_folder_goes_in_and_out(storage, tmp_path):
    (tmp_path / "from").mkdir()
    (tmp_path / "from" / "card.json").write_text("{}")
    storage.put_folder(tmp_path / "from", "subnetworks/t1")
    storage.get_folder("subnetworks/t1", tmp_path / "to")
    assert (tmp_path / "to" / "card.json").read_text() == "{}"


def test_a_home_of_nobody_is_refused_in_words():
    with pytest.raises(ConfigError, match="write it in full"):
        RunStorage.open("~nobody-of-this-name/runs")
