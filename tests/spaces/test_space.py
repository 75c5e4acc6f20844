import optuna
import pytest

from greenprune_core.config import BudgetConfig, OptimiserConfig, TrialConfig
from greenprune_core.errors import ConfigError
from search_spaces import Draw, SearchSpace, check_first_points, draws, load_space, pin

DIGITS = load_space("digits")


def one_draw(space, seed=0):
    return space.suggest(optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed)).ask())


def conditional(trial):
    if trial.suggest_categorical("name", ["sgd", "adamw"]) == "adamw":
        return TrialConfig(optimiser=OptimiserConfig(name="adamw", momentum=0.0))
    momentum = trial.suggest_float("momentum", 0.0, 0.9, step=0.1)
    epochs = trial.suggest_int("epochs", 2, 20, step=2)
    return TrialConfig(optimiser=OptimiserConfig(momentum=momentum), epochs=epochs)


CONDITIONAL = SearchSpace(name="conditional", suggest=conditional)


def test_draws_are_found_with_their_ranges_also_conditional_ones():
    assert draws(CONDITIONAL) == {
        "name": Draw("categorical", choices=("sgd", "adamw")),
        "momentum": Draw("float", 0.0, 0.9),
        "epochs": Draw("int", 2, 20),
    }


@pytest.mark.parametrize(
    ("draw", "text"),
    [
        (Draw("float", 0.001, 0.1, log=True), "0.001 .. 0.1 (log)"),
        (Draw("int", 2, 20), "2 .. 20"),
        (Draw("categorical", choices=("a", 2)), "a | 2"),
    ],
)
def test_a_draw_reads_as_a_range(draw, text):
    assert str(draw) == text


def test_a_pinned_parameter_is_no_longer_drawn():
    pinned = pin(DIGITS, {"target": "0.4"})
    assert "target" not in draws(pinned)
    assert "target" not in pinned.scientific
    assert pinned.fixed["target"] == "0.4"
    assert {one_draw(pinned, seed).budget.target for seed in range(5)} == {0.4}


def test_the_other_draws_stay_as_they_were():
    assert {**draws(pin(DIGITS, {"target": "0.4"})), "target": Draw("float", 0.15, 1.0)} == draws(DIGITS)


@pytest.mark.parametrize("key", ["polar_weight", "losses.polar_weight"])
def test_a_parameter_is_pinned_by_either_of_its_names(key):
    pinned = pin(DIGITS, {key: "0.7"})
    assert "polar_weight" not in draws(pinned)
    assert one_draw(pinned).losses.polar_weight == 0.7


@pytest.mark.parametrize("key", ["network", "network.name"])
def test_the_network_is_pinned_by_either_of_its_names(key):
    pinned = pin(load_space("cifar10"), {key: "cifar_resnet56"})
    assert {one_draw(pinned, seed).network.name for seed in range(5)} == {"cifar_resnet56"}


@pytest.mark.parametrize(("key", "text", "read"), [("epochs", "2", 2), ("optimiser.batch_size", "32", 32)])
def test_any_other_field_is_set(key, text, read):
    config = one_draw(pin(DIGITS, {key: text}))
    assert read in (config.epochs, config.optimiser.batch_size)


def test_a_choice_is_pinned():
    assert one_draw(pin(DIGITS, {"granularity": "layer"})).gates.granularity == "layer"
    assert one_draw(pin(CONDITIONAL, {"name": "adamw"})).optimiser.name == "adamw"
    assert one_draw(pin(CONDITIONAL, {"name": "sgd", "epochs": "8"})).epochs == 8


def test_first_points_that_have_the_pinned_value_are_kept():
    pinned = pin(DIGITS, {"target": "1.0"})
    assert len(pinned.first_points) == 1
    assert "target" not in pinned.first_points[0]
    networks = pin(load_space("cifar10"), {"network": "cifar_resnet20"})
    assert [point["target"] for point in networks.first_points] == [0.5, 1.0]


def test_first_points_lose_a_pinned_parameter_that_none_of_them_has():
    pinned = pin(DIGITS, {"polar_weight": "0.9"})
    assert [point["target"] for point in pinned.first_points] == [p["target"] for p in DIGITS.first_points]
    assert all("polar_weight" not in point for point in pinned.first_points)


