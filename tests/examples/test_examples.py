"""Every example runs, and does what its text says."""

import importlib.util
from pathlib import Path

import pytest

from greenprune_core.config import DataConfig, NetworkConfig
from greenprune_core.data import load_data
from greenprune_core.networks import build_network
from search_spaces import draws, load_space, pin

EXAMPLES = Path(__file__).parents[2] / "examples"


def load_example(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_example_is_tested():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {"own_network", "own_data", "own_space", "read_a_run"}


@pytest.mark.slow
def test_the_own_network_comes_back_smaller_and_right(capsys):
    network = load_example("own_network").main(epochs=6)
    text = capsys.readouterr().out
    assert {type(module).__module__.split(".")[0] for module in network.modules() if not list(module.children())} == {
        "torch"
    }
    assert "331,648 -> " in text
    assert "test accuracy: 9" in text


@pytest.mark.slow
def test_the_own_images_are_learnt():
    assert load_example("own_data").main(epochs=4) > 0.85


def test_the_own_network_and_data_are_found_by_reference():
    data = load_data(DataConfig(name=f"{EXAMPLES / 'own_data.py'}:load"))
    assert (data.n_train, data.n_validation, data.n_test) == (1080, 120, 400)
    config = NetworkConfig(name=f"{EXAMPLES / 'own_network.py'}:make_network", width=4)
    images, _ = next(data.plain_batches("test", 2))
    assert build_network(config, n_classes=4, in_channels=1, image_size=16)(images).shape == (2, 4)


def test_the_own_space_says_what_it_draws():
    space = load_space(f"{EXAMPLES / 'own_space.py'}:SPACE")
    assert set(draws(space)) == set(space.scientific + space.nuisance)
    assert set(draws(pin(space, {"width": "8", "epochs": "5"}))) == set(draws(space)) - {"width"}
    assert all(set(point) == set(draws(space)) for point in space.first_points)
