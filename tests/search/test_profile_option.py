"""A wrong --profile is refused before anything starts."""

import pytest

from hpsearch.cli import main


@pytest.mark.parametrize("option", [("--profile", "horowits"), ("--set", "profile=horowits")])
@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_an_unknown_profile_names_the_nearest_and_starts_nothing(tmp_path, capsys, option, more):
    runs = tmp_path / "runs"
    arguments = ["search", "--space", "digits", "--trials", "4", "--storage-path", str(runs), "--name", "x"]
    assert main([*arguments, *option, *more]) == 2
    assert "near names: horowitz-45nm" in capsys.readouterr().err
    assert not runs.exists()
