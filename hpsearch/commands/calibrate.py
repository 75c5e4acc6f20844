"""`hpsearch calibrate`: fit a device profile on this machine."""

import json
import os
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from greenprune_core.cost.profile import DeviceProfile, check_name, profile_from_dict
from greenprune_core.errors import ConfigError
from hpsearch.commands.measure import (
    batch_sizes_option,
    check_device,
    check_power,
    device_option,
    meter_option,
    threads_option,
    use_threads,
)


@click.command("calibrate")
@click.option("--output", type=click.Path(path_type=Path), required=True, metavar="FILE.json", help="Where it goes.")
@click.option("--name", default=None, help="Name of the profile; default the file's.")
@meter_option
@click.option("--power-w", type=float, help="No counter: joules are this power times the modelled time.")
@device_option
@threads_option
@click.option("--minutes", type=float, default=8.0, show_default=True, help="How long, at most 10.")
@batch_sizes_option
@click.option("--quick", is_flag=True, help="A few seconds, to see that it works; the figures say little.")
@click.option("--force", is_flag=True, help="Replace an existing file.")
def command(
    output: Path,
    name: str | None,
    meter_name: str,
    power_w: float | None,
    device: str,
    threads: int | None,
    minutes: float,
    batch_sizes: tuple[int, ...],
    quick: bool,
    force: bool,
) -> None:
    """Fit a device profile on this machine: seconds, and joules where a counter is.

    Times designed layers, fits non-negative rates, and judges them on cut networks that the fit has not seen.
    Let nothing else run meanwhile.
    """
    check_output(output, force)
    check_name(name or output.stem)
    check_device(device)
    check_power(power_w, meter_name)
    use_threads(threads)
    from greenprune_core.measure import NoMeter, choose_meter
    from greenprune_core.measure.calibration import QUICK, Plan, calibrate
    from hpsearch.energy.measurement import device_name

    plan = QUICK if quick else Plan(seconds=60 * minutes, batch_sizes=batch_sizes)
    meter = NoMeter() if power_w is not None else choose_meter(meter_name, device)
    console = Console(soft_wrap=True, markup=False)
    console.print(f"meter: {meter.description if power_w is None else f'declared power of {power_w:g} W'}")
    bar = (TextColumn("timing layers and networks"), BarColumn(), TextColumn("{task.percentage:3.0f} %"))
    try:
        with Progress(*bar, TimeRemainingColumn(), console=console) as progress:
            task = progress.add_task("timing", total=1.0)
            profile = calibrate(
                name or output.stem,
                meter,
                plan=plan,
                power_w=power_w,
                device=device,
                device_name=device_name(device),
                on_progress=lambda done: progress.update(task, completed=done),
            )
    finally:
        meter.close()
    write_profile(profile, output)
    # a pipe has 80 columns for rich, and a heading broken over two lines is hard to read
    wide = Console(file=console.file, width=max(console.width, 120), force_terminal=console.is_terminal, markup=False)
    wide.print(show_fit(profile), soft_wrap=True)
    for warning in (profile.fit or {}).get("warnings", ()):
        console.print(f"warning: {warning}")
    if profile.joules_per_mac is None:
        console.print("the profile holds no joules (no counter); --power-w W turns modelled time into joules")
    console.print(f"wrote {output}; use it as --profile {output}")


def check_output(output: Path, force: bool) -> None:
    """Refuse a place that cannot be written, or an existing file, before minutes are spent.

    Raises:
        ConfigError: no JSON name, no folder, no right to write, or a file without --force.
    """
    if output.suffix != ".json":
        raise ConfigError(f"--output is a JSON file, but got {output}; name it profile.json")
    if output.exists() and not force:
        raise ConfigError(f"--output is a new file, but {output} exists; take another name or add --force")
    if not output.absolute().parent.is_dir() or not os.access(output.absolute().parent, os.W_OK):
        raise ConfigError(f"--output lies in a folder that can be written, but got {output}; make the folder first")


def write_profile(profile: DeviceProfile, output: Path) -> None:
    """Check a profile as it will be read, then write it aside and rename it."""
    values = json.loads(json.dumps(profile.to_dict()))
    profile_from_dict(values, str(output))
    aside = output.with_name(f".{output.name}.aside")
    aside.write_text(json.dumps(values, indent=2) + "\n")
    aside.replace(output)


def show_fit(profile: DeviceProfile) -> Table:
    """Return the figures on held-out networks as a table."""
    ours, proxy = ("median error", "rank corr."), ("MACs only: error", "MACs only: rank")
    table = Table("quantity", "batch", "fitted", "held out", *ours, *proxy, box=None)
    for figure in (profile.fit or {}).get("held_out", ()):
        table.add_row(
            figure["quantity"],
            str(figure["batch_size"]),
            str(figure["n_fitted"]),
            str(figure["n_held_out"]),
            f"{figure['median_error']:.1%}",
            f"{figure['rank_correlation']:.3f}",
            f"{figure['macs_only_median_error']:.1%}",
            f"{figure['macs_only_rank_correlation']:.3f}",
        )
    return table