@pytest.mark.parametrize(
    ("key", "text", "message"),
    [
        ("targte", "0.5", "near names: target"),
        ("target", "1.5", r"target is drawn from 0\.15 \.\. 1, but got 1\.5"),
        ("target", "nan", "but got nan"),
        ("target", "half", "'half'"),
        ("granularity", "weight", r"channel \| layer \| both, but got 'weight'"),
        ("epochs", "0", "epochs=0"),
        ("epochs", "2.5", "'2.5'"),
        ("batch_size", "1", "batch_size=1"),
        ("freeze_latest", "0.2", "freeze_latest"),
        ("name", "sgd", "could be"),
    ],
)
def test_a_wrong_pin_is_refused_at_once(key, text, message):
    with pytest.raises(ConfigError, match=message):
        pin(DIGITS, {key: text})


def test_a_space_that_returns_something_else_is_refused():
    with pytest.raises(ConfigError, match="returned dict"):
        draws(SearchSpace(name="wrong", suggest=lambda trial: {}))


def test_an_unknown_space_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match=r"'fashion'; nearest: fashion_mnist"):
        load_space("fashion")


def test_a_space_is_found_in_a_module_and_in_a_file(tmp_path):
    assert load_space("search_spaces.digits:DIGITS") is DIGITS
    path = tmp_path / "mine.py"
    path.write_text(
        "from greenprune_core.config import TrialConfig\n"
        "from search_spaces import SearchSpace\n"
        "def suggest(trial):\n"
        "    'Draw the seed.'\n"
        "    return TrialConfig(seed=trial.suggest_int('seed', 0, 9))\n"
        "MINE = SearchSpace(name='mine', suggest=suggest, nuisance=('seed',))\n"
        "NUMBER = 3\n"
    )
    assert load_space(f"{path}:MINE").nuisance == ("seed",)
    function = load_space(f"{path}:suggest")
    assert (function.name, function.scientific, function.description) == ("suggest", ("seed",), "Draw the seed.")
    with pytest.raises(ConfigError, match=r"must define 'ABSENT', but it defines .*MINE"):
        load_space(f"{path}:ABSENT")
    with pytest.raises(ConfigError, match="NUMBER is a int"):
        load_space(f"{path}:NUMBER")


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("absent_module:SPACE", "must be a module that imports"),
        ("absent_file.py:SPACE", "but got .*absent_file.py"),
        (":SPACE", "both sides of the colon"),
        ("search_spaces.digits:", "both sides of the colon"),
    ],
)
def test_a_reference_to_nothing_is_refused(reference, message):
    with pytest.raises(ConfigError, match=message):
        load_space(reference)


def test_a_file_that_does_not_run_is_refused_with_its_error(tmp_path):
    (tmp_path / "broken.py").write_text("1 / 0\n")
    with pytest.raises(ConfigError, match="ZeroDivisionError"):
        load_space(f"{tmp_path / 'broken.py'}:SPACE")


def test_a_target_of_one_is_a_valid_draw():
    config = DIGITS.suggest(optuna.trial.FixedTrial({**DIGITS.first_points[0], "target": 1.0}))
    assert config.budget == BudgetConfig(target=1.0, unit="joules")


@pytest.mark.parametrize(
    ("point", "told"),
    [
        ({"kind": "c"}, "first point 2 of line has kind='c', which is drawn from a | b;"),
        ({"target": 5.0}, "has target=5.0, which is drawn from 0.1 .. 0.9;"),
        ({"target": "half"}, "has target='half'"),
        ({"kind": "b", "epochs": 11}, "has epochs=11, which is drawn from 10 .. 20 in steps of 2;"),
    ],
)
def test_a_first_point_outside_its_space_is_refused(point, told):
    def suggest(trial):
        epochs = trial.suggest_int("epochs", 10, 20, step=2) if trial.suggest_categorical("kind", "ab") == "b" else 9
        return TrialConfig(epochs=epochs, budget=BudgetConfig(target=trial.suggest_float("target", 0.1, 0.9)))

    inside = {"kind": "b", "target": 0.9, "epochs": 20}
    check_first_points(SearchSpace(name="line", suggest=suggest, first_points=(inside, {"target": 0.1}, {})))
    with pytest.raises(ConfigError, match=r"a first point lies inside its space.*widen the space") as refused:
        check_first_points(SearchSpace(name="line", suggest=suggest, first_points=(inside, point)))
    assert told in str(refused.value)
