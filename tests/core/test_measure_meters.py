"""Meters on recorded counters: turns, rights, company, MIG, rest. No device is needed."""

import os
import time
import types

import pytest

from greenprune_core.errors import ConfigError
from greenprune_core.measure import MeterUnavailableError, NoMeter, ReplayMeter, choose_meter
from greenprune_core.measure.nvml import NvmlMeter, PolledPowerMeter
from greenprune_core.measure.rapl import RaplMeter


def write_zone(root, zone, name, energy_uj, range_uj=1_000_000):
    folder = root / zone
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "name").write_text(f"{name}\n")
    (folder / "energy_uj").write_text(f"{energy_uj}\n")
    (folder / "max_energy_range_uj").write_text(f"{range_uj}\n")


def test_rapl_adds_packages_and_memory_and_leaves_cores_and_psys_out(tmp_path):
    for zone, name in (
        ("intel-rapl:0", "package-0"),
        ("intel-rapl:0:0", "core"),
        ("intel-rapl:0:1", "dram"),
        ("intel-rapl:1", "psys"),
    ):
        write_zone(tmp_path, zone, name, 100)
    meter = RaplMeter(tmp_path)
    for zone in ("intel-rapl:0", "intel-rapl:0:0", "intel-rapl:0:1", "intel-rapl:1"):
        (tmp_path / zone / "energy_uj").write_text("500100")
    assert meter.read_j() == pytest.approx(1.0)
    assert "package-0, dram" in meter.description


def test_rapl_undoes_turns_of_the_counter(tmp_path):
    write_zone(tmp_path, "intel-rapl:0", "package-0", 900_000)
    meter = RaplMeter(tmp_path)
    readings = []
    for value in (950_000, 10_000, 400_000, 800_000, 5_000):
        (tmp_path / "intel-rapl:0" / "energy_uj").write_text(str(value))
        readings.append(meter.read_j())
    assert readings == pytest.approx([0.05, 0.11, 0.5, 0.9, 1.105])
    meter.close()


def test_rapl_sees_turns_between_two_readings_that_lie_far_apart(tmp_path):
    """Three turns, and only then a reading: without a look in between they would be lost."""
    write_zone(tmp_path, "intel-rapl:0", "package-0", 0)
    looks = []
    meter = RaplMeter(tmp_path, period_s=0.002)
    read = meter.read_j
    meter.read_j = lambda: looks.append(read())  # the thread's own looks
    counter = tmp_path / "intel-rapl:0" / "energy_uj"
    for value in (400_000, 800_000, 200_000, 600_000, 0, 400_000, 800_000, 200_000):
        _replace(counter, str(value))
        n_before, ends = len(looks), time.monotonic() + 5
        while len(looks) < n_before + 2 and time.monotonic() < ends:
            time.sleep(0.001)
    meter.close()
    assert read() == pytest.approx(3.2)


def test_rapl_that_falls_back_is_refused_for_good(tmp_path):
    """A counter that falls by a little was set back: taken for a turn, it would add nearly all of one."""
    write_zone(tmp_path, "intel-rapl:0", "package-0", 900_000)
    meter = RaplMeter(tmp_path)
    counter = tmp_path / "intel-rapl:0" / "energy_uj"
    counter.write_text("899_999".replace("_", ""))
    with pytest.raises(MeterUnavailableError, match=r"fell from 900000 to 899999 uJ .* measure again"):
        meter.read_j()
    counter.write_text("950000")
    with pytest.raises(MeterUnavailableError, match="fell from"):
        meter.read_j()
    meter.close()


def test_a_rapl_file_that_vanishes_while_measuring_is_refused(tmp_path):
    write_zone(tmp_path, "intel-rapl:0", "package-0", 100)
    meter = RaplMeter(tmp_path)
    (tmp_path / "intel-rapl:0" / "energy_uj").unlink()
    with pytest.raises(MeterUnavailableError, match="needs a number in"):
        meter.read_j()
    meter.close()


def _replace(path, text):
    """Write at once, as a kernel's file changes: a thread never reads half a number."""
    aside = path.with_name("aside")
    aside.write_text(text)
    aside.replace(path)


