import random
import subprocess
import sys
from dataclasses import replace

import optuna
import pytest
import torch

from greenprune_core.config import TrialConfig
from greenprune_core.field_paths import leaf_types
from search_spaces import draws, load_space, pin, space_names

N_DRAWS = 2000


class FakeTrial:
    """The least that a space may expect of a trial."""

    def __init__(self, seed):
        self.random = random.Random(seed)

    def suggest_float(self, name, low, high, *, step=None, log=False):
        return self.random.choice([low, high, self.random.uniform(low, high)])

    def suggest_int(self, name, low, high, *, step=1, log=False):
        return self.random.randint(low, high)

    def suggest_categorical(self, name, choices):
        return self.random.choice(choices)


@pytest.fixture(params=space_names())
def space(request):
    return load_space(request.param)


def test_all_spaces_of_the_design_are_there():
    assert set(space_names()) == {"digits", "fashion_mnist", "cifar10", "cifar100", "tiny_imagenet", "torchvision"}


def test_every_draw_is_valid_also_at_the_ends_of_the_ranges(space):
    configs = [space.suggest(FakeTrial(seed)) for seed in range(N_DRAWS)]
    assert all(isinstance(config, TrialConfig) for config in configs)
    assert len({config.config_hash for config in configs}) == N_DRAWS
    assert all(TrialConfig.from_dict(config.to_dict()) == config for config in configs)


def test_every_draw_of_optuna_is_valid(space):
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=optuna.samplers.RandomSampler(seed=0))
    configs = [space.suggest(study.ask()) for _ in range(N_DRAWS)]
    assert len({config.config_hash for config in configs}) == N_DRAWS


def test_first_points_are_drawn_as_written(space):
    assert space.first_points
    for point in space.first_points:
        config = space.suggest(optuna.trial.FixedTrial(dict(point)))
        assert config.budget.target == point["target"]
        assert config.losses.polar_weight == point["polar_weight"]
        assert set(point) <= set(draws(space))


def test_first_points_begin_at_half_and_end_with_the_dense_network(space):
    targets = [point["target"] for point in space.first_points]
    assert targets[0] == 0.5
    assert targets[-1] == 1.0
    assert min(targets) <= 0.3


def test_every_drawn_parameter_is_scientific_or_nuisance(space):
    assert sorted(draws(space)) == sorted(space.scientific + space.nuisance)
    assert "target" in space.scientific


def test_the_docstring_says_what_is_scientific_nuisance_and_fixed(space):
    told = " ".join(sys.modules[space.suggest.__module__].__doc__.split())
    assert f"Scientific: {', '.join(f'`{name}`' for name in space.scientific)}. Nuisance: " in told
    assert " Fixed: " in told


def test_every_space_draws_what_the_work_is_about(space):
    wanted = {
        "budget_weight", "polar_weight", "target", "warm_up", "ramp_share", "ramp_shape", "polar_delay", "freeze_at",
        "learning_rate_factor", "noise", "learning_rate", "weight_decay",
    }  # fmt: skip
    assert wanted <= set(draws(space))


def test_what_is_called_fixed_is_the_same_in_every_draw(space):
    assert "epochs" in space.fixed
    for seed in range(20):
        config = space.suggest(FakeTrial(seed))
        for path, text in space.fixed.items():
            assert config.with_value(path, text) == config


def test_what_is_not_drawn_is_called_fixed_or_is_the_default(space):
    values = [flat(space.suggest(FakeTrial(seed))) for seed in range(50)]
    default = flat(TrialConfig())
    constant = {path for path in leaf_types(TrialConfig) if len({v[path] for v in values}) == 1}
    unnamed = {path for path in constant if values[0][path] != default[path]} - set(space.fixed)
    assert unnamed == set()


def flat(config):
    values = config.to_dict()
    return {
        path: values[path.split(".")[0]][path.split(".")[1]] if "." in path else values[path]
        for path in leaf_types(TrialConfig)
    }


@pytest.mark.parametrize(
    ("name", "in_channels", "image_size"),
    [
        ("digits", 1, 8),
        ("fashion_mnist", 1, 14),
        ("cifar10", 3, 32),
        pytest.param("tiny_imagenet", 3, 64, marks=pytest.mark.slow),
        pytest.param("torchvision", 3, 224, marks=pytest.mark.slow),
    ],
)
def test_every_target_leaves_room_for_the_floors_of_all_layers(name, in_channels, image_size):
    from greenprune_core import attach_gates, build_network
    from greenprune_core.pressure import Pressure

    config = load_space(name).suggest(FakeTrial(0))
    network = build_network(config.network, n_classes=10, in_channels=in_channels, image_size=image_size)
    example = torch.zeros(1, in_channels, image_size, image_size)
    gated = attach_gates(network, example, granularity="channel", streams=config.gates.streams)
    smallest = draws(load_space(name))["target"].low
    for target in (smallest, smallest + 0.01, smallest + 0.03, 0.3, 0.4, 0.6):
        # raises where the floors alone cost more than the target
        pressure = Pressure(replace(config, budget=replace(config.budget, target=target)), gated, "cpu")
        assert pressure.kept_fraction(torch.ones(gated.n_gates, dtype=torch.bool)) == pytest.approx(1.0)


def test_the_description_is_one_sentence(space):
    assert 20 < len(space.description) < 120
    assert space.suggest.__module__.startswith("search_spaces.")


def test_vgg_never_asks_for_branches():
    space = pin(load_space("cifar10"), {"network": "cifar_vgg16"})
    assert {space.suggest(FakeTrial(seed)).gates.granularity for seed in range(50)} == {"channel"}
    assert {space.suggest(FakeTrial(seed)).network.width for seed in range(50)} == {64}


def test_loading_spaces_loads_neither_torch_nor_ray_nor_optuna():
    code = (
        "import sys, search_spaces\n"
        "for name in search_spaces.space_names(): search_spaces.draws(search_spaces.load_space(name))\n"
        "print([m for m in ('torch', 'ray', 'optuna', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
