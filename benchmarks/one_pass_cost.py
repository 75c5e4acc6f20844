"""What one pass costs against dense training: MACs, seconds per phase, peak memory, and inference after the cut.

Both trainings advance epoch by epoch in turn, in one process and on the same batches, so that a slow minute of the
machine hits both. Run: `python benchmarks/one_pass_cost.py [--device cuda] [--networks cifar_resnet20 ...]`.
`--granularity layer` trains with branch gates; inference is timed for all granularities.
"""

import argparse
import copy
import dataclasses
import itertools
import statistics
import subprocess
import sys
import time

import torch
from memory import peak_resident_kib
from results_file import write_result
from torch import Tensor, nn

from greenprune_core.config import (
    BudgetConfig,
    DataConfig,
    ExecutionConfig,
    GateConfig,
    Granularity,
    NetworkConfig,
    OptimiserConfig,
    PhaseConfig,
    TrialConfig,
)
from greenprune_core.cost.training import training_macs
from greenprune_core.data import ImageData
from greenprune_core.extract import extract
from greenprune_core.fold import fold_batch_norms
from greenprune_core.measure import Meter, NoMeter, choose_meter
from greenprune_core.one_pass import advance, start
from greenprune_core.state import TrainingState

EPOCHS = 20
USUAL = PhaseConfig()
INFERENCE_BATCH = 256
INFERENCE_PAIRS = 17
GRANULARITIES: tuple[Granularity, ...] = ("channel", "both", "layer")


@dataclasses.dataclass
class Epoch:
    """What one epoch took."""

    seconds: float
    """Of its training steps."""
    wall: float
    """Of all that passed, with evaluation and cut."""
    joules: float
    """Of all that passed; 0 without a meter."""
    peak_bytes: int
    """Allocated on a GPU at most; 0 on a CPU."""
    phase: str
    """At its end."""


Epochs = dict[str, list[Epoch]]


def main() -> None:
    """Run the pairs, print the ratios and write the result file."""
    options = parse(sys.argv[1:])
    torch.set_num_threads(options.threads)
    if options.memory_of:
        print(peak_memory(options.memory_of, options))
        return
    kind = [options.device] * (options.device != "cpu") + [options.granularity] * (options.granularity != "channel")
    kind += [f"blocks_of_{options.round_to}"] * (options.round_to > 1)
    results: dict[str, dict[str, object]] = {}
    for name in options.networks:
        results[name] = {}
        for part in (training, inferences, peak_memory_beside_dense):
            results[name] |= part(name, options)
            # what is done stays if this is cut off
            print(write_result("_".join(["one_pass_cost", *kind]), vars(options), results), flush=True)


def parse(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="+", default=["cifar_resnet20", "cifar_resnet56"])
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--steps-per-epoch", type=int, default=52)
    parser.add_argument("--granularity", choices=GRANULARITIES, default="channel")
    parser.add_argument("--round-to", type=int, default=1, help="train towards multiples of so many channels")
    parser.add_argument("--warm-up", type=float, default=USUAL.warm_up, help="progress at which gates begin to act")
    parser.add_argument("--ramp-shape", default=USUAL.ramp_shape, help="of the budget: linear, cosine, cubic")
    parser.add_argument("--freeze-at", type=float, default=USUAL.freeze_at, help="progress at which the cut is made")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def training(network: str, options: argparse.Namespace) -> dict[str, object]:
    """Train `network` dense and in one pass, in turn, and return ratios: median, least and largest of the pairs."""
    pairs = []
    for seed in range(options.pairs):
        pairs.append(train_pair(network, seed, options))
        print(network, pairs[-1], flush=True)
    return {
        key: {
            "median": statistics.median(pair[key] for pair in pairs),
            "least": min(pair[key] for pair in pairs),
            "largest": max(pair[key] for pair in pairs),
            "n": len(pairs),
        }
        for key in pairs[0]
    }


def train_pair(network: str, seed: int, options: argparse.Namespace) -> dict[str, float]:
    """Advance a dense and a one-pass training in turn, epoch by epoch, and return ours over dense."""
    data = images(options)
    config = configuration(network, seed, options)
    dense = start(dataclasses.replace(config, budget=BudgetConfig(target=1.0)), data=data, device=options.device)
    ours = start(config, data=data, device=options.device)
    meter = NoMeter() if options.device == "cpu" else choose_meter("auto", options.device)
    epochs: Epochs = {"dense": [], "ours": []}
    for epoch in range(1, EPOCHS + 1):
        for name, state in (("dense", dense), ("ours", ours)):
            epochs[name].append(timed_epoch(state, epoch, meter))
    meter.close()
    parts = itertools.chain.from_iterable(ours.training_parts().values())
    n_images = sum(spent.n_steps for spent in ours.spent.values()) * options.batch_size
    assert ours.cost is not None
    figures = time_figures(epochs, n_images, config.phases) | {
        "train_macs_ratio": training_macs(parts) / (3 * ours.dense_cost.macs * n_images),
        "kept_macs": ours.cost.macs / ours.dense_cost.macs,
    }
    if options.device != "cpu":
        peaks = {name: max(each.peak_bytes for each in of_name) for name, of_name in epochs.items()}
        figures["peak_memory_ratio"] = peaks["ours"] / peaks["dense"]
    if meter.source is not None:
        figures |= phase_ratios(epochs, "joules", config.phases)
    return figures


