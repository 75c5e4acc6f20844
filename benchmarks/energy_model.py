"""How far the energy model can be trusted: its counts, its expectation under gates, and its predictions of time.

1. MACs and parameters against the literature and against torch's own counter, on CIFAR and torchvision networks.
2. The expected cost at random hard masks against the cost of the network really cut by them, and its speed.
3. A device profile calibrated here, judged on cut networks that the fit has not seen, beside a MACs-only proxy.

Run on a quiet machine: `python benchmarks/energy_model.py [--minutes 8] [--profile-output mine.json]`.
"""

import argparse
import json
import statistics
import time
import warnings
from pathlib import Path
from typing import Any

import torch
import torchvision
from results_file import machine, write_result
from torch.utils.flop_counter import FlopCounterMode

from greenprune_core.config import NetworkConfig
from greenprune_core.cost import ExpectedCost, count_cost, estimate_energy, load_profile
from greenprune_core.extract import extract
from greenprune_core.gates import GatedNetwork, attach_gates
from greenprune_core.measure import choose_meter
from greenprune_core.measure.calibration import Plan, calibrate
from greenprune_core.networks import build_network

LITERATURE = {"cifar_resnet56": (125_485_696, 853_018), "cifar_resnet110": (252_887_680, 1_727_962)}
TORCHVISION = (
    *("resnet18", "vgg11_bn", "mobilenet_v3_small", "densenet121", "regnet_y_400mf", "convnext_tiny"),
    *("efficientnet_b0", "vit_b_16", "googlenet", "swin_t"),
)
GATED = (
    *("cifar_resnet20", "cifar_resnet56", "cifar_vgg16", "torchvision/mobilenet_v3_small", "torchvision/densenet121"),
    *("torchvision/shufflenet_v2_x0_5", "torchvision/efficientnet_b0"),
)
N_MASKS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--minutes", type=float, default=8.0, help="length of the calibration, at most 10; 0 leaves it out"
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--profile-output", type=Path, help="also write the profile here")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", category=FutureWarning)
    torch.set_num_threads(options.threads)
    results: dict[str, Any] = {
        "literature": [_against_literature(name, *counts) for name, counts in LITERATURE.items()],
        "torch_counter": [_against_torch(name) for name in TORCHVISION],
        "expected": [_expected_against_cut(name) for name in GATED],
    }
    if options.minutes:
        results["calibration"] = _calibration(options)
    for part, figures in results.items():
        print(part, json.dumps(figures, indent=1))
    settings = {
        "minutes": options.minutes,
        "threads": options.threads,
        "masks": N_MASKS,
        "mask_seeds": [0, N_MASKS - 1],
    }
    name = "energy_model" if options.threads == 1 else f"energy_model_{options.threads}_threads"
    print(write_result(name, settings, results))


def _against_literature(name: str, macs: int, params: int) -> dict[str, Any]:
    network = build_network(NetworkConfig(name=name), n_classes=10, in_channels=3, image_size=32)
    cost = count_cost(network, torch.zeros(1, 3, 32, 32, device="meta"))
    return {
        "network": name,
        "macs": cost.macs,
        "params": cost.params,
        "agrees": (cost.macs, cost.params) == (macs, params),
    }


def _against_torch(name: str) -> dict[str, Any]:
    network = torchvision.models.get_model(name, weights=None).eval()
    example = torch.zeros(1, 3, 224, 224, device="meta")
    cost = count_cost(network, example)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.to("meta")(example)
    ratio = 2 * cost.macs / counter.get_total_flops()
    return {"network": name, "macs": cost.macs, "over_torch": ratio, "not_counted": cost.not_counted}


def _expected_against_cut(name: str) -> dict[str, Any]:
    side = 64 if "/" in name else 32
    example = torch.zeros(1, 3, side, side)
    network = build_network(NetworkConfig(name=name), n_classes=10, in_channels=3, image_size=side)
    gated = attach_gates(network, example, "both", streams=True)
    profile = load_profile("horowitz-45nm")
    expected = ExpectedCost(gated.structure, "joules", profile)
    errors = []
    for seed in range(N_MASKS):
        masks = _random_masks(gated, seed)
        joules = estimate_energy(count_cost(extract(gated, masks), example), profile).joules
        errors.append(abs(float(expected(torch.cat(list(masks.values())))) / joules - 1))
    return {
        "network": name,
        "n_gates": expected.n_gates,
        "n_masks": N_MASKS,
        "largest_relative_error": max(errors),
        "call_and_gradient_s": _median_seconds(expected),
    }


def _random_masks(gated: GatedNetwork, seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    masks = {}
    for name, size in gated.groups.items():
        masks[name] = torch.rand(size, generator=generator) < 0.6
        if gated.structure.kinds[name] != "branch":
            masks[name][0] = True
    return masks


def _median_seconds(expected: ExpectedCost, n: int = 50) -> float:
    open_ = torch.rand(expected.n_gates).requires_grad_()
    seconds = []
    for _ in range(n):
        started = time.perf_counter()
        expected(open_).backward()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def _calibration(options: argparse.Namespace) -> dict[str, Any]:
    name = options.profile_output.stem if options.profile_output else "here"
    before = machine()
    plan = Plan(seconds=60 * options.minutes)
    profile = calibrate(name, choose_meter("auto", "cpu"), plan=plan, device_name=before["processor"])
    if options.profile_output:
        options.profile_output.write_text(json.dumps(profile.to_dict(), indent=2) + "\n")
    return {"load_1min_before": before["load_1min"], **(profile.fit or {})}


if __name__ == "__main__":
    main()
