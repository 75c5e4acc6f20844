"""Two tiny trials of every shipped space, on data of its format."""

from pathlib import Path

import optuna
import pytest
from data_maker import make_cifar, make_fashion_mnist, make_folder, make_tiny_imagenet

from hpsearch.trial import run_trial
from search_spaces import load_space, pin, space_names

MAKERS = {
    "digits": lambda monkeypatch, root: root,
    "fashion_mnist": lambda monkeypatch, root: make_fashion_mnist(root),
    "cifar10": lambda monkeypatch, root: make_cifar(monkeypatch, root),
    "cifar100": lambda monkeypatch, root: make_cifar(monkeypatch, root, n_classes=100, n_per_file=200),
    "tiny_imagenet": lambda monkeypatch, root: make_tiny_imagenet(root, n_train=40),
    "torchvision": lambda monkeypatch, root: make_folder(root, n_train=50),
}

FAST = {
    "epochs": "2", "batch_size": "16", "warm_up": "0", "freeze_at": "0.5", "ramp_up": "0", "ramp_share": "0.3",
    "learning_rate": "0.2", "learning_rate_factor": "5", "budget_weight": "40",
}  # fmt: skip
"""Gates must differ after a handful of steps."""

TINY = {
    "digits": {"n_train": "96", "width": "4"},
    "fashion_mnist": {"image_size": "14"},
    "cifar10": {"network": "cifar_resnet20", "n_train": "96", "image_size": "8"},
    "cifar100": {"network": "cifar_vgg16", "n_train": "96", "image_size": "8"},
    "tiny_imagenet": {"network.name": "torchvision/mobilenet_v3_small", "image_size": "32", "granularity": "both"},
    "torchvision": {"network.name": "torchvision/mobilenet_v3_small", "image_size": "32"},
}


def test_every_space_has_its_data():
    assert set(MAKERS) == set(TINY) == set(space_names())


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name in ("digits", "fashion_mnist") else pytest.mark.slow) for name in TINY],
)
def test_two_tiny_trials_of_a_space_run_through(name, tmp_path, monkeypatch):
    root = MAKERS[name](monkeypatch, tmp_path / "data")
    space = pin(load_space(name), FAST | TINY[name])
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=optuna.samplers.RandomSampler(seed=0))
    study.enqueue_trial(dict(space.first_points[0]))
    for number in range(2):
        config = space.suggest(study.ask())
        row = run_trial(config, tmp_path / str(number), data_dir=str(root))
        assert row["macs"] <= row["dense_macs"]
        assert row["energy_j"] <= row["dense_energy_j"] * config.budget.target * 1.001
        assert 0 <= row["val_accuracy"] <= 1
        assert row["details"]["verify_difference"] < 1e-4
        assert (Path(tmp_path) / str(number) / "card.json").is_file()
