"""`hpsearch calibrate` from the command line."""

import pytest

from greenprune_core.cost import load_profile
from greenprune_core.measure.calibration import Plan
from hpsearch.cli import main


def test_a_quick_calibration_writes_a_profile_that_loads_with_its_figures(tmp_path, capsys, monkeypatch):
    tiny = Plan(seconds=0.1, batch_sizes=(1,), n_layers=11, n_networks=0, n_held_out=3, turn_s=0.002)
    monkeypatch.setattr("greenprune_core.measure.calibration.QUICK", tiny)
    output = tmp_path / "mine.json"
    assert main(["calibrate", "--output", str(output), "--quick", "--meter", "none"]) == 0
    profile = load_profile(output)
    assert profile.name == "mine"
    assert profile.fit["held_out"][0]["n_held_out"] == 3
    shown = capsys.readouterr().out
    assert "MACs only" in shown
    assert "holds no joules" in shown
    assert [path.name for path in tmp_path.iterdir()] == ["mine.json"]


@pytest.mark.slow
def test_a_declared_power_gives_a_profile_that_a_search_of_energies_takes(tmp_path, capsys, monkeypatch):
    tiny = Plan(seconds=0.1, batch_sizes=(1,), n_layers=11, n_networks=0, n_held_out=3, turn_s=0.002)
    monkeypatch.setattr("greenprune_core.measure.calibration.QUICK", tiny)
    output = tmp_path / "mine.json"
    assert main(["calibrate", "--output", str(output), "--quick", "--power-w", "65"]) == 0
    assert "declared power of 65 W" in capsys.readouterr().out
    assert "declared by the user" in load_profile(output).static_power_w.source
    assert main(["search", "--profile", str(output), "--dry-run", "--storage-path", str(tmp_path)]) == 0
    assert "(model:mine)" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "--output"),
        (["--output", "{dir}/profile.txt"], "is a JSON file"),
        (["--output", "{dir}/old.json"], "exists; take another name or add --force"),
        (["--output", "{dir}/nowhere/p.json"], "make the folder first"),
        (["--output", "{dir}/p.json", "--minutes", "11"], "up to 600 s"),
        (["--output", "{dir}/p.json", "--minutes", "nan"], "up to 600 s"),
        (["--output", "{dir}/my profile.json"], "name is one word"),
        (["--output", "{dir}/p.json", "--name", "horowitz-45nm"], "which is shipped; give another --name"),
        (["--output", "{dir}"], "is a JSON file"),
        (["--output", "{dir}/p.json", "--power-w", "0"], "above 0 W"),
        (["--output", "{dir}/p.json", "--power-w", "5", "--meter", "rapl"], "leave one out"),
        (["--output", "{dir}/p.json", "--batch-size", "0"], "at least 1"),
        (["--output", "{dir}/p.json", "--device", "quantum"], "a GPU that torch sees"),
    ],
)
def test_bad_input_is_code_2_with_one_line_and_nothing_written(tmp_path, capsys, arguments, words):
    (tmp_path / "old.json").write_text("{}")
    assert main(["calibrate", *(argument.format(dir=tmp_path) for argument in arguments)]) == 2
    message = capsys.readouterr().err
    assert words in message
    assert message.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["old.json"]
    assert (tmp_path / "old.json").read_text() == "{}"
