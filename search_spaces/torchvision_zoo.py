"""Any classifier of torchvision on a folder of images, from scratch or from given weights.

`--data-dir` names a folder with `train/<class>/` and `val/<class>/`. Other networks, sizes and starting weights are
settings: `--set network.name=torchvision/mobilenet_v2 --set network.init=weights.safetensors --set image_size=160`.
Only channels are gated, since not every classifier has residual branches; where it has, `--set granularity=both`.

Scientific: `target`. Nuisance: the weights of budget and polarisation, warm-up, ramp, polariser delay, freeze
point, the gates' noise and learning rate, learning rate and weight decay. Fixed: network, data, batch size,
epochs.
"""

from greenprune_core.config import DataConfig, NetworkConfig, OptimiserConfig, TrialConfig
from search_spaces.fragments import IN_JOULES, NUISANCE, draw_all, fixed_settings, known_points
from search_spaces.space import SearchSpace, SuggestTrial

BASE = TrialConfig(
    network=NetworkConfig(name="torchvision/resnet18"),
    data=DataConfig(name="folder", image_size=224, flip=True),
    budget=IN_JOULES,
    optimiser=OptimiserConfig(batch_size=64, shape="hold_then_cosine"),
    epochs=30,
)


def suggest(trial: SuggestTrial) -> TrialConfig:
    """Draw one configuration; learning rates reach down to those of fine-tuning."""
    return draw_all(trial, BASE, smallest_target=0.2, granularities=(), learning_rates=(1e-3, 0.2))


TORCHVISION = SearchSpace(
    name="torchvision",
    suggest=suggest,
    first_points=known_points((0.5, 0.7, 0.3, 1.0), granularity=None, learning_rate=0.05),
    scientific=("target",),
    nuisance=NUISANCE,
    fixed=fixed_settings(BASE),
    description="torchvision's classifiers on a folder of images, from scratch or fine-tuned; needs --data-dir",
)