def time_figures(epochs: Epochs, n_images: int, phases: PhaseConfig) -> dict[str, float]:
    """Seconds of ours over those of dense training, and images per second; `n_images` are trained in all epochs."""
    # the cut (tracing, statistics) and the compiler are part of our bill, so an epoch in which a phase ends is billed
    # by the clock, with its evaluation, on both sides; evaluation after the other epochs is on neither
    whole = {i for places in whole_epochs(epochs).values() for i in places}
    bill = {
        name: sum(epoch.seconds if i in whole else epoch.wall for i, epoch in enumerate(of_name))
        for name, of_name in epochs.items()
    }
    figures = phase_ratios(epochs, "seconds", phases)
    dense = EPOCHS * statistics.median(epoch.seconds for epoch in epochs["dense"][1:])
    ours = dense * figures["steady_seconds_ratio"]
    return figures | {
        "wall_ratio": bill["ours"] / bill["dense"],
        "our_overhead_seconds": bill["ours"] - ours,
        "dense_overhead_seconds": bill["dense"] - dense,
        "dense_images_per_second": n_images / dense,
        "our_images_per_second": n_images / ours,
    }


def phase_ratios(epochs: Epochs, what: str, phases: PhaseConfig) -> dict[str, float]:
    """Ours over dense in seconds or joules: per phase, and steady, that is without what is paid once (cut, compiler).

    Medians of the epochs that lie in one phase; a warm-up counts as dense.
    """
    ratio = {
        phase: statistics.median(getattr(epochs["ours"][i], what) for i in places)
        / statistics.median(getattr(epochs["dense"][i], what) for i in places)
        for phase, places in whole_epochs(epochs).items()
    }
    select, finish = phases.freeze_at - phases.warm_up, 1 - phases.freeze_at
    steady = phases.warm_up + select * ratio["select"] + finish * ratio["finish"]
    return {f"{phase}_{what}_ratio": value for phase, value in ratio.items()} | {f"steady_{what}_ratio": steady}


def whole_epochs(epochs: Epochs) -> dict[str, list[int]]:
    """Return which epochs lie in one phase, by that phase."""
    phases = [epoch.phase for epoch in epochs["ours"]]
    return {
        phase: [i for i in range(1, EPOCHS) if phases[i] == phases[i - 1] == phase] for phase in ("select", "finish")
    }


def timed_epoch(state: TrainingState, epoch: int, meter: Meter) -> Epoch:
    """Advance to the end of an epoch."""
    before = sum(cost.seconds for cost in state.spent.values())
    on_gpu = torch.device(state.device).type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(state.device)
    began, joules = time.perf_counter(), meter.read_j() or 0.0
    advance(state, epoch)
    joules = (meter.read_j() or 0.0) - joules
    wall = time.perf_counter() - began
    seconds = sum(cost.seconds for cost in state.spent.values()) - before
    return Epoch(seconds, wall, joules, torch.cuda.max_memory_allocated(state.device) if on_gpu else 0, state.phase)


def inferences(network: str, options: argparse.Namespace) -> dict[str, object]:
    """Time the cut networks of all granularities beside the dense one."""
    timed = {kind: inference(network, kind, options) for kind in GRANULARITIES}
    print(network, timed, flush=True)
    return {"inference": timed}


def inference(network: str, granularity: Granularity, options: argparse.Namespace) -> dict[str, object]:
    """Time the network cut to half of its MACs in blocks of 8 channels against the dense one, side by side.

    Both are treated alike, in the ways in which a user may run them: as they are; with batch norms folded into the
    convolutions (`fold_batch_norms`); and folded with channels last. Each pair is one pass of either network, one after
    the other and in changing order; the speed-up is the median of the pairs' ratios.
    """
    small, dense, macs_ratio = cut_and_dense(network, granularity, options)
    batch = torch.randn(INFERENCE_BATCH, 3, 32, 32, device=options.device)
    example = batch[:8]
    folded = [fold_batch_norms(net, example) for net in (small, dense)]
    last = [copy.deepcopy(net).to(memory_format=torch.channels_last) for net in folded]
    results: dict[str, object] = {"macs_ratio": macs_ratio, "n_images": INFERENCE_BATCH}
    for name, nets, images in (
        ("as_it_is", [small, dense], batch),
        ("norms_folded", folded, batch),
        ("norms_folded_channels_last", last, batch.to(memory_format=torch.channels_last)),
    ):
        pairs = [seconds_of_pair(nets, images, options.device, is_turned=bool(i % 2)) for i in range(INFERENCE_PAIRS)]
        ratios = [theirs / ours for ours, theirs in pairs[2:]]  # the first warm up
        quartiles = statistics.quantiles(ratios, n=4)
        results[name] = {
            "speed_up": statistics.median(ratios),
            "quartiles": [quartiles[0], quartiles[2]],
            "n_pairs": len(ratios),
            "of_macs_ratio": statistics.median(ratios) * macs_ratio,
            "cut_seconds": statistics.median(ours for ours, _ in pairs[2:]),
            "dense_seconds": statistics.median(theirs for _, theirs in pairs[2:]),
        }
    return results


