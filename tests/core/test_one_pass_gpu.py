"""On a real NVIDIA GPU: memory is free again after a trial, and what one pass costs beside dense training."""

import gc
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_pass import SMALL

from greenprune_core import build_network, load_data, train_one_pass

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]

ON_A_GPU = (
    "--device cuda --batch-size 512 --precision bfloat16 --channels-last --compile --pairs 1 --steps-per-epoch 20"
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


def test_one_pass_beside_dense_training_in_bfloat16_compiled(monkeypatch: pytest.MonkeyPatch):
    """The seconds are reported, they decide nothing."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from one_pass_cost import compare, parse

    options = parse(ON_A_GPU.split())
    figures = compare("cifar_resnet56", options)
    print("ONE PASS |", torch.cuda.get_device_name(0), "|", json.dumps(figures))
    assert 0.4 < figures["kept_macs"]["median"] <= 0.5
