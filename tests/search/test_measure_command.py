"""Measuring a run from the command line, and rows that carry measured joules."""

import datetime
import itertools
import subprocess
import sys
import time

import pytest
import torch
from archive_maker import make_row, make_run
from torch import nn

from greenprune_core.config import NetworkConfig, TrialConfig
from greenprune_core.errors import ConfigError
from greenprune_core.measure import ReplayMeter
from greenprune_core.subnetwork import save_subnetwork
from hpsearch.cli import main
from hpsearch.commands.measure import summarise_warnings
from hpsearch.energy.measured import read_measurements, with_latency, with_measured, write_measurements
from hpsearch.lock import MeasureLock
from hpsearch.storage import RunStorage

pytestmark = pytest.mark.slow

QUICK = ["--min-seconds", "0.05", "--windows", "6", "--batch-size", "1", "--batch-size", "4", "--meter", "none"]


def make_measurable_run(folder, widths=(2, 4)):
    """A run whose front members have tiny saved sub-networks."""
    config = TrialConfig(network=NetworkConfig(name="cifar_resnet8", width=4)).to_dict()
    rows = [
        make_row(i, accuracy=0.8 + 0.01 * width, energy_j=width * 1e-6, config=config) for i, width in enumerate(widths)
    ]
    storage = make_run(folder, rows)
    for row, width in zip(rows, widths, strict=True):
        network = nn.Sequential(nn.Conv2d(1, width, 3), nn.ReLU(), nn.Flatten(), nn.Linear(width * 36, 10)).eval()
        card = {"trial_id": row["trial_id"], "classes": [str(i) for i in range(10)]}
        save_subnetwork(folder / "subnetworks" / row["trial_id"], network, torch.zeros(1, 1, 8, 8), card)
    return storage, [row["trial_id"] for row in rows]


@pytest.fixture(scope="module")
def measured_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("measure") / "run"
    storage, trial_ids = make_measurable_run(folder)
    assert main(["measure", str(folder), *QUICK]) == 0
    return folder, storage, trial_ids


def test_front_and_dense_network_are_measured_at_each_batch_size(measured_run):
    _, storage, trial_ids = measured_run
    found = read_measurements(storage)
    wanted = {(name, size) for name in (*trial_ids, "dense:cifar_resnet8/4") for size in (1, 4)}
    assert {(line["trial_id"], line["batch_size"]) for line in found} == wanted
    for line in found:
        assert 0 < line["latency_low_s"] <= line["latency_s"] <= line["latency_high_s"]
        assert line["energy_j"] is None
        assert line["energy_source"] is None
        assert line["n_windows"] >= 6


def test_measuring_again_replaces_and_declared_power_gives_labelled_joules(tmp_path, capsys):
    folder = tmp_path / "run"
    storage, trial_ids = make_measurable_run(folder, widths=(2,))
    assert main(["measure", str(folder), *QUICK]) == 0
    assert "joules are not available without a counter" in capsys.readouterr().out
    assert main(["measure", str(folder), *QUICK, "--trial", trial_ids[0], "--power-w", "65"]) == 0
    assert "time*power" in capsys.readouterr().out
    found = read_measurements(storage)
    assert len(found) == 4
    for line in found:
        assert line["energy_source"] == "time*power"
        assert line["energy_j"] == pytest.approx(65 * line["latency_s"] / line["batch_size"])


def test_measured_latency_stands_beside_modelled_joules(measured_run):
    _, storage, _ = measured_run
    rows = with_latency([make_row(0), make_row(7)], read_measurements(storage))
    assert rows[0]["latency_s"] > 0
    assert rows[1]["latency_s"] is None
    assert rows[0]["energy_source"] == "model:horowitz-45nm"


def line(trial_id, energy_j, source="rapl", batch_size=1, **other):
    return {
        **{"device": "a processor", "n_threads": 1, "meter": "RAPL counters of package-0"},
        **{"measured_at": datetime.datetime(2026, 11, 25, tzinfo=datetime.UTC), **other},
        "trial_id": trial_id,
        "network": "cifar_resnet20/16",
        "batch_size": batch_size,
        "latency_s": 2e-3,
        "energy_j": energy_j,
        "energy_source": source if energy_j is not None else None,
    }


