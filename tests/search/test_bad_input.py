"""What a user can get wrong in a search: exit code 2, one line with rule, value and way out, nothing written."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
from archive_maker import make_row

from greenprune_core.config import TrialConfig
from greenprune_core.errors import ConfigError
from hpsearch import archive
from hpsearch.cli import main
from hpsearch.cluster.needs import with_needs
from hpsearch.settings import SearchSettings, resolve
from hpsearch.storage import RunStorage
from hpsearch.study.opening import _check_values, check_run, open_ledger, write_settings
from hpsearch.tuner import plan_halving
from search_spaces import load_space, pin

CASES = {
    "unknown space": (["--space", "digts"], "nearest: digits"),
    "space file that is not there": (["--space", "nowhere.py:SPACE"], "nowhere.py"),
    "no trials": (["--trials", "0"], "trials needs at least 1, but got trials=0"),
    "no storage path": (["--storage-path", ""], "storage-path=''; write . for the present folder"),
    "a store without a bucket": (["--storage-path", "s3://"], "a folder or an address like s3://bucket/prefix"),
    "processors without end": (["--cpus-per-trial", "inf"], "cpus-per-trial needs a number > 0, but got inf"),
    "name that is too long": (["--name", "a" * 300], "at most 200 of them"),
    "negative trials": (["--trials", "-3"], "trials=-3"),
    "fewer trials than first points": (["--trials", "1"], "first points"),
    "budget without a unit": (["--max-energy", "2"], "without a unit"),
    "budget with an unknown unit": (["--max-energy", "2cal"], "'cal'"),
    "time budget without a unit": (["--time-budget", "2"], "time-budget"),
    "energy budget of nothing": (["--energy-budget", "0kWh"], "energy-budget"),
    "unknown key": (["--set", "epoch=2"], "epochs"),
    "value out of range": (["--set", "target=7"], "target"),
    "set without a value": (["--set", "epochs"], "key=value"),
    "unknown sampler": (["--sampler", "magic"], "tpe"),
    "name with a slash": (["--name", "a/b"], "name is made of"),
    "eta below two": (["--halving", "--eta", "1"], "eta needs at least 2"),
    "grace longer than the training": (["--halving", "--grace", "24"], "grace=24 for 24 epochs"),
    "no repeats": (["--repeats", "0"], "repeats needs at least 1"),
    "grace without halving": (["--grace", "2"], "grace belongs to halving"),
    "accuracy in percent": (["--min-accuracy", "90"], "write 0.9 for 90 %"),
    "the home of nobody": (["--storage-path", "~nobody-of-this-name/runs"], "lies in the home of a user"),
    "unknown option": (["--trails", "3"], "--trials"),
    "warm start from no run": (["--warm-start", "/nowhere"], "/nowhere"),
    "resume of nothing": (["--resume", "--name", "none"], "leave out --resume"),
}


@pytest.fixture(autouse=True)
def no_ray(monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("Ray was started before the input was checked")

    monkeypatch.setattr("hpsearch.tuner.connect", refuse)


@pytest.mark.parametrize(
    "case",
    [
        *("fewer trials than first points", "warm start from no run", "processors without end", "no storage path"),
        *("the home of nobody", "resume of nothing"),
    ],
)
def test_a_dry_run_refuses_what_the_search_does(case, capsys):
    arguments, text = CASES[case]
    assert main(["search", "--dry-run", *arguments]) == 2
    assert text in capsys.readouterr().err


@pytest.mark.parametrize("case", CASES)
def test_wrong_input_is_one_line_and_code_two_and_writes_nothing(case, tmp_path, capsys):
    arguments, text = CASES[case]
    assert main(["search", "--storage-path", str(tmp_path / "runs"), *arguments]) == 2
    error = capsys.readouterr().err
    assert text in error
    assert error.count("\n") == 1
    assert "Traceback" not in error
    assert list(tmp_path.rglob("*")) == []


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("return {}['missing']", "raised KeyError: 'missing' ({path}:3)"),
        ("return trial.suggest_float('target', 1.0, 0.1)", "target has low=1.0, high=0.1; swap them"),
        ("return trial.suggest('target')", "AttributeError"),
        ("return None", "returned NoneType"),
    ],
)
@pytest.mark.parametrize("dry", [["--dry-run"], []])
def test_a_mistake_in_the_code_of_a_space_is_named_with_its_place(line, told, dry, tmp_path, capsys):
    path = tmp_path / "mine.py"
    path.write_text(
        "from search_spaces import SearchSpace\n"
        f"def suggest(trial):\n    {line}\n"
        "MINE = SearchSpace(name='mine', suggest=suggest)\n"
    )
    for attribute in ("MINE", "suggest"):
        space = f"{path}:{attribute}"
        assert main(["search", "--space", space, "--storage-path", str(tmp_path / "runs"), *dry]) == 2
        error = capsys.readouterr().err
        assert told.format(path=path) in error
        assert error.count("\n") == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("dry", [["--dry-run"], []])
def test_a_first_point_outside_its_space_is_refused(dry, tmp_path, capsys):
    path = tmp_path / "mine.py"
    path.write_text(
        "from dataclasses import replace\nfrom search_spaces import load_space\ndigits = load_space('digits')\n"
        "MINE = replace(digits, first_points=({**digits.first_points[0], 'weight_decay': 0.5},))\n"
    )
    assert main(["search", "--space", f"{path}:MINE", "--storage-path", str(tmp_path / "runs"), *dry]) == 2
    error = capsys.readouterr().err
    assert "weight_decay=0.5, which is drawn from" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_brackets_in_what_a_space_says_are_shown_as_they_are(tmp_path, capsys):
    path = tmp_path / "mine.py"
    path.write_text(
        "from dataclasses import replace\nfrom search_spaces import load_space\n"
        "MINE = replace(load_space('digits'), description='targets in [low, high] of [/all] networks')\n"
    )
    assert main(["search", "--space", f"{path}:MINE", "--dry-run"]) == 0
    assert "targets in [low, high] of [/all] networks" in capsys.readouterr().out


def test_needs_that_are_none_are_refused():
    space = dataclasses.replace(load_space("digits"), needs=lambda config: None)
    with pytest.raises(ConfigError, match="told as cpus and gpus, but digits told None; return a dictionary"):
        with_needs(space, TrialConfig(), SearchSettings())


def test_a_space_file_without_the_attribute_is_refused(tmp_path, capsys):
    file = tmp_path / "mine.py"
    file.write_text("SPACES = 1\n")
    assert main(["search", "--space", f"{file}:SPACE", "--storage-path", str(tmp_path / "runs")]) == 2
    assert "SPACE" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_storage_path_that_cannot_be_written_is_refused(tmp_path, capsys, monkeypatch):
    (tmp_path / "runs").write_text("a file, no folder")
    monkeypatch.setattr("hpsearch.tuner.connect", lambda address: None)
    monkeypatch.setattr("hpsearch.tuner.count_slots", lambda cpus, gpus: 2)
    assert main(["search", "--storage-path", str(tmp_path / "runs")]) == 2
    assert "storage path must be writable" in capsys.readouterr().err


def _made(folder: Path, **given) -> tuple[RunStorage, SearchSettings]:
    settings, _ = resolve({"storage_path": str(folder), "name": "run", "space": "digits", **given}, {})
    storage = RunStorage.open(settings.run)
    write_settings(storage, settings)
    return storage, settings


def test_a_taken_name_is_refused_without_resume(tmp_path, capsys):
    _made(tmp_path)
    assert main(["search", "--storage-path", str(tmp_path), "--name", "run"]) == 2
    assert "add --resume" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["", '{"schema', "[]", "{}", '{"schema_version": "x"}', '{"schema_version": 1}'])
def test_damaged_settings_are_refused_in_one_line(content, tmp_path, capsys):
    storage, _ = _made(tmp_path)
    storage.write_bytes("settings.json", content.encode())
    assert main(["search", "--storage-path", str(tmp_path), "--name", "run", "--resume"]) == 2
    error = capsys.readouterr().err
    assert "settings.json" in error
    assert error.count("\n") == 1
    assert storage.read_bytes("settings.json") == content.encode()


def test_a_resume_that_is_refused_for_its_journal_leaves_the_settings_as_they_were(tmp_path):
    storage, settings = _made(tmp_path)
    open_ledger(storage, settings, load_space("digits"))
    before = storage.read_bytes("settings.json")
    lines = storage.read_bytes("study.journal").splitlines(keepends=True)
    storage.write_bytes("study.journal", b"".join([*lines[:3], b"{garbage\n", *lines[3:]]))
    again = dataclasses.replace(settings, resume=True, trials=99)
    check_run(storage, again)
    with pytest.raises(ConfigError, match="restore the file from a copy"):
        open_ledger(storage, again, load_space("digits"))
    assert storage.read_bytes("settings.json") == before


def test_a_smoke_test_keeps_what_the_environment_sets(monkeypatch):
    from hpsearch import start

    seen = []
    monkeypatch.setattr(start, "run", lambda settings, *others, **options: seen.append(settings))
    monkeypatch.setenv("HPSEARCH_SET", "epochs=3 seed=7")
    main(["search", "--smoke-test"])
    main(["search", "--smoke-test", "--set", "n_train=64"])
    assert [settings.pinned for settings in seen] == [
        {"epochs": "3", "n_train": "512", "seed": "7"},
        {"epochs": "5", "n_train": "64"},
    ]


def test_a_run_is_not_resumed_with_another_space(tmp_path, capsys):
    _made(tmp_path)
    arguments = ["--storage-path", str(tmp_path), "--name", "run", "--resume", "--space", "fashion_mnist"]
    assert main(["search", *arguments]) == 2
    assert "made with digits and got fashion_mnist" in capsys.readouterr().err


def _finished(folder: Path, name: str, source: str | None = None, **params) -> None:
    storage, _ = _made(folder, name=name)
    row = {"trial_id": "a", "state": "complete", "params": params, "val_accuracy": 0.9, "energy_j": 1e-6}
    archive.write_trial(storage, {**row, "energy_source": source})


def test_the_cost_of_a_network_that_no_memory_holds_is_not_known(capsys):
    assert main(["search", "--dry-run", "--set", "width=100000000"]) == 0
    assert "cost: not known: " in capsys.readouterr().out


def test_a_warm_start_from_a_run_with_other_names_is_refused(tmp_path, capsys):
    _finished(tmp_path, "other", width=3)
    arguments = ["--storage-path", str(tmp_path), "--name", "run", "--warm-start", str(tmp_path / "other")]
    assert main(["search", *arguments]) == 2
    error = capsys.readouterr().err
    assert "needs the names" in error
    assert str(tmp_path / "other") in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_warm_start_from_a_run_without_a_complete_trial_is_refused(tmp_path, capsys):
    _made(tmp_path, name="other")
    arguments = ["--storage-path", str(tmp_path), "--name", "run", "--warm-start", str(tmp_path / "other")]
    assert main(["search", *arguments]) == 2
    assert "has none; leave out --warm-start" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--objective", "latency", "--profile", "amd-epyc-zen5-1-thread"], "finite model_latency_s, but got None"),
        (["--third-objective", "training-energy"], "finite train_energy_j, but got None"),
        ([], "from model:horowitz-45nm, as here, but that of {other} is from model:mine;"),
    ],
)
def test_a_warm_start_from_a_run_that_knows_other_costs_is_refused_and_writes_nothing(more, told, tmp_path, capsys):
    _finished(tmp_path, "other", "model:mine", **load_space("digits").first_points[0])
    other = str(tmp_path / "other")
    arguments = ["--storage-path", str(tmp_path), "--name", "run", "--warm-start", other, *more]
    assert main(["search", *arguments]) == 2
    error = capsys.readouterr().err
    assert told.format(other=other) in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_warm_start_from_joules_of_two_sources_is_refused(tmp_path):
    settings, _ = resolve({"warm_start": "other", "third_objective": "training-energy"}, {})
    rows = [make_row(1), make_row(2, train_energy_source="nvml")]
    with pytest.raises(ConfigError, match=r"from one source, but those of other are from model:horowitz-45nm and nvml"):
        _check_values(rows, settings, load_space("digits"))


def test_the_journal_of_another_study_is_refused(tmp_path, capsys):
    for name in ("run", "other"):
        storage, settings = _made(tmp_path, name=name)
        open_ledger(storage, settings, load_space("digits"))
    shutil.copy(tmp_path / "other" / "study.journal", tmp_path / "run" / "study.journal")
    assert main(["search", "--storage-path", str(tmp_path), "--name", "run", "--resume"]) == 2
    error = capsys.readouterr().err
    assert "holds 'other'" in error
    assert error.count("\n") == 1


def test_a_journal_that_a_kill_tore_in_its_first_line_is_no_obstacle(tmp_path):
    storage, settings = _made(tmp_path)
    (tmp_path / "run" / "study.journal").write_bytes(b'{"op_code":0,"work')
    check_run(storage, dataclasses.replace(settings, resume=True))
    ledger, again = open_ledger(storage, settings, load_space("digits"))
    assert (ledger.n_finished, again) == (0, 0)


def test_a_run_is_not_resumed_with_another_version_of_the_columns(tmp_path):
    storage, _ = _made(tmp_path)
    content = json.loads(storage.read_bytes("settings.json"))
    content["schema_version"] = archive.SCHEMA_VERSION + 1
    storage.write_bytes("settings.json", json.dumps(content).encode())
    settings, _ = resolve({"storage_path": str(tmp_path), "name": "run", "space": "digits", "resume": True}, {})
    with pytest.raises(ConfigError, match="same columns"):
        check_run(storage, settings)


def test_a_damaged_data_file_ends_the_search_before_it_begins(tmp_path, capsys):
    folder = tmp_path / "data" / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (folder / f"{name}-ubyte.gz").write_bytes(b"not gzip")
    arguments = [
        "--space",
        "fashion_mnist",
        "--data-dir",
        str(tmp_path / "data"),
        "--storage-path",
        str(tmp_path / "r"),
    ]
    assert main(["search", *arguments]) == 2
    assert "ubyte" in capsys.readouterr().err
    assert not (tmp_path / "r").exists()


def test_more_gpus_than_the_cluster_has_are_refused_at_once(tmp_path, capsys, monkeypatch):
    import ray

    monkeypatch.setattr("hpsearch.tuner.connect", lambda address: None)
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": {"CPU": 2.0}}])
    assert main(["search", "--gpus-per-trial", "1", "--storage-path", str(tmp_path / "runs")]) == 2
    error = capsys.readouterr().err
    assert "0 GPUs, but got" in error
    assert "gpus-per-trial=1" in error
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("cpus", "gpus", "slots"), [(1, 0, 6), (0.5, 0, 12), (4, 0, 1), (1, 0.25, 5), (1, 1, 2), (1, 0.4, 4), (2, 2, 1)]
)
def test_slots_are_counted_node_by_node(monkeypatch, cpus, gpus, slots):
    import ray

    from hpsearch.cluster.session import count_slots

    nodes = [
        {"Alive": True, "Resources": {"CPU": 5.0, "GPU": 2.0}},
        {"Alive": True, "Resources": {"CPU": 1.0}},
        {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}},
    ]
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    assert count_slots(cpus, gpus) == slots


def test_settings_come_from_the_command_line_then_the_environment_then_defaults():
    settings, origins = resolve(
        {"trials": 5, "sampler": None, "pins": ()},
        {
            "HPSEARCH_TRIALS": "9",
            "HPSEARCH_SAMPLER": "nsga2",
            "HPSEARCH_SET": "epochs=2 seed=1",
            "HPSEARCH_RESUME": "1",
        },
    )
    assert (settings.trials, settings.sampler, settings.seed, settings.resume) == (5, "nsga2", 0, True)
    assert settings.pinned == {"epochs": "2", "seed": "1"}
    assert (origins["trials"], origins["sampler"], origins["seed"]) == ("command line", "HPSEARCH_SAMPLER", "default")
    assert settings.name.startswith("digits-")


def test_an_unknown_variable_with_our_prefix_is_refused():
    with pytest.raises(ConfigError, match="HPSEARCH_TRAILS"):
        resolve({}, {"HPSEARCH_TRAILS": "9"})


def test_halving_is_planned_for_the_epochs_of_the_space():
    settings, _ = resolve({"halving": True}, {})
    assert plan_halving(settings, load_space("digits")).rungs == (14,)
    assert plan_halving(settings, pin(load_space("digits"), {"epochs": "9"})).rungs == (5,)
    early, _ = resolve({"halving": True, "eta": 3, "grace": 2}, {})
    assert plan_halving(early, load_space("digits")).rungs == (2, 6, 18)
    assert plan_halving(resolve({}, {})[0], load_space("digits")) is None
