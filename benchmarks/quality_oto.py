"""OTO (only-train-once 3, HESSO; Chen 2023, arXiv 2305.18030) for benchmarks/quality.py, in an environment of its own.

    uv venv oto && uv pip install -p oto torch==2.4.1 torchvision==0.19.1 only-train-once==3.0.1 \
        pydot graphviz requests packaging pyyaml "transformers<5" onnx numpy scikit-learn safetensors
    python benchmarks/quality.py --oto-python oto/bin/python

It imports internals of torch.onnx that newer versions of torch lack. Read from standard input: the configuration, the
kept share of the MACs and the training cost to spend; printed: one row, as JSON. OTO trains the dense network to the
end, so the same training cost buys it fewer steps than ours. It is asked for a share of groups, not of MACs: the share
is corrected until the MACs fit, at most `ATTEMPTS` times, without a look at the accuracy.
"""

import json
import sys
import tempfile
import time
from typing import Any

import torch
from only_train_once import OTO
from torch import Tensor, nn

from greenprune_core.config import TrialConfig
from greenprune_core.data import ImageData, load_data
from greenprune_core.networks import build_network
from greenprune_core.networks.cifar_resnet import BasicBlock
from greenprune_core.schedules import learning_rate_factor

ATTEMPTS = 4
BACKWARD_FACTOR = 3
REFERENCE_BATCH = 128


def main() -> None:
    """Read the request, run it, print the row."""
    request = json.loads(sys.stdin.read())
    if request["device"] == "cpu":
        # HESSO calls .cuda() whatever the device
        torch.Tensor.cuda = lambda self, *_arguments, **_keywords: self  # type: ignore[method-assign, assignment]
    torch.set_num_threads(1)
    config = TrialConfig.from_dict(request["config"])
    data = load_data(config.data, request["data_dir"], request["device"])
    started = time.perf_counter()
    sparsity, row = 1 - request["target"] ** 0.5, {}
    for _ in range(ATTEMPTS):
        row = run(config, data, request, sparsity)
        excess = row["macs_share"] - request["target"]
        if -0.05 <= excess <= 0:
            break
        sparsity = min(0.95, max(0.02, sparsity + excess + 0.02))
    print(json.dumps({**row, "seconds": time.perf_counter() - started}))


def run(config: TrialConfig, data: ImageData, request: dict[str, Any], sparsity: float) -> dict[str, Any]:
    """Train once with a share of groups to be emptied, cut, and judge the last step."""
    torch.manual_seed(config.seed)
    channels, _, side = data.input_shape
    network = build_network(config.network, n_classes=data.n_classes, in_channels=channels, image_size=side)
    network = network.to(request["device"])
    example = torch.zeros(1, *data.input_shape, device=request["device"])
    dense_macs = count_macs(network, example)
    batch_size = config.optimiser.batch_size
    n_steps = max(1, int(request["train_macs"] / (BACKWARD_FACTOR * dense_macs * batch_size)))
    oto = OTO(model=network, dummy_input=example)
    oto.mark_unprunable_by_param_names(residual_stream(network))
    optimiser = oto.hesso(
        variant="sgd",
        lr=config.optimiser.learning_rate,
        first_momentum=config.optimiser.momentum,
        weight_decay=config.optimiser.weight_decay,
        target_group_sparsity=sparsity,
        start_pruning_step=n_steps // 10,
        pruning_steps=max(1, n_steps * 4 // 10),
        pruning_periods=10,
    )
    learn(network, optimiser, data, config, n_steps)
    with tempfile.TemporaryDirectory() as folder:
        oto.construct_subnet(out_dir=folder)
        small = torch.load(oto.compressed_model_path, weights_only=False).to(request["device"]).eval()
    macs = count_macs(small, example)
    return {
        "test_accuracy": accuracy(small, data, "test"),
        "val_accuracy": accuracy(small, data, "validation"),
        "macs": macs,
        "macs_share": macs / dense_macs,
        "params": sum(parameter.numel() for parameter in small.parameters()),
        "train_macs": BACKWARD_FACTOR * dense_macs * n_steps * batch_size,
    }


def residual_stream(network: nn.Module) -> list[str]:
    """Parameters that write to the residual stream of a CIFAR ResNet: its zero-padded shortcuts are beyond OTO's graph.

    Ours and the other pruners leave the stream whole as well.
    """
    blocks = [name for name, module in network.named_modules() if isinstance(module, BasicBlock)]
    layers = [
        *(f"{block}.{layer}" for block in blocks for layer in ("conv2", "bn2")),
        *(["conv", "bn"] if blocks else []),
    ]
    return [name for name, _ in network.named_parameters() if name.rpartition(".")[0] in layers]


def learn(network: nn.Module, optimiser: Any, data: ImageData, config: TrialConfig, n_steps: int) -> None:
    """Take `n_steps` steps with the usual cosine."""
    course = learning_rate_factor("cosine", config.optimiser.ramp_up, hold_until=0.5)
    step = epoch = 0
    network.train()
    while step < n_steps:
        for images, labels in data.train_batches(config.optimiser.batch_size, seed=config.seed, epoch=epoch):
            for group in optimiser.param_groups:
                group["lr"] = (
                    config.optimiser.learning_rate
                    * course(step / n_steps)
                    * (config.optimiser.batch_size / REFERENCE_BATCH)
                )
            optimiser.zero_grad()
            nn.functional.cross_entropy(network(images), labels).backward()
            optimiser.step()
            step += 1
            if step >= n_steps:
                break
        epoch += 1


@torch.no_grad()
def accuracy(network: nn.Module, data: ImageData, split: Any) -> float:
    """Share of images whose largest logit is their label."""
    right = [(network(images).argmax(1) == labels).float() for images, labels in data.plain_batches(split, 512)]
    return float(torch.cat(right).mean())


@torch.no_grad()
def count_macs(network: nn.Module, example: Tensor) -> int:
    """Multiply-accumulates of convolutions and linear layers: the project's own counter wants a newer torch."""
    total = 0

    def add(module: Any, _inputs: Any, output: Tensor) -> None:
        nonlocal total
        total += module.weight.numel() * output[0, 0].numel()

    hooks = [m.register_forward_hook(add) for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    was_training = network.training
    network.eval()(example)
    network.train(was_training)
    for hook in hooks:
        hook.remove()
    return total


if __name__ == "__main__":
    main()
