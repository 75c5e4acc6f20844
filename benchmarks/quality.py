"""Compare one-pass gated pruning with plain controls and multi-stage methods, honestly.

    python benchmarks/quality.py --scale cpu --jobs 2        about an hour and a half on two cores
    python benchmarks/quality.py --scale gpu --device cuda
    python benchmarks/quality.py --scale cpu --epochs 1 --seeds 1 --n-train 4000   a dry run of every arm

Every finished run is one file under runs/quality, so that an interrupted benchmark goes on where it was. Each call
ends by writing benchmarks/results/quality-<scale>-<date>.md and .json from all finished runs of the same settings.

OTO (only-train-once) pins other versions: give the Python of an environment of its own (see benchmarks/quality_oto.py)
as --oto-python, else its arm is left out.
"""

import argparse
import json
import os
import subprocess
import sys
import traceback
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import quality_arms as arms
import torch
from quality_table import goals, table

from greenprune_core import ImageData, TrialConfig, load_data
from greenprune_core.config import DataConfig, LearningRateShape, NetworkConfig, OptimiserConfig

HERE = Path(__file__).parent
TARGETS = (0.75, 0.5, 0.35)
GRANULARITIES = ("channel", "layer", "both")
DEEP = 0.25
"""The cut at which the paper's own savings lie and capacity is in excess in wide networks; channel gates only."""
FEW_PARAMETERS = "ours/0.5/parameters"
"""Channel gates under one budget of MACs and parameters, where others keep what late layers have many of."""

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One network on one data set."""

    base: TrialConfig
    n_seeds: int
    is_full: bool = True
    """Whether all arms run, or only dense, ours by channels and uniform width, at 0.75, a half and a quarter."""
    control_shape: LearningRateShape = "hold_then_cosine"
    """Course of the learning rate of whatever is not ours: by default that of ours."""


HOLD = OptimiserConfig(shape="hold_then_cosine")
SMALL = DataConfig(name="fashion_mnist", image_size=14, n_train=20_000, shift=1)
PADDED = DataConfig(name="fashion_mnist", image_size=32, shift=2, flip=True)
CIFAR = DataConfig(name="cifar10", shift=4, flip=True)

SCALES: dict[str, dict[str, Setting]] = {
    "cpu": {
        "resnet14-4": Setting(
            base=TrialConfig(network=NetworkConfig(name="cifar_resnet14", width=4), data=SMALL, optimiser=HOLD),
            n_seeds=8,
        ),
        "resnet20-16": Setting(
            base=TrialConfig(network=NetworkConfig(name="cifar_resnet20"), data=SMALL, optimiser=HOLD),
            n_seeds=3,
            is_full=False,
        ),
    },
    "gpu": {
        name: Setting(
            base=TrialConfig(network=NetworkConfig(name=network), data=data, optimiser=HOLD, epochs=100), n_seeds=5
        )
        for name, network, data in (
            ("resnet20", "cifar_resnet20", PADDED),
            ("resnet56", "cifar_resnet56", PADDED),
            ("resnet18", "torchvision/resnet18", PADDED),
            ("cifar10-resnet56", "cifar_resnet56", CIFAR),
            ("cifar100-resnet56", "cifar_resnet56", replace(CIFAR, name="cifar100")),
        )
    },
}


def plan(is_full: bool, with_oto: bool) -> list[str]:
    """List the arms, as they stand in the table."""
    if not is_full:
        return ["dense", *(arm for target in (0.75, 0.5, DEEP) for arm in _channel_arms(target)), FEW_PARAMETERS]
    ours = [f"ours/{target}/{granularity}" for target in TARGETS for granularity in GRANULARITIES]
    uniform = [f"uniform/{target}/{kind}" for target in TARGETS for kind in ("epochs", "cost")]
    after = [f"{name}/0.5" for name in ("random_mask", "found_shape", "slimming", "magnitude", "depgraph")]
    return ["dense", *ours, FEW_PARAMETERS, *uniform, *_channel_arms(DEEP), *after, *(["oto/0.5"] if with_oto else [])]


def _channel_arms(target: float) -> list[str]:
    return [f"ours/{target}/channel", f"uniform/{target}/epochs", f"uniform/{target}/cost"]


def needs_ours(arm: str) -> bool:
    """Whether the arm takes the training cost or the masks from ours of the same seed, and so comes after it."""
    return not arm.startswith(("dense", "ours/")) and not arm.endswith("/epochs")


def run_arm(arm: str, bench: arms.Bench, folder: Path, oto_python: str | None) -> Row:
    """Run one arm; what it needs of ours was run before with the same seed."""
    name, *rest = arm.split("/")
    target = float(rest[0]) if rest else 1.0
    if name == "dense":
        return arms.dense(bench)
    if arm == FEW_PARAMETERS:
        return arms.ours(bench, target, "channel", "macs_and_params")
    if name == "ours":
        return arms.ours(bench, target, rest[1])
    if name == "uniform" and rest[1] == "epochs":
        return arms.uniform(bench, target)
    ours = _read(_path(folder, f"ours/{rest[0]}/channel", bench.seed))
    if "error" in ours:
        raise LookupError(f"{arm} needs ours/{rest[0]}/channel of the same seed first")
    if name == "oto":
        return _run_oto(bench, target, ours["train_macs"], str(oto_python))
    import quality_pruners as pruners

    known: dict[str, Callable[[], Row]] = {
        "uniform": lambda: arms.uniform(bench, target, ours["train_macs"]),
        "random_mask": lambda: arms.random_mask(bench, ours),
        "found_shape": lambda: arms.found_shape(bench, ours),
        "slimming": lambda: pruners.slimming(bench, target, ours["train_macs"]),
        "magnitude": lambda: pruners.magnitude(bench, target, ours["train_macs"]),
        "depgraph": lambda: pruners.depgraph(bench, target, ours["train_macs"]),
    }
    return known[name]()


def run_one(
    setting: Setting, seed: int, arm: str, folder: Path, device: str, data_dir: str | None, oto_python: str | None
) -> None:
    """Run one arm of one seed unless it is finished; a failure is noted with its error, and tried again next time."""
    torch.set_num_threads(1)
    path = _path(folder, arm, seed)
    if "error" not in _read(path):
        return
    try:
        images = _images(setting.base.data, data_dir, device)
        bench = arms.Bench(setting.base, images, device, seed, data_dir, setting.control_shape)
        row = run_arm(arm, bench, folder, oto_python)
        row |= bench.shares(row)
    except Exception as error:  # noqa: BLE001 (whatever it is, the other arms go on and the table says so)
        row = {"error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
    _write(path, json.dumps({"arm": arm, "seed": seed, **row}))
    shown = row.get("error") or f"{row['test_accuracy']:.4f} in {row['seconds']:.0f} s"
    print(f"{folder.name} seed {seed} {arm}: {shown}", flush=True)


@cache
def _images(config: DataConfig, data_dir: str | None, device: str) -> ImageData:
    """Load the images once per process."""
    return load_data(config, data_dir, device)


def _path(folder: Path, arm: str, seed: int) -> Path:
    return folder / f"{arm.replace('/', '_')}-seed{seed}.json"


def _read(path: Path) -> Row:
    row: Row = json.loads(path.read_text()) if path.exists() else {"error": "not run"}
    return row


def _run_oto(bench: arms.Bench, target: float, train_macs: float, python: str) -> Row:
    request = {
        "config": replace(bench.base, seed=bench.seed).to_dict(),
        "target": arms.uniform_share(bench, target)[1],
        "train_macs": train_macs,
        "device": bench.device,
        "data_dir": bench.data_dir,
    }
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent)}
    done = subprocess.run(
        [python, str(HERE / "quality_oto.py")], input=json.dumps(request), capture_output=True, text=True,
        env=environment, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    row: Row = json.loads(done.stdout.strip().splitlines()[-1])
    return row


def read_rows(folder: Path) -> list[Row]:
    """Read the finished runs of a setting."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


