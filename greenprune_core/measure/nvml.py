"""NVML: the joules of one NVIDIA GPU since the driver was loaded, and its power for GPUs that do not count joules.

`nvmlDeviceGetTotalEnergyConsumption` counts millijoules on Volta and later; it moves every 20 to 100 ms. It covers the
board, not the processor beside it.
"""

import importlib
import os
import sys
import threading
import time
from typing import Any

from greenprune_core.measure.meter import MeterUnavailableError


class NvmlMeter:
    """Reads the energy counter of one GPU.

    Args:
        index: number of the GPU as NVML counts, or its UUID.
        api: the `pynvml` module; another one for tests.

    Raises:
        MeterUnavailableError: no driver, no such GPU, no counter, MIG on, other processes, or a counter at rest.
    """

    source: str | None = "nvml"
    window_s = 0.5

    def __init__(self, index: int | str = 0, api: Any = None) -> None:
        self._api = _load(api)
        self._handle = _open(self._api, index)
        self._index = index
        self._last_mj = 0
        _refuse_mig(self._api, self._handle, index)
        self.check()
        self._refuse_resting_counter()
        name = self._api.nvmlDeviceGetName(self._handle)
        self.description = f"energy counter of GPU {index} ({name}), board only"

    def read_j(self) -> float | None:
        """Return joules since the driver was loaded.

        Raises:
            MeterUnavailableError: the GPU does not answer, or its counter fell back.
        """
        return self._read_mj() / 1000

    def check(self) -> None:
        """Refuse a GPU on which another process computes: its joules would be counted as ours."""
        _refuse_company(self._api, self._handle, self._index)

    def close(self) -> None:
        """Let go of NVML."""
        self._api.nvmlShutdown()

    def _read_mj(self) -> int:
        try:
            now_mj = int(self._api.nvmlDeviceGetTotalEnergyConsumption(self._handle))
        except self._api.NVMLError as error:
            raise MeterUnavailableError(
                f"the nvml meter needs a GPU that counts joules (Volta or later), but GPU {self._index} says: {error}; "
                "use --meter nvml-polled or --power-w"
            ) from error
        if now_mj < self._last_mj:
            raise MeterUnavailableError(
                f"an energy counter never falls, but that of GPU {self._index} went from {self._last_mj} to {now_mj} "
                "mJ (driver loaded anew?); measure again"
            )
        self._last_mj = now_mj
        return now_mj

    def _refuse_resting_counter(self) -> None:
        """Even an idle GPU draws watts, so a counter that rests for a second is not connected to one."""
        first, end = self._read_mj(), time.monotonic() + 1.0
        while time.monotonic() < end:
            if self._read_mj() > first:
                return
            time.sleep(0.02)
        raise MeterUnavailableError(
            f"an energy counter moves, but that of GPU {self._index} stood at {first} mJ for a second (virtual GPU?); "
            "use --meter none or --power-w"
        )


class PolledPowerMeter:
    """Adds up the power of a GPU, asked for every `period_s`: a fallback, labelled as such.

    NVML's power is an average over an interval that depends on the GPU, sampled a quarter of the time on some
    (arXiv 2312.02741), so short windows may be off by tens of percent.

    Args:
        index: number of the GPU as NVML counts, or its UUID.
        period_s: time between two questions.
        api: the `pynvml` module; another one for tests.

    Raises:
        MeterUnavailableError: no driver, no such GPU, no power reading, MIG on, or other processes.
    """

    source: str | None = "nvml-polled"
    window_s = 2.0

    def __init__(self, index: int | str = 0, period_s: float = 0.02, api: Any = None) -> None:
        self._api = _load(api)
        self._handle = _open(self._api, index)
        self._index = index
        _refuse_mig(self._api, self._handle, index)
        self.check()
        self._power_w()
        self.description = f"power of GPU {index}, asked for every {period_s * 1000:g} ms and added up; board only"
        self._total_j = 0.0
        self._last = (time.perf_counter(), self._power_w())
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._poll, args=(period_s,), daemon=True)
        self._thread.start()

    def read_j(self) -> float | None:
        """Return joules since this meter was made."""
        self._sample()
        return self._total_j

    def check(self) -> None:
        """Refuse a GPU on which another process computes."""
        _refuse_company(self._api, self._handle, self._index)

    def close(self) -> None:
        """End the polling and let go of NVML."""
        self._stop.set()
        self._thread.join()
        self._api.nvmlShutdown()

    def _poll(self, period_s: float) -> None:
        while not self._stop.wait(period_s):
            try:
                self._sample()
            except MeterUnavailableError:
                return  # whoever reads next is told: the GPU does not answer

    def _sample(self) -> None:
        with self._lock:
            now = (time.perf_counter(), self._power_w())
            self._total_j += (now[0] - self._last[0]) * (now[1] + self._last[1]) / 2
            self._last = now

    def _power_w(self) -> float:
        try:
            return float(self._api.nvmlDeviceGetPowerUsage(self._handle)) / 1000
        except self._api.NVMLError as error:
            raise MeterUnavailableError(
                f"the nvml-polled meter needs a GPU that tells its power, but GPU {self._index} says: {error}; "
                "use --power-w"
            ) from error


