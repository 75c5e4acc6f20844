"""`hpsearch measure`: joules and seconds of finished sub-networks, one at a time, alone on the device."""

import re
from typing import Any

import click
from rich.console import Console
from rich.table import Column, Table

from greenprune_core.errors import ConfigError
from greenprune_core.measure.choose import METERS
from hpsearch.search_run import open_run
from hpsearch.units import ENERGY, TIME, show

# what calibrate asks too
meter_option = click.option(
    "--meter", "meter_name", type=click.Choice(METERS), default="auto", show_default=True, help="What counts."
)
device_option = click.option("--device", default="cpu", show_default=True, help="cpu, cuda or cuda:N.")
threads_option = click.option(
    "--threads", type=click.IntRange(min=1), help="Threads of a processor's arithmetic; torch's own choice."
)
batch_sizes_option = click.option(
    "--batch-size",
    "batch_sizes",
    type=int,
    multiple=True,
    default=(1, 256),
    show_default=True,
    help="Images per pass; repeatable.",
)


@click.command("measure")
@click.argument("run")
@click.option(
    "--trial",
    "trial_ids",
    multiple=True,
    metavar="ID",
    help="Measure this trial, repeatable; default the front and its controls.",
)
@meter_option
@click.option("--power-w", type=float, help="No counter: turn time into joules of this power, labelled time*power.")
@device_option
@threads_option
@batch_sizes_option
@click.option("--min-seconds", type=float, default=3.0, show_default=True, help="Shortest time per network and batch.")
@click.option("--windows", type=int, default=20, show_default=True, help="Fewest windows per network and batch.")
def command(
    run: str,
    trial_ids: tuple[str, ...],
    meter_name: str,
    power_w: float | None,
    device: str,
    threads: int | None,
    batch_sizes: tuple[int, ...],
    min_seconds: float,
    windows: int,
) -> None:
    """Measure the sub-networks on the front of RUN, its controls, and the dense networks they come from.

    Writes measurements.parquet into the run's folder. Let nothing else run on the device meanwhile.
    """
    opened = open_run(run)
    # torch is loaded only once the run is known to be there
    from greenprune_core.measure import Effort, NoMeter, choose_meter
    from hpsearch.energy.measurement import Conditions, choose_trials, measure_run, name_place

    rows = choose_trials(opened, trial_ids)
    check_device(device)
    check_power(power_w, meter_name)
    use_threads(threads)
    meter = NoMeter() if power_w is not None else choose_meter(meter_name, device)
    conditions = Conditions(
        meter=meter,
        device=device,
        batch_sizes=batch_sizes,
        power_w=power_w,
        effort=Effort(min_seconds=min_seconds, min_windows=windows),
    )
    console = Console(soft_wrap=True, markup=False)
    console.print(f"device: {name_place(device)}", highlight=False)
    console.print(f"meter: {meter.description if power_w is None else f'declared power of {power_w:g} W'}")
    try:
        lines = measure_run(opened, rows, conditions, lambda line: console.print(describe(line)))
    finally:
        meter.close()
    # a pipe has 80 columns for rich, and a cell broken over two lines cannot be read
    wide = Console(file=console.file, width=max(console.width, 120), force_terminal=console.is_terminal, markup=False)
    wide.print(_table(lines), soft_wrap=True)
    for idle_power_w in {line["idle_power_w"] for line in lines} - {None}:
        console.print(f"joules are those above the idle device, which drew {idle_power_w:.3g} W")
    if meter.source is None and power_w is None:
        console.print("joules are not available without a counter; --power-w W turns time into joules (time*power)")
    for warning in summarise_warnings(lines):
        console.print(f"warning: {warning}")
    console.print(f"wrote {opened.storage}/measurements.parquet")


def check_device(device: str) -> None:
    """Refuse a device that torch does not have.

    Raises:
        ConfigError: no such device here.
    """
    import torch

    n_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    found = re.fullmatch(r"cuda(?::(\d{1,4}))?", device)
    if device != "cpu" and not (found and int(found[1] or 0) < n_gpus):
        raise ConfigError(f"a device is cpu or a GPU that torch sees, but got {device!r}; see hpsearch doctor")


def use_threads(n_threads: int | None) -> None:
    """Let torch compute with so many threads; without a number with as many as it likes."""
    import torch

    if n_threads is not None:
        torch.set_num_threads(n_threads)


def check_power(power_w: float | None, meter_name: str) -> None:
    """Refuse a power that means nothing, or that stands beside a meter asked for by name.

    Raises:
        ConfigError: not above 0 W, or beside --meter nvml, nvml-polled or rapl.
    """
    if power_w is None:
        return
    if not 0 < power_w < float("inf"):
        raise ConfigError(f"--power-w is above 0 W, but got {power_w:g}; take it from the data sheet")
    if meter_name not in ("auto", "none"):
        raise ConfigError(f"--power-w stands in for a missing meter, but got --meter {meter_name} too; leave one out")


def describe(line: dict[str, Any]) -> str:
    """Say in one line what was measured."""
    text = f"{line['trial_id']} batch {line['batch_size']}: {show(line['latency_s'], TIME)}"
    if line["energy_j"] is not None:
        text += f", {show(line['energy_j'], ENERGY)} per inference ({line['energy_source']})"
    return text


def summarise_warnings(lines: list[dict[str, Any]]) -> list[str]:
    """Return each kind of warning once, with one of its wordings and the number of measurements that have it."""
    kinds: dict[str, list[str]] = {}
    for line in lines:
        for warning in line["warnings"]:
            kinds.setdefault(re.sub(r"\d+", "", warning), []).append(warning)
    return [f"{len(found)} of {len(lines)} measurements, e.g. {found[0]}" for found in kinds.values()]


def _table(lines: list[dict[str, Any]]) -> Table:
    network = Column("network", no_wrap=True)  # its name is what --trial asks for: never shortened
    table = Table(network, "batch", "a pass takes", "95 %", "images/s", "energy", "95 %", "source", "n", box=None)
    for line in lines:
        table.add_row(
            line["trial_id"],
            str(line["batch_size"]),
            show(line["latency_s"], TIME),
            _spread(line["latency_s"], line["latency_low_s"], line["latency_high_s"]),
            f"{line['throughput_per_s']:,.0f}",
            show(line["energy_j"], ENERGY),
            _spread(line["energy_j"], line["energy_low_j"], line["energy_high_j"]),
            line["energy_source"] or "-",
            str(line["n_windows"]),
        )
    return table


def _spread(median: float | None, low: float, high: float) -> str:
    """Write an interval as its distances from the median in percent."""
    return "-" if not median else f"{low / median - 1:+.0%} {high / median - 1:+.0%}"
