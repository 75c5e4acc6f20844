"""While gates rest, weights learn as in the network held at the mask that they agree on, at the cut network's price."""

import dataclasses

import pytest
import torch
from gated_cases import TORCHVISION, enliven, from_torchvision, images_for, make_masks, small
from small_pass import SMALL

from greenprune_core.config import ExecutionConfig, GateConfig
from greenprune_core.cost import count_cost
from greenprune_core.cost.training import TRAINING_FACTOR
from greenprune_core.extract import extract, extract_slices
from greenprune_core.gates import attach_gates
from greenprune_core.one_pass import _PHASES, finished, start, train_one_pass
from greenprune_core.pressure import Pressure
from greenprune_core.rest import CutRest
from greenprune_core.state import example_images

RESTING = dataclasses.replace(SMALL, gates=dataclasses.replace(SMALL.gates, look_every=3))


@pytest.fixture(autouse=True)
def _short_phases_rest_too(monkeypatch):
    monkeypatch.setattr("greenprune_core.state.LEAST_LOOKS", 8)


CASES = [
    ("cifar_resnet8", "channel"),
    ("cifar_resnet8", "both"),
    ("mixed", "channel"),
    ("plain", "channel"),
    ("tiny_vit", "both"),
    pytest.param("densenet121", "channel", marks=pytest.mark.slow),
    pytest.param("mobilenet_v3_small", "both", marks=pytest.mark.slow),
    pytest.param("shufflenet_v2_x1_0", "channel", marks=pytest.mark.slow),
]


def at_a_step(state, phase, is_look):
    """Walk to the first step of a phase at which the gates look or rest, past the first agreement."""
    while state.phase != phase or state.looks != is_look or state.step < 40:
        _PHASES[state.phase](state, state.step + 1)
    return state


@pytest.mark.parametrize(("name", "granularity"), CASES)
@pytest.mark.parametrize("kind", ["all open", "one left per group", "random halves"])
def test_a_rest_has_the_gradients_of_the_network_held_at_its_mask(name, granularity, kind):
    torch.manual_seed(0)
    images = images_for(name, side=64)
    network = enliven(from_torchvision(name) if name in TORCHVISION else small(name), images).double()
    for module in network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    gated = attach_gates(network, images[:1].double(), granularity)
    masks = make_masks(gated, kind)
    twin = attach_gates(network, images[:1].double(), granularity)
    twin.freeze(masks)
    rest = CutRest(gated, gated.flatten_masks(masks), images[:1].double())
    logits = rest(images.double())
    direction = torch.randn_like(logits)
    (logits * direction).sum().backward()
    (twin.train()(images.double()) * direction).sum().backward()
    kept = dict(extract(twin).named_parameters())
    for key, parameter in gated.network.named_parameters():
        expected = twin.network.get_parameter(key).grad
        if key not in kept:
            assert parameter.grad is None
            continue
        scale = float(expected.abs().max()) or 1.0
        assert float((parameter.grad - expected).abs().max()) <= 1e-9 * max(scale, 1e-3), key


def test_batch_statistics_of_kept_channels_follow_and_the_others_stay():
    torch.manual_seed(0)
    images = images_for("cifar_resnet8", side=32)
    network = small("cifar_resnet8")
    gated, twin = (attach_gates(network, images[:1]) for _ in range(2))
    masks = make_masks(gated, "random halves")
    before = {key: value.clone() for key, value in gated.network.named_buffers()}
    CutRest(gated, gated.flatten_masks(masks), images[:1])(images)
    twin.freeze(masks)
    twin.train()(images)
    slices = {
        key: pairs for key, pairs in extract_slices(twin).items() if key.endswith(("running_mean", "running_var"))
    }
    n_closed = 0
    for key, pairs in slices.items():
        after, expected = gated.network.get_buffer(key), twin.network.get_buffer(key)
        is_kept = torch.zeros_like(after, dtype=torch.bool)
        is_kept[pairs[0][1] if pairs else slice(None)] = True
        assert (expected[is_kept] != before[key][is_kept]).all()
        torch.testing.assert_close(after[is_kept], expected[is_kept])
        assert torch.equal(after[~is_kept], before[key][~is_kept])
        n_closed += int((~is_kept).sum())
    assert n_closed > 0


def test_a_rest_changes_weights_and_no_gate():
    state = at_a_step(start(RESTING), "select", is_look=False)
    gates = [parameter.clone() for parameter in state.gated.gate_parameters()]
    weights = [parameter.clone() for parameter in state.gated.weight_parameters()]
    average = state.pressure.open_average_V.clone()
    _PHASES["select"](state, state.step + 1)
    assert all(map(torch.equal, gates, state.gated.gate_parameters()))
    assert torch.equal(average, state.pressure.open_average_V)
    assert sum(not torch.equal(old, new) for old, new in zip(weights, state.gated.weight_parameters(), strict=True)) > 5


def test_a_line_of_the_history_tells_the_gates_losses_at_their_looks_also_where_other_phases_share_the_epoch(
    monkeypatch,
):
    looks, told = {}, Pressure.terms

    def noted(self, gated, progress, look):
        terms = told(self, gated, progress, look)
        looks.setdefault(int(progress * RESTING.epochs), []).append((terms.budget.item(), terms.polar.item()))
        return terms

    monkeypatch.setattr(Pressure, "terms", noted)
    history = train_one_pass(RESTING).history
    assert sorted(looks) == [0, 1]  # with the warm-up before them in the first
    for epoch, of_looks in looks.items():
        means = torch.tensor(of_looks, dtype=torch.float64).mean(0).tolist()
        assert [history[epoch]["budget"], history[epoch]["polar"]] == pytest.approx(means, rel=1e-6)
    assert 0.6 < history[0]["kept"] < 1