def report(scale: str, settings: dict[str, tuple[Setting, Path]], about: str, results: Path) -> Path:
    """Write the dated result files from all finished runs and return the readable one."""
    now = datetime.now(UTC)
    lines = [f"# Quality, {scale} scale, {now:%Y-%m-%d}", "", about]
    everything = {}
    for name, (setting, folder) in settings.items():
        rows = read_rows(folder)
        everything[name] = {
            "config": setting.base.to_dict(),
            "rows": [{key: value for key, value in row.items() if key not in ("masks", "traceback")} for row in rows],
        }
        base = setting.base
        lines += ["", f"## {name}", ""]
        lines += [
            f"{base.network.name} of width {base.network.width}, {base.data.name}, {base.epochs} epochs, last epoch; "
            f"learning rate of ours {base.optimiser.shape}, of the controls {setting.control_shape} (OTO: cosine)."
        ]
        lines += ["", *table(rows, plan(setting.is_full, with_oto=True)), "", *goals(rows, scale)]
        lines += [f"- failed: {row['arm']} seed {row['seed']}: {row['error']}" for row in rows if "error" in row]
    first, (setting, _) = next(iter(settings.items()))
    is_usual = setting.base.epochs == SCALES[scale][first].base.epochs
    length = "" if is_usual else f"-{setting.base.epochs}-epochs"
    target = results / f"quality-{scale}{length}{_suffix(setting.control_shape)}-{now:%Y-%m-%d}.md"
    results.mkdir(parents=True, exist_ok=True)
    _write(target, "\n".join(lines) + "\n")
    _write(target.with_suffix(".json"), json.dumps(everything, indent=1))
    return target


