"""No home folder: a container that runs as a bare number has none, and works all the same."""

import os
import pwd
from pathlib import Path

import pytest

from greenprune_core.errors import ConfigError
from greenprune_core.home import _temporary, cache_folder, expand, give_home, in_home


@pytest.fixture
def no_home(monkeypatch, tmp_path):
    def refuse(who):
        raise KeyError(who)

    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", refuse)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    _temporary.cache_clear()
    yield tmp_path
    _temporary.cache_clear()


def test_without_a_home_what_can_be_made_again_lies_in_a_folder_for_this_user_alone(no_home):
    folder = cache_folder()
    assert folder == no_home / f"greenprune-{os.getuid()}"
    assert folder.stat().st_mode & 0o077 == 0


def test_a_folder_that_others_may_write_is_not_trusted(no_home):
    planted = no_home / f"greenprune-{os.getuid()}"
    planted.mkdir()
    planted.chmod(0o777)
    assert cache_folder() != planted


def test_without_a_home_a_file_in_it_is_not_there_and_a_path_that_begins_there_is_refused(no_home):
    assert not in_home("ray_bootstrap_config.yaml").exists()
    with pytest.raises(ConfigError, match="write it in full"):
        expand("~/runs")


def test_a_path_in_the_home_of_nobody_is_refused_in_words():
    with pytest.raises(ConfigError, match="~nobody-of-this-name/runs has none"):
        expand("~nobody-of-this-name/runs")


def test_a_path_with_a_home_begins_there(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert expand("~/runs") == in_home("runs") == tmp_path / "runs"
    assert expand("runs/~") == Path("runs/~")


def test_who_has_no_home_is_given_one_before_ray_asks(no_home, monkeypatch):
    monkeypatch.setenv("HOME", "")
    monkeypatch.delenv("HOME")
    give_home()
    assert Path.home() == no_home / f"greenprune-{os.getuid()}"