def test_rapl_without_permission_names_the_file_and_the_setting(tmp_path, monkeypatch):
    write_zone(tmp_path, "intel-rapl:0", "package-0", 100)
    guarded = tmp_path / "intel-rapl:0" / "energy_uj"
    if os.geteuid() == 0:  # root reads everything
        plain = type(guarded).read_text

        def refuse(path, *args, **kwargs):
            if path == guarded:
                raise PermissionError(13, "Permission denied")
            return plain(path, *args, **kwargs)

        monkeypatch.setattr(type(guarded), "read_text", refuse)
    else:
        guarded.chmod(0)
    with pytest.raises(MeterUnavailableError) as error:
        RaplMeter(tmp_path)
    assert str(guarded) in str(error.value)
    assert "chmod a+r" in str(error.value)


def test_rapl_on_a_machine_without_it_or_with_a_torn_file_is_refused(tmp_path):
    with pytest.raises(MeterUnavailableError, match="package zone"):
        RaplMeter(tmp_path)
    write_zone(tmp_path, "intel-rapl:0", "package-0", "many")
    with pytest.raises(MeterUnavailableError, match="needs a number"):
        RaplMeter(tmp_path)


class FakeNvmlError(Exception):
    pass


def fake_nvml(energy_mj=None, power_mw=100_000, mig=0, pids=(), driver=True, counts=True):
    """A pynvml with one GPU whose counter moves by 10 mJ at every look, or as `energy_mj` says."""
    readings = iter(energy_mj) if energy_mj is not None else iter(range(0, 10**9, 10))

    def guarded(value):
        if isinstance(value, Exception):
            raise value
        return value

    api = types.SimpleNamespace(NVMLError=FakeNvmlError)
    api.nvmlInit = lambda: guarded(None if driver else FakeNvmlError("Driver Not Loaded"))
    api.nvmlShutdown = lambda: None
    api.nvmlDeviceGetHandleByIndex = lambda index: guarded(index if index == 0 else FakeNvmlError("Invalid Argument"))
    api.nvmlDeviceGetName = lambda handle: "Test GPU"
    api.nvmlDeviceGetMigMode = lambda handle: guarded(FakeNvmlError("Not Supported") if mig is None else (mig, mig))
    api.nvmlDeviceGetComputeRunningProcesses = lambda handle: [types.SimpleNamespace(pid=pid) for pid in pids]
    api.nvmlDeviceGetPowerUsage = lambda handle: power_mw
    api.nvmlDeviceGetTotalEnergyConsumption = lambda handle: guarded(
        next(readings) if counts else FakeNvmlError("Not Supported")
    )
    return api


def test_nvml_reads_millijoules_as_joules():
    meter = NvmlMeter(api=fake_nvml(energy_mj=[1000, 2000, 4500]))
    assert meter.read_j() == 4.5
    assert meter.source == "nvml"


@pytest.mark.parametrize(
    ("api", "words"),
    [
        (fake_nvml(driver=False), "needs NVIDIA's driver, but got: Driver Not Loaded"),
        (fake_nvml(mig=1), "split by MIG"),
        (fake_nvml(pids=(4711, 4712)), "4711, 4712"),
        (fake_nvml(counts=False), "counts joules"),
        (fake_nvml(energy_mj=iter(lambda: 5, 6)), "stood at 5 mJ"),
    ],
)
def test_nvml_refuses_what_it_cannot_count_with_the_reason(api, words):
    with pytest.raises(MeterUnavailableError) as error:
        NvmlMeter(api=api)
    assert words in str(error.value)


def test_nvml_refuses_an_unknown_gpu_and_accepts_one_without_mig():
    with pytest.raises(MeterUnavailableError, match="a GPU that NVML knows, but got 7"):
        NvmlMeter(7, api=fake_nvml())
    assert NvmlMeter(api=fake_nvml(mig=None)).read_j() is not None


def test_company_that_comes_later_is_refused_by_the_check():
    pids = []
    api = fake_nvml()
    api.nvmlDeviceGetComputeRunningProcesses = lambda handle: [types.SimpleNamespace(pid=pid) for pid in pids]
    meter = NvmlMeter(api=api)
    meter.check()
    pids.append(99)
    with pytest.raises(MeterUnavailableError, match="99"):
        meter.check()


