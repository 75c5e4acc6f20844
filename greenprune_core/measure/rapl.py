"""RAPL: the joules of processor packages and memory, as Linux shows them under powercap.

Each zone counts microjoules up to `max_energy_range_uj` and starts again, after minutes under full load. The
differences are added up, by a thread too, so that no turn goes unseen between two readings that lie hours apart. A zone
counts everything that runs on its package.
"""

import threading
from pathlib import Path

from greenprune_core.measure.meter import MeterUnavailableError

POWERCAP = Path("/sys/class/powercap")


class RaplMeter:
    """Counts the joules of all packages and their DRAM.

    Zones `intel-rapl:N` (also on AMD) are packages; of their subzones only `dram` lies outside the package's own
    figure. `psys` zones contain the packages and are left out.

    Args:
        root: the powercap folder.
        period_s: time between two looks of the thread; the shortest turns known (65 kJ) take minutes.

    Raises:
        MeterUnavailableError: no zone, or one that may not be read.
    """

    source: str | None = "rapl"
    window_s = 0.1
    # counters move every millisecond or so: 0.1 s keeps their grain below 1 %

    def __init__(self, root: Path = POWERCAP, period_s: float = 20.0) -> None:
        self._zones = _find_zones(root)
        if not self._zones:
            raise MeterUnavailableError(
                f"RAPL needs a package zone under {root}, but got none (virtual machine or container); "
                "measure on the bare machine, or give --power-w"
            )
        self._ranges_uj = {zone: _read_number(zone / "max_energy_range_uj") for zone in self._zones}
        self._last_uj = {zone: _read_number(zone / "energy_uj") for zone in self._zones}
        self._total_uj = 0
        names = ", ".join((zone / "name").read_text().strip() for zone in self._zones)
        self.description = f"RAPL counters of {names}: everything that runs there"
        self._trouble: MeterUnavailableError | None = None
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, args=(period_s,), daemon=True)
        self._thread.start()

    def read_j(self) -> float | None:
        """Return joules since this meter was made, over all zones, turns of the counters undone.

        Raises:
            MeterUnavailableError: a counter cannot be read any more, or fell back: its joules are lost.
        """
        with self._lock:
            if self._trouble is not None:
                raise self._trouble  # what was missed once does not come back
            try:
                self._total_uj += sum(self._step_uj(zone) for zone in self._zones)
            except MeterUnavailableError as error:
                self._trouble = error
                raise
            return self._total_uj / 1e6

    def check(self) -> None:
        """Other processes cannot be told apart here; the measurement states how busy they kept the processors."""

    def close(self) -> None:
        """End the thread."""
        self._stop.set()
        self._thread.join()

    def _step_uj(self, zone: Path) -> int:
        last_uj, now_uj = self._last_uj[zone], _read_number(zone / "energy_uj")
        self._last_uj[zone] = now_uj
        if now_uj >= last_uj:
            return now_uj - last_uj
        step_uj = now_uj - last_uj + self._ranges_uj[zone]
        # between two looks a counter makes a small part of a turn: more of it means that it was set back
        if not 0 <= step_uj <= self._ranges_uj[zone] / 2:
            raise MeterUnavailableError(
                f"an energy counter goes up to {self._ranges_uj[zone]} uJ and starts again, but {zone / 'energy_uj'} "
                f"fell from {last_uj} to {now_uj} uJ (suspended, or reset?); measure again"
            )
        return step_uj

    def _watch(self, period_s: float) -> None:
        while not self._stop.wait(period_s):
            try:
                self.read_j()
            except MeterUnavailableError:
                return  # whoever reads next is told


def _find_zones(root: Path) -> list[Path]:
    """Return package zones and their DRAM subzones, in order."""
    zones = []
    for zone in sorted(root.glob("intel-rapl:*")):
        name_file = zone / "name"
        name = name_file.read_text().strip() if name_file.exists() else ""
        if name.startswith("package") or name == "dram":
            zones.append(zone)
    return zones


def _read_number(path: Path) -> int:
    try:
        return int(path.read_text())
    except PermissionError as error:
        raise MeterUnavailableError(
            f"RAPL needs the right to read {path}, but got permission denied (Linux gives it to root only since 5.10); "
            f"let root run: chmod a+r {path.parent.parent}/intel-rapl:*/energy_uj"
        ) from error
    except (OSError, ValueError) as error:
        raise MeterUnavailableError(f"RAPL needs a number in {path}, but got {error}; use --meter none") from error
