"""On a real NVIDIA GPU: the counter against integrated power, and joules of ResNet-56 dense and halved."""

import time

import pytest
import torch

from greenprune_core.config import NetworkConfig
from greenprune_core.extract import extract
from greenprune_core.gates import attach_gates
from greenprune_core.measure import measure_inference
from greenprune_core.networks import build_network

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]

LOAD_S = 10.0


def test_the_counter_agrees_with_polled_power_over_ten_seconds():
    from greenprune_core.measure.nvml import NvmlMeter, PolledPowerMeter

    counter, polled = NvmlMeter(), PolledPowerMeter()
    matrix = torch.randn(4096, 4096, device="cuda")
    _multiply(matrix, 2.0)  # power settles
    before = counter.read_j(), polled.read_j()
    _multiply(matrix, LOAD_S)
    counted, added = (after - first for after, first in zip((counter.read_j(), polled.read_j()), before, strict=True))
    polled.close()
    print(f"counted {counted:.1f} J, polled {added:.1f} J")
    assert added == pytest.approx(counted, rel=0.05)


def test_a_halved_resnet56_spends_less_than_the_dense_one(record_property):
    from greenprune_core.measure.nvml import NvmlMeter

    example = torch.zeros(1, 3, 32, 32)
    dense = build_network(NetworkConfig(name="cifar_resnet56"), n_classes=10, in_channels=3, image_size=32)
    gated = attach_gates(dense, example, "channel", streams=False)
    halves = {name: torch.arange(size) < (size + 1) // 2 for name, size in gated.groups.items()}
    meter, images = NvmlMeter(), torch.randn(256, 3, 32, 32, device="cuda")
    joules = {}
    for name, network in (("dense", dense), ("halved", extract(gated, halves))):
        measured = measure_inference(network.cuda(), images, meter=meter)
        joules[name] = measured.energy_j
        record_property(f"{name}_j_per_inference", measured.energy_j.median)
        print(name, measured)
    assert joules["halved"].high < joules["dense"].low


def _multiply(matrix: torch.Tensor, seconds: float) -> None:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for _ in range(20):
            matrix @ matrix
        torch.cuda.synchronize()