def test_a_counter_that_falls_or_stops_answering_is_refused():
    """The driver was loaded anew: the difference would be negative, and negative joules win every front."""
    meter = NvmlMeter(api=fake_nvml(energy_mj=[5000, 6000, 7000, 100, 200]))
    assert meter.read_j() == 7.0
    with pytest.raises(MeterUnavailableError, match="from 7000 to 100 mJ"):
        meter.read_j()
    api = fake_nvml()
    meter = NvmlMeter(api=api)
    api.nvmlDeviceGetTotalEnergyConsumption = _raise_lost
    with pytest.raises(MeterUnavailableError, match="GPU is lost"):
        meter.read_j()
    api.nvmlDeviceGetComputeRunningProcesses = _raise_lost
    with pytest.raises(MeterUnavailableError, match="does not tell who uses it"):
        meter.check()


def _raise_lost(handle):
    raise FakeNvmlError("GPU is lost")


def test_a_polled_gpu_that_stops_answering_is_refused_at_the_next_reading():
    api = fake_nvml()
    meter = PolledPowerMeter(api=api, period_s=0.002)
    api.nvmlDeviceGetPowerUsage = _raise_lost
    meter._thread.join(timeout=10)
    assert not meter._thread.is_alive()
    with pytest.raises(MeterUnavailableError, match="GPU is lost"):
        meter.read_j()
    meter.close()


@pytest.mark.parametrize(
    ("visible", "device", "asked"),
    [
        (None, "cuda", 0),
        (None, "cuda:2", 2),
        ("3", "cuda", 3),
        ("3,5", "cuda:1", 5),
        ("GPU-4711, GPU-4712", "cuda:1", "GPU-4712"),
    ],
)
def test_the_gpu_that_is_counted_is_the_one_that_torch_computes_on(monkeypatch, visible, device, asked):
    """CUDA counts the visible GPUs only, NVML all of them."""
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    opened = []
    monkeypatch.setattr("greenprune_core.measure.choose.NvmlMeter", opened.append)
    choose_meter("nvml", device)
    assert opened == [asked]


@pytest.mark.parametrize(
    ("visible", "words"), [("3", "number 1 of"), ("0,MIG-4711", "a part of one"), ("", "number 1")]
)
def test_a_gpu_that_is_hidden_or_a_part_is_refused_and_auto_goes_without(monkeypatch, visible, words):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with pytest.raises(MeterUnavailableError, match=words):
        choose_meter("nvml", "cuda:1")
    assert words in choose_meter("auto", "cuda:1").description


def test_a_gpu_is_opened_by_its_uuid():
    api = fake_nvml()
    api.nvmlDeviceGetHandleByUUID = lambda uuid: uuid
    assert "GPU GPU-4711" in NvmlMeter("GPU-4711", api=api).description


def test_polled_power_adds_up_and_carries_its_own_label():
    meter = PolledPowerMeter(api=fake_nvml(power_mw=50_000), period_s=0.005)
    first, started = meter.read_j(), time.perf_counter()
    time.sleep(0.1)
    spent, seconds = meter.read_j() - first, time.perf_counter() - started
    meter.close()
    assert spent == pytest.approx(50 * seconds, rel=0.05)
    assert meter.source == "nvml-polled"


def test_no_meter_says_none_and_never_zero():
    meter = NoMeter(["rapl: no zone"])
    assert meter.read_j() is None
    assert meter.source is None
    assert "rapl: no zone" in meter.description


def test_a_replay_gives_back_its_readings_and_ends_loudly():
    meter = ReplayMeter([1.0, 2.5])
    assert [meter.read_j(), meter.read_j()] == [1.0, 2.5]
    with pytest.raises(MeterUnavailableError, match="end of its recording"):
        meter.read_j()


def test_auto_falls_back_to_none_with_the_reasons(monkeypatch):
    def refuse(*args):
        raise MeterUnavailableError("not here")

    for name in ("RaplMeter", "NvmlMeter", "PolledPowerMeter"):
        monkeypatch.setattr(f"greenprune_core.measure.choose.{name}", refuse)
    assert choose_meter("auto", "cpu").description == "no energy counter (rapl: not here)"
    assert "nvml-polled: not here" in choose_meter("auto", "cuda:0").description
    with pytest.raises(MeterUnavailableError):
        choose_meter("rapl")
    with pytest.raises(ConfigError, match="auto, nvml"):
        choose_meter("thermometer")