def _suffix(control_shape: LearningRateShape) -> str:
    """Return what tells runs and result files with another course of the controls' learning rate apart."""
    return "" if control_shape == Setting.control_shape else f"-controls-{control_shape}"


def _device_name(device: str) -> str:
    if device != "cpu":
        return str(torch.cuda.get_device_name(device))
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "a CPU")


def _write(path: Path, text: str) -> None:
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    aside.write_text(text)
    aside.replace(path)


def adapted(base: TrialConfig, chosen: argparse.Namespace) -> TrialConfig:
    """Return a setting's configuration with what the command line gives instead."""
    execution = base.execution
    return replace(
        base,
        epochs=chosen.epochs or base.epochs,
        data=replace(base.data, n_train=chosen.n_train or base.data.n_train),
        optimiser=replace(base.optimiser, batch_size=chosen.batch_size or base.optimiser.batch_size),
        execution=replace(
            execution,
            precision=chosen.precision or execution.precision,
            channels_last=chosen.channels_last or execution.channels_last,
        ),
    )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", choices=list(SCALES), default="cpu")
    parser.add_argument("--setting", action="append", help="only this network and data set; may be repeated")
    parser.add_argument("--arm", action="append", help="only arms whose name contains this text; may be repeated")
    parser.add_argument("--seeds", type=int, help="number of seeds, instead of the setting's")
    parser.add_argument("--epochs", type=int, help="epochs of every run, instead of the setting's")
    parser.add_argument("--n-train", type=int, help="training images, instead of the setting's")
    parser.add_argument("--batch-size", type=int, help="training images per step, instead of the setting's")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), help="of every forward pass")
    parser.add_argument(
        "--control-shape", choices=("hold_then_cosine", "cosine"), default="hold_then_cosine",
        help="learning rate of whatever is not ours: held like that of ours, or cosine from the start",
    )  # fmt: skip
    parser.add_argument("--channels-last", action="store_true", help="lay out all networks and images channels last")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, each in a process of its own")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--data-dir")
    parser.add_argument("--oto-python", help="Python of an environment with only-train-once")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="where the result files go")
    parser.add_argument("--runs", type=Path, default=Path("runs/quality"), help="where finished runs are kept")
    chosen = parser.parse_args(arguments)
    settings: dict[str, tuple[Setting, Path]] = {}
    for name, setting in SCALES[chosen.scale].items():
        if chosen.setting and name not in chosen.setting:
            continue
        base = adapted(setting.base, chosen)
        folder = chosen.runs / f"{name}-{base.config_hash}{_suffix(chosen.control_shape)}"
        folder.mkdir(parents=True, exist_ok=True)
        n_seeds = chosen.seeds or setting.n_seeds
        settings[name] = (replace(setting, base=base, n_seeds=n_seeds, control_shape=chosen.control_shape), folder)
    if not settings:
        parser.error(f"a setting is one of {', '.join(SCALES[chosen.scale])}, but got {chosen.setting}")
    with ProcessPoolExecutor(chosen.jobs, mp_context=get_context("spawn")) as pool:
        for is_second in (False, True):
            for future in [
                pool.submit(run_one, setting, seed, arm, folder, chosen.device, chosen.data_dir, chosen.oto_python)
                for setting, folder in settings.values()
                for seed in range(setting.n_seeds)
                for arm in plan(setting.is_full, chosen.oto_python is not None)
                if needs_ours(arm) == is_second and any(part in arm for part in chosen.arm or [""])
            ]:
                future.result()
    command = " ".join(["python", "benchmarks/quality.py", *(arguments if arguments is not None else sys.argv[1:])])
    about = f"`{command}` on {_device_name(chosen.device)}, torch {torch.__version__}"
    if chosen.oto_python is None:
        about += "; without OTO, because no --oto-python was given"
    print(report(chosen.scale, settings, about, chosen.results))


if __name__ == "__main__":
    main()