def _load(api: Any) -> Any:
    if api is None:
        api = importlib.import_module("pynvml")
    try:
        api.nvmlInit()
    except api.NVMLError as error:
        raise MeterUnavailableError(
            f"the nvml meter needs NVIDIA's driver, but got: {error}; use --meter rapl, none or auto"
        ) from error
    return api


def visible_gpu(number: int) -> int | str:
    """Return what NVML calls the GPU that CUDA calls `number` in this process: its number or UUID.

    CUDA counts the GPUs of CUDA_VISIBLE_DEVICES only, NVML all of them by bus. Where GPUs of several kinds are in one
    machine, CUDA's own order agrees with that under CUDA_DEVICE_ORDER=PCI_BUS_ID alone.

    Raises:
        MeterUnavailableError: CUDA does not see so many, or sees a part of one.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return number
    names = [name.strip() for name in visible.split(",") if name.strip()]
    if number >= len(names):
        raise MeterUnavailableError(
            f"the nvml meter needs a GPU that this process may use, but got number {number} of "
            f"CUDA_VISIBLE_DEVICES={visible!r}; set it anew or take --meter none"
        )
    if names[number].startswith("MIG"):
        raise MeterUnavailableError(
            f"the counter covers a whole GPU, but CUDA_VISIBLE_DEVICES names a part of one, {names[number]!r} (MIG); "
            "measure on one that is not split, or give --power-w"
        )
    return int(names[number]) if names[number].isdigit() else names[number]


def _open(api: Any, index: int | str) -> Any:
    try:
        return api.nvmlDeviceGetHandleByUUID(index) if isinstance(index, str) else api.nvmlDeviceGetHandleByIndex(index)
    except api.NVMLError as error:
        raise MeterUnavailableError(
            f"the nvml meter needs a GPU that NVML knows, but got {index}: {error}; see nvidia-smi -L"
        ) from error


def _refuse_mig(api: Any, handle: Any, index: int | str) -> None:
    try:
        current, _ = api.nvmlDeviceGetMigMode(handle)
    except api.NVMLError:
        return  # a GPU that knows no MIG
    if current:
        raise MeterUnavailableError(
            f"the counter covers a whole GPU, but GPU {index} is split by MIG; "
            "measure on one that is not, or give --power-w"
        )


def _refuse_company(api: Any, handle: Any, index: int | str) -> None:
    """Compare numbers, not process ids: inside a container NVML may show those of the host."""
    torch = sys.modules.get("torch")
    n_own = 1 if torch is not None and torch.cuda.is_initialized() else 0
    try:
        processes = api.nvmlDeviceGetComputeRunningProcesses(handle)
    except api.NVMLError as error:
        raise MeterUnavailableError(
            f"energy is measured on a GPU of one's own, but GPU {index} does not tell who uses it: {error} "
            "(virtual GPU?); use --meter none or --power-w"
        ) from error
    if len(processes) > n_own:
        pids = ", ".join(str(process.pid) for process in processes)
        raise MeterUnavailableError(
            f"energy is measured on a GPU of one's own, but GPU {index} runs {len(processes)} processes "
            f"({pids}), {n_own} of them ours; wait for the others"
        )
