import json

import pytest
from archive_maker import make_row, make_rows, make_run

from hpsearch.cli import main


@pytest.fixture
def run(tmp_path):
    make_run(tmp_path / "run", make_rows(40))
    return str(tmp_path / "run")


def test_a_pick_says_which_and_by_what_margin(run, capsys):
    assert main(["pick", run, "--max-energy", "1.5mJ"]) == 0
    out = capsys.readouterr().out
    assert "the most accurate within energy at most 1.50 mJ" in out
    assert "under the budget" in out
    assert "model:horowitz-45nm" in out
    assert "one step up" in out
    assert "95 % interval" in out


def test_the_interval_over_seeds_says_so_and_ends_where_accuracies_do(tmp_path, capsys):
    rows = [make_row(n, accuracy=accuracy, config_hash="t00001") for n, accuracy in ((1, 0.90), (2, 0.92))]
    make_run(tmp_path / "run", rows)
    assert main(["pick", str(tmp_path / "run"), "--knee"]) == 0
    # Student's for two seeds: 12.706 * 0.01 on either side of the mean
    assert "91.00 % (95 % interval 78.29% to 100.00%, 2 seeds)" in capsys.readouterr().out


def test_a_pick_in_json_is_for_machines(run, capsys):
    assert main(["pick", run, "--min-accuracy", "85%", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["val_accuracy"] >= 0.85
    assert found["exported"] == []


def test_nothing_fits_is_code_3_with_the_nearest(run, capsys):
    assert main(["pick", run, "--max-energy", "1nJ"]) == 3
    assert "nearest is" in capsys.readouterr().err
    assert main(["pick", run, "--max-energy", "1nJ", "--json"]) == 3
    assert json.loads(capsys.readouterr().out)["missed_by"]["energy_j"] > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "needs one way to choose"),
        (["--knee", "--max-energy", "1mJ"], "takes one way to choose"),
        (["--max-energy", "1.5"], "without a unit"),
        (["--max-energy", "2mW"], "with the unit 'mW'"),
        (["--max-macs", "20mJ"], "with the unit 'mJ'"),
        (["--max-latency", "2"], "without a unit"),
        (["--min-accuracy", "90"], "at most 1 or 100%"),
        (["--max-energy", "-1mJ"], "above 0"),
        (["--max-energy", "1.5MJ", "--min-accuracy", "ninety"], "needs an accuracy"),
        (["--knee", "--format", "onnx"], "belong to --export"),
        (["--trial", "nobody"], "names a trial of the run"),
        (["--knee", "--export", "out"], "holds none"),
    ],
)
def test_wrong_input_is_one_line_and_code_2(run, capsys, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert main(["pick", run, *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_limits_go_together_and_each_has_its_margin(run, capsys):
    assert main(["pick", run, "--max-energy", "1.5mJ", "--max-macs", "25M", "--min-accuracy", "85%", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["energy_j"] <= 1.5e-3
    assert found["macs"] <= 25e6
    assert found["val_accuracy"] >= 0.85
    assert {limit["on"] for limit in found["limits"]} == {"energy_j", "macs", "val_accuracy"}
    assert all(limit["margin"] >= 0 for limit in found["limits"])
    assert main(["pick", run, "--max-energy", "1.5mJ", "--min-accuracy", "99.9%"]) == 3
    error = capsys.readouterr().err
    assert "energy at most 1.50 mJ and accuracy at least 99.90 %" in error
    assert "points (" in error
    assert "below the floor" in error


def test_what_is_left_out_is_said_beside_the_pick(tmp_path, capsys):
    storage = make_run(tmp_path / "run", [make_row(1), make_row(2, accuracy=float("nan"))])
    storage.write_bytes("trials/broken.parquet", b"PAR1")
    assert main(["pick", str(tmp_path / "run"), "--knee", "--json"]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["trial_id"] == "t00001"
    assert "left out the damaged part trials/broken.parquet" in told.err
    assert "left out 1 complete trials: val_accuracy is missing or not finite" in told.err


def test_a_run_of_a_newer_version_is_refused_by_every_reader(run, capsys, tmp_path):
    facts = json.loads((tmp_path / "run" / "settings.json").read_text())
    (tmp_path / "run" / "settings.json").write_text(json.dumps(facts | {"schema_version": 99}))
    for command in (["pick", run, "--knee"], ["report", run], ["compare", run, run], ["controls", run]):
        assert main(command) == 2
        assert "install a newer one to read this run" in capsys.readouterr().err


@pytest.mark.slow
def test_a_damaged_sub_network_is_not_exported(tmp_path, capsys):
    torch = pytest.importorskip("torch")
    from greenprune_core.subnetwork import save_subnetwork

    make_run(tmp_path / "run", [make_row(1)])
    folder = tmp_path / "run" / "subnetworks" / "t00001"
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3)).eval()
    save_subnetwork(folder, network, torch.rand(1, 1, 8, 8), {})
    content = bytearray((folder / "weights.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "weights.safetensors").write_bytes(content)
    assert main(["pick", str(tmp_path / "run"), "--knee", "--export", str(tmp_path / "out")]) == 2
    assert "hash is the one on the card" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", [["pick", "--knee"], ["report"]])
def test_a_folder_that_is_no_run_is_refused(command, capsys, tmp_path):
    assert main([command[0], str(tmp_path / "nothing"), *command[1:]]) == 2
    assert "a run is a folder with settings.json" in capsys.readouterr().err
    assert not (tmp_path / "nothing").exists()


def test_a_run_without_a_finished_trial_has_nothing_to_pick(tmp_path, capsys):
    make_run(tmp_path / "run", [make_row(1, state="failed", error="NaN")])
    assert main(["pick", str(tmp_path / "run"), "--knee"]) == 2
    assert "let a trial finish first" in capsys.readouterr().err


def test_an_export_writes_the_files_of_the_picked_trial(run, tmp_path, capsys):
    torch = pytest.importorskip("torch")
    from greenprune_core.subnetwork import save_subnetwork

    assert main(["pick", run, "--knee", "--json"]) == 0
    trial_id = json.loads(capsys.readouterr().out)["trial_id"]
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.Flatten(), torch.nn.Linear(72, 3)).eval()
    save_subnetwork(tmp_path / "run" / "subnetworks" / trial_id, network, torch.rand(1, 1, 8, 8), {})
    target = str(tmp_path / "out")
    assert main(["pick", run, "--knee", "--export", target]) == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"card.json", "program.pt2", "weights.safetensors"}
    assert main(["pick", run, "--knee", "--export", target]) == 2
    assert "overwrites nothing" in capsys.readouterr().err
    capsys.readouterr()
    (tmp_path / "file").write_text("here")
    assert main(["pick", run, "--knee", "--export", str(tmp_path / "file")]) == 2
    error = capsys.readouterr().err
    assert f"{tmp_path / 'file'} cannot: File exists" in error
    assert error.count("\n") == 1
    assert main(["pick", run, "--knee", "--export", target, "--force", "--format", "card"]) == 0
    assert main(["pick", run, "--knee", "--export", target, "--force", "--format", "torchscript"]) == 2
