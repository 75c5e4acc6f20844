"""On a real NVIDIA GPU: memory is free again after a trial, and what one pass costs beside dense training."""

import gc
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_pass import SMALL

from greenprune_core import attach_gates, build_network, extract, load_data, train_one_pass, verify
from greenprune_core.config import NetworkConfig
from greenprune_core.fold import fold_batch_norms

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]

ON_A_GPU = (
    "--device cuda --batch-size 512 --precision bfloat16 --channels-last --compile --round-to 8 --pairs 1 "
    "--steps-per-epoch 52"
)
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_memory_is_free_again_after_each_trial():
    left = []
    for seed in range(3):
        config = replace(SMALL, seed=seed)
        data = load_data(config.data, None, "cuda")
        channels, _, side = data.input_shape
        network = build_network(config.network, n_classes=data.n_classes, in_channels=channels, image_size=side)
        result = train_one_pass(config, network.cuda(), data, device="cuda")
        assert next(result.network.parameters()).is_cuda
        del data, network, result
        gc.collect()
        left.append(torch.cuda.memory_allocated())
    # what the first leaves behind are the libraries' work spaces
    assert left[1:] == [left[0]] * 2


def test_a_cut_is_verified_and_norms_are_folded_where_the_gpu_rounds_float32():
    """By default its matrix units take ten bits of a float32: differences of 1e-4 between equal networks."""
    assert torch.backends.cudnn.allow_tf32
    images = torch.randn(64, 3, 32, 32, device="cuda")
    network = build_network(NetworkConfig(name="cifar_resnet20"), n_classes=10, in_channels=3, image_size=32)
    gated = attach_gates(network.cuda(), images[:1], "both")
    for _ in range(3):  # batch statistics that are not at their defaults
        gated.train()(images)
    generator = torch.Generator().manual_seed(0)
    static = extract(gated, {name: torch.rand(size, generator=generator) < 0.6 for name, size in gated.groups.items()})
    assert verify(gated, static, images, 1e-6) < 1e-4
    assert next(static.parameters()).dtype == torch.float32
    fold_batch_norms(static, images)


def test_one_pass_beside_dense_training_in_bfloat16_compiled(monkeypatch: pytest.MonkeyPatch):
    """The seconds are reported, they decide nothing."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from one_pass_cost import parse, training

    options = parse(ON_A_GPU.split())
    figures = training("cifar_resnet56", options)
    print("ONE PASS |", torch.cuda.get_device_name(0), "|", json.dumps(figures))
    assert 0.4 < figures["kept_macs"]["median"] <= 0.5