def test_measured_joules_replace_modelled_ones_and_never_mix():
    rows = [make_row(0), make_row(1)]
    measurements = [line("t00000", 3e-3), line("dense:cifar_resnet20/16", 9e-3)]
    first, second = with_measured(rows, measurements)
    assert (first["energy_j"], first["dense_energy_j"], first["energy_source"]) == (3e-3, 9e-3, "rapl")
    assert (second["energy_j"], second["dense_energy_j"], second["energy_source"]) == (None, None, None)
    with pytest.raises(ConfigError, match="at batch size 256"):
        with_measured(rows, measurements, batch_size=256)
    with pytest.raises(ConfigError, match="nvml and rapl"):
        with_measured(rows, [*measurements, line("t00001", 1e-3, "nvml")])


@pytest.mark.parametrize(
    ("other", "ways"),
    [
        ({"device": "another one"}, ["package-0 on a processor, 1 thread", "package-0 on another one, 1 thread"]),
        ({"n_threads": 2}, ["a processor, 1 thread and", "a processor, 2 threads"]),
        ({"meter": "declared 100 W"}, ["RAPL counters of package-0 on", "declared 100 W on a processor"]),
    ],
)
def test_joules_of_two_devices_or_powers_are_never_on_one_front(other, ways):
    measurements = [line("t00000", 3e-3), line("t00001", 2e-3, **other)]
    with pytest.raises(ConfigError, match="one device, meter and number of threads, but got") as error:
        with_measured([make_row(0), make_row(1)], measurements)
    assert all(way in str(error.value) for way in ways)


def test_times_of_another_device_than_the_latest_are_left_out():
    later = {"measured_at": datetime.datetime(2026, 11, 26, tzinfo=datetime.UTC), "n_threads": 2}
    rows = with_latency([make_row(0), make_row(1)], [line("t00000", None), line("t00001", None, **later)])
    assert [row["latency_s"] for row in rows] == [None, 2e-3]


def test_trials_that_were_not_measured_are_left_out_in_these_words(tmp_path, capsys):
    folder = tmp_path / "run"
    make_measurable_run(folder)
    assert main(["measure", str(folder), *QUICK, "--trial", "t00001", "--power-w", "65"]) == 0
    assert main(["pick", str(folder), "--energy", "measured", "--max-energy", "1J"]) == 0
    captured = capsys.readouterr()
    assert "left out 1 complete trials: its energy was not measured" in captured.err
    assert "(time*power)" in captured.out
    assert main(["report", str(folder), "--energy", "measured"]) == 0
    assert "its energy was not measured" in (folder / "report.html").read_text()


def test_idle_power_is_subtracted_and_stated(tmp_path, capsys, monkeypatch):
    folder = tmp_path / "run"
    storage, trial_ids = make_measurable_run(folder, widths=(2,))
    meter = ReplayMeter(itertools.count(0.0, 5.0), source="rapl")
    monkeypatch.setattr("greenprune_core.measure.choose_meter", lambda name, device: meter)
    assert main(["measure", str(folder), *QUICK[:-2], "--trial", trial_ids[0]]) == 0
    found = read_measurements(storage)
    (idle_power_w,) = {line["idle_power_w"] for line in found}
    assert idle_power_w == pytest.approx(2.5, rel=0.05)  # 5 J between two readings two seconds apart
    assert {line["energy_source"] for line in found} == {"rapl"}
    assert "joules are those above the idle device, which drew 2." in capsys.readouterr().out


def test_a_batch_that_no_memory_holds_is_refused_and_what_was_measured_is_kept(tmp_path, capsys):
    folder = tmp_path / "run"
    storage, _ = make_measurable_run(folder, widths=(2,))
    assert main(["measure", str(folder), *QUICK[:4], "--batch-size", "1", "--batch-size", str(10**12)]) == 2
    message = capsys.readouterr().err
    assert "take a smaller --batch-size" in message
    assert message.count("\n") == 1
    assert [line["batch_size"] for line in read_measurements(storage)] == [1]


def test_one_process_measures_a_run_at_a_time(measured_run, capsys):
    folder, storage, _ = measured_run
    before = storage.read_bytes("measurements.parquet")
    lock = MeasureLock(storage)
    assert main(["measure", str(folder), *QUICK]) == 2
    assert "is being measured; wait for it" in capsys.readouterr().err
    assert storage.read_bytes("measurements.parquet") == before
    lock.release()