def cut_and_dense(
    network: str, granularity: Granularity, options: argparse.Namespace
) -> tuple[nn.Module, nn.Module, float]:
    """Return the network cut to half of its MACs, by a random score, the dense one, and the share of MACs kept."""
    config = configuration(network, 0, options)
    gates = dataclasses.replace(
        config.gates,
        round_to=1 if granularity == "layer" else 8,
        streams=granularity == "channel",
        granularity=granularity,
    )
    state = start(dataclasses.replace(config, gates=gates), data=images(options), device=options.device)
    assert state.pressure is not None
    score = torch.rand(state.gated.n_gates, generator=torch.Generator().manual_seed(0))
    kept = state.pressure.settle(score).kept_V
    state.gated.freeze({name: kept[place] for name, place in state.gated.group_slices.items()})
    return extract(state.gated).eval(), state.gated.network.eval(), state.pressure.kept_fraction(kept)


@torch.no_grad()
def seconds_of_pair(nets: list[nn.Module], batch: Tensor, device: str, *, is_turned: bool) -> tuple[float, float]:
    """Time one pass of each network, the second first where `is_turned`."""
    seconds = [0.0, 0.0]
    for i in (1, 0) if is_turned else (0, 1):
        began = time.perf_counter()
        nets[i](batch)
        if device != "cpu":
            torch.cuda.synchronize(device)
        seconds[i] = time.perf_counter() - began
    return seconds[0], seconds[1]


def peak_memory_beside_dense(network: str, options: argparse.Namespace) -> dict[str, object]:
    """Peak resident memory of our training over that of dense training, each in a process of its own; on a CPU."""
    if options.device != "cpu":
        return {}  # the pairs have it of the GPU
    peaks = []
    for kind in ("dense", "ours"):
        command = [sys.executable, __file__, "--memory-of", f"{kind}:{network}", "--threads", str(options.threads)]
        command += ["--batch-size", str(options.batch_size), "--granularity", options.granularity]
        peaks.append(float(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    return {"peak_memory_ratio": peaks[1] / peaks[0]}


def peak_memory(kind_and_network: str, options: argparse.Namespace) -> int:
    """Train through all phases and return this process's peak resident memory in KiB."""
    kind, _, network = kind_and_network.partition(":")
    config = dataclasses.replace(configuration(network, 0, options), epochs=6)
    if kind == "dense":
        config = dataclasses.replace(config, budget=BudgetConfig(target=1.0))
    advance(start(config, data=images(options), device="cpu"), config.epochs)
    return peak_resident_kib()


def configuration(network: str, seed: int, options: argparse.Namespace) -> TrialConfig:
    """One-pass training to half of the MACs."""
    return TrialConfig(
        network=NetworkConfig(name=network),
        data=DataConfig(name="noise"),
        gates=GateConfig(learning_rate_factor=5.0, granularity=options.granularity, round_to=options.round_to),
        budget=BudgetConfig(target=0.5),
        phases=PhaseConfig(  # on noise there is no wait to measure
            warm_up=options.warm_up,
            freeze_at=options.freeze_at,
            freeze_latest=options.freeze_at,
            ramp_shape=options.ramp_shape,
        ),
        optimiser=OptimiserConfig(batch_size=options.batch_size),
        execution=ExecutionConfig(
            precision=options.precision, channels_last=options.channels_last, compile=options.compile
        ),
        epochs=EPOCHS,
        seed=seed,
    )


def images(options: argparse.Namespace) -> ImageData:
    """Noise of CIFAR's format: costs do not depend on what the images show."""
    generator = torch.Generator().manual_seed(0)
    n_train = options.steps_per_epoch * options.batch_size + 64

    def part(n: int) -> tuple[Tensor, Tensor]:
        pixels = torch.randint(0, 256, (n, 3, 32, 32), generator=generator, dtype=torch.uint8)
        return pixels, torch.arange(n) % 10

    config = DataConfig(name="noise", validation_share=0.15)
    return ImageData.from_tensors(part(round(n_train / 0.85) + 10), part(64), config, device=options.device)


if __name__ == "__main__":
    main()
