"""RAPL: the joules of processor packages and memory, as Linux shows them under powercap.

Each zone counts microjoules up to `max_energy_range_uj` and starts again; `read_j` adds up the differences, so it has
to be called at least once per turn (minutes under full load). A zone counts everything that runs on its package.
"""

from pathlib import Path

from greenprune_core.measure.meter import MeterUnavailableError

POWERCAP = Path("/sys/class/powercap")


class RaplMeter:
    """Counts the joules of all packages and their DRAM.

    Zones `intel-rapl:N` (also on AMD) are packages; of their subzones only `dram` lies outside the package's own
    figure. `psys` zones contain the packages and are left out.

    Args:
        root: the powercap folder.

    Raises:
        MeterUnavailableError: no zone, or one that may not be read.
    """

    source: str | None = "rapl"
    window_s = 0.1
    # counters move every millisecond or so: 0.1 s keeps their grain below 1 %

    def __init__(self, root: Path = POWERCAP) -> None:
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

    def read_j(self) -> float | None:
        """Return joules since this meter was made, over all zones, turns of the counters undone."""
        for zone in self._zones:
            now_uj = _read_number(zone / "energy_uj")
            step_uj = now_uj - self._last_uj[zone]
            if step_uj < 0:
                step_uj += self._ranges_uj[zone]
            self._total_uj += step_uj
            self._last_uj[zone] = now_uj
        return self._total_uj / 1e6

    def check(self) -> None:
        """Other processes cannot be told apart here; the measurement states how busy they kept the processors."""

    def close(self) -> None:
        """Nothing is held."""


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