def test_a_kill_in_the_middle_keeps_what_was_measured_and_the_next_one_goes_on(tmp_path):
    folder = tmp_path / "run"
    storage, _ = make_measurable_run(folder)
    command = [sys.executable, "-c", "import sys; from hpsearch.cli import main; sys.exit(main())", "measure"]
    process = subprocess.Popen([*command, str(folder), *QUICK[:1], "0.5", *QUICK[2:]])
    ends = time.monotonic() + 120
    while len(read_measurements(storage)) < 2 and time.monotonic() < ends:
        time.sleep(0.01)
    process.kill()
    process.wait()
    kept = read_measurements(storage)
    assert 2 <= len(kept) < 6
    assert main(["measure", str(folder), *QUICK]) == 0
    assert len(read_measurements(storage)) == 6


def test_a_kind_of_warning_is_said_once_with_its_count():
    lines = [{"warnings": ["interval 12% wide"]}, {"warnings": ["interval 30% wide", "others busy"]}, {"warnings": []}]
    assert summarise_warnings(lines) == [
        "2 of 3 measurements, e.g. interval 12% wide",
        "1 of 3 measurements, e.g. others busy",
    ]


def test_a_damaged_table_is_named_and_nothing_is_lost(tmp_path):
    storage = RunStorage.open(tmp_path)
    assert read_measurements(storage) == []
    storage.write_bytes("measurements.parquet", b"PAR1")
    with pytest.raises(ConfigError, match="damaged"):
        write_measurements(storage, [line("t00000", 1.0)])
    assert storage.read_bytes("measurements.parquet") == b"PAR1"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--power-w", "0"], "--power-w is above 0 W"),
        (["--power-w", "-3"], "--power-w is above 0 W"),
        (["--power-w", "nan"], "--power-w is above 0 W"),
        (["--power-w", "65", "--meter", "rapl"], "leave one out"),
        (["--meter", "thermometer"], "thermometer"),
        (["--batch-size", "0"], "a batch size is at least 1"),
        (["--windows", "3"], "takes 6 to 10000 windows"),
        (["--windows", "1000000000000"], "takes 6 to 10000 windows"),
        (["--min-seconds", "0"], "takes time"),
        (["--min-seconds", "nan"], "takes time"),
        (["--min-seconds", "inf"], "takes time"),
        (["--power-w", "inf"], "--power-w is above 0 W"),
        (["--device", "cuda:x"], "a GPU that torch sees"),
        (["--device", "tpu"], "a GPU that torch sees"),
        (["--trial", "nobody"], "one of the run's, but got 'nobody'"),
    ],
)
def test_bad_input_is_code_2_with_one_line_and_nothing_written(measured_run, capsys, arguments, words):
    folder, storage, _ = measured_run
    before = storage.read_bytes("measurements.parquet")
    assert main(["measure", str(folder), *arguments]) == 2
    message = capsys.readouterr().err
    assert words in message
    assert message.count("\n") == 1
    assert storage.read_bytes("measurements.parquet") == before


def test_a_run_without_saved_subnetworks_or_without_trials_is_refused(tmp_path, capsys):
    make_run(tmp_path / "bare", [make_row(0)])
    assert main(["measure", str(tmp_path / "bare")]) == 2
    assert "saved sub-network" in capsys.readouterr().err
    make_run(tmp_path / "empty", [])
    assert main(["measure", str(tmp_path / "empty")]) == 2
    assert "none on its front" in capsys.readouterr().err
    assert main(["measure", str(tmp_path / "nowhere")]) == 2
    assert not (tmp_path / "bare" / "measurements.parquet").exists()


def test_a_missing_driver_is_one_line(measured_run, capsys, monkeypatch):
    from greenprune_core.measure import MeterUnavailableError

    def refuse(index):
        raise MeterUnavailableError("the nvml meter needs NVIDIA's driver, but got: not found; use --meter none")

    monkeypatch.setattr("greenprune_core.measure.choose.NvmlMeter", refuse)
    assert main(["measure", str(measured_run[0]), "--meter", "nvml"]) == 2
    assert "NVIDIA's driver" in capsys.readouterr().err