def test_a_look_changes_gates():
    state = at_a_step(start(RESTING), "select", is_look=True)
    gates = [parameter.clone() for parameter in state.gated.gate_parameters()]
    _PHASES["select"](state, state.step + 1)
    assert not all(map(torch.equal, gates, state.gated.gate_parameters()))


def test_training_is_reckoned_by_what_was_cut():
    state = start(RESTING)
    while state.phase != "done":
        _PHASES[state.phase](state, state.n_steps)
    result = finished(state)
    looks, *rests = result.training_parts["select"]
    spent = result.spent["select"]
    assert looks.n_trained + sum(rest.n_trained for rest in rests) == spent.n_trained
    n_looks = sum(step % 3 == 0 for step in range(10, 10 + spent.n_steps))
    assert looks.n_trained == n_looks * RESTING.optimiser.batch_size
    assert looks.cost.macs > result.dense_cost.macs  # with the gates' own
    assert min(rest.cost.macs for rest in rests) < 0.9 * result.dense_cost.macs
    by_hand = sum(
        part.cost.macs * (TRAINING_FACTOR * part.n_trained + part.n_passed)
        for parts in result.training_parts.values()
        for part in parts
    )
    assert result.train_macs == by_hand


def test_the_price_of_a_rest_is_that_of_the_network_cut_by_its_mask():
    state = at_a_step(start(RESTING), "select", is_look=False)
    _PHASES["select"](state, state.step + 1)
    rest = state.rests[-1]
    masks = {name: rest.kept_V[place] for name, place in state.gated.group_slices.items()}
    example = example_images(state.data, "cpu")
    assert rest.cost.macs == count_cost(extract(state.gated, masks), example).macs


@pytest.mark.slow
def test_a_run_saved_at_a_look_or_in_a_rest_ends_bit_identical(tmp_path):
    state = start(RESTING)
    while state.phase != "done":
        _PHASES[state.phase](state, state.step + 1)
    whole = finished(state)
    for step in (11, 12, 13, 40, 41):
        state = start(RESTING)
        while state.step < step:
            _PHASES[state.phase](state, state.step + 1)
        state.save(tmp_path / "checkpoint.pt")
        fresh = start(RESTING)
        fresh.load(tmp_path / "checkpoint.pt")
        while fresh.phase != "done":
            _PHASES[fresh.phase](fresh, fresh.step + 1)
        result = finished(fresh)
        assert result.history == whole.history, step
        assert result.train_macs == whole.train_macs
        for name, value in whole.network.state_dict().items():
            assert torch.equal(value, result.network.state_dict()[name]), name


@pytest.mark.slow
def test_a_compiled_network_rests_with_its_gates_held():
    config = dataclasses.replace(RESTING, execution=ExecutionConfig(compile=True))
    state = at_a_step(start(config), "select", is_look=False)
    average = state.pressure.open_average_V.clone()
    while not state.looks:
        _PHASES["select"](state, state.step + 1)
    assert state.gated.mode == "dynamic"
    assert torch.equal(average, state.pressure.open_average_V)
    while state.phase != "done":
        _PHASES[state.phase](state, state.n_steps)
    result = finished(state)
    assert result.val_accuracy > 0.5
    assert result.cost.macs <= 0.6 * result.dense_cost.macs


def test_gates_agree_on_whole_blocks_and_never_empty_a_layer():
    gates = GateConfig(look_every=2, round_to=2)
    state = start(dataclasses.replace(SMALL, gates=gates))
    pressure: Pressure = state.pressure
    pressure.open_average_V = torch.full_like(pressure.open_average_V, 0.2)
    pressure.agree()
    for name, place in state.gated.group_slices.items():
        kept = int(pressure.agreed_V[place].sum())
        assert kept >= 2, name
        assert kept % 2 == 0, name
    assert int(pressure.agreed_V.sum()) < len(pressure.agreed_V) / 2


def test_gates_look_at_every_step_of_a_short_phase(monkeypatch):
    monkeypatch.undo()
    state = start(RESTING)
    assert state.look_every == 1
    longer = dataclasses.replace(RESTING, epochs=20)
    assert start(longer).look_every == 3
    assert start(dataclasses.replace(longer, gates=GateConfig(granularity="both"))).look_every == 1


def test_a_rest_in_half_precision_is_priced_as_its_neighbours_are(tmp_path):
    config = dataclasses.replace(RESTING, execution=ExecutionConfig(precision="bfloat16"))
    state = at_a_step(start(config), "select", is_look=False)
    _PHASES["select"](state, state.step + 1)
    assert state.rests[-1].cost.dtype == state.dense_cost.dtype == "float32"
    state.save(tmp_path / "checkpoint.pt")
    fresh = start(config)
    fresh.load(tmp_path / "checkpoint.pt")
    assert fresh.rests[-1].cost == state.rests[-1].cost


def test_a_record_from_before_rests_looked_at_every_step_and_keeps_its_identity():
    every_step = dataclasses.replace(SMALL, gates=dataclasses.replace(SMALL.gates, look_every=1))
    record = every_step.to_dict()
    del record["gates"]["look_every"]
    old = type(SMALL).from_dict(record)
    assert old.gates.look_every == 1
    assert old.config_hash == every_step.config_hash != RESTING.config_hash
    assert type(SMALL).from_dict({"gates": {"noise": 0.1}}).gates.look_every == GateConfig().look_every
