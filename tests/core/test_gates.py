"""Gates decide, repeat themselves at evaluation, can be frozen, and cost nothing while they are open."""

import copy
import pickle

import pytest
import torch
from gated_cases import enliven, images_for, make_masks, small
from torch import Tensor, nn
from torch.nn import functional

from greenprune_core.errors import ConfigError
from greenprune_core.extract import extract, verify
from greenprune_core.gates import GatedNetwork, attach_gates, families, gate_maker
from greenprune_core.gates.families import Gate

FAMILIES = ("head", "free", "hard_concrete")
NAMES = ("cifar_resnet8", "mixed", "plain", "tiny_vit")


def gated(name: str = "cifar_resnet8", granularity: str = "both", **gate: object) -> tuple[GatedNetwork, Tensor]:
    torch.manual_seed(0)
    images = images_for(name, n=4)
    network = enliven(small(name), images).eval()
    return attach_gates(network, images[:1], granularity, **gate), images  # type: ignore[arg-type]


@pytest.mark.parametrize("name", NAMES)
def test_open_gates_leave_the_outputs_as_they_were(name: str) -> None:
    images = images_for(name)
    network = enliven(small(name), images).eval()
    expected = network(images)
    network_gated = attach_gates(network, images[:1], "both").eval()
    tolerance = 1e-6 if name == "tiny_vit" else 0.0  # attention is written out, so it is rounded otherwise
    torch.testing.assert_close(network_gated(images), expected, rtol=tolerance, atol=tolerance)
    network_gated.release_gates()
    torch.testing.assert_close(network_gated(images), expected, rtol=tolerance, atol=tolerance)
    network_gated.freeze({})
    torch.testing.assert_close(network_gated(images), expected, rtol=tolerance, atol=tolerance)


def test_attaching_leaves_the_network_untouched() -> None:
    network = enliven(small("mixed"), images_for("mixed"))
    network.zero_grad()
    before = copy.deepcopy(network.state_dict())
    attached = attach_gates(network, images_for("mixed"))
    attached.train()(images_for("mixed")).sum().backward()
    with torch.no_grad():
        for parameter in attached.parameters():
            parameter.zero_()
    assert all(parameter.grad is None for parameter in network.parameters())
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(tensor, before[name])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", NAMES)
def test_every_family_reports_decisions_and_learns(name: str, family: str) -> None:
    network, images = gated(name, "both", family=family)
    network.train().release_gates()
    logits = network(images)
    assert network.open_probability.shape == network.decision_mean.shape == (network.n_gates,)
    assert network.decisions.shape == (4, network.n_gates)
    assert not network.decisions.requires_grad
    torch.testing.assert_close(network.decision_mean, network.decisions.mean(0))
    (logits.square().sum() + network.open_probability.sum() + network.decision_mean.sum()).backward()
    gradients = [p.grad for p in network.gate_parameters()]
    assert gradients
    assert all(g is not None and bool(g.isfinite().all()) for g in gradients)
    assert any(bool(g.abs().max() > 0) for g in gradients)


@pytest.mark.parametrize("family", FAMILIES)
def test_at_evaluation_decisions_are_binary_and_repeat_themselves(family: str) -> None:
    network, images = gated(family=family, noise=5.0)
    network.eval().release_gates()
    first, decisions = network(images), network.decisions
    assert set(decisions.unique().tolist()) <= {0.0, 1.0}
    torch.testing.assert_close(network(images), first, rtol=0, atol=0)
    network.train()
    network(images)
    while_training = network.decisions
    network(images)
    assert not torch.equal(network.decisions, while_training), "noise acts while training"


@pytest.mark.parametrize("family", FAMILIES)
def test_gates_start_open_with_the_asked_probability(family: str) -> None:
    network, images = gated(family=family, initial_open=0.8)
    network.eval().release_gates()
    network(images)
    torch.testing.assert_close(network.open_probability, torch.full((network.n_gates,), 0.8), atol=0.03, rtol=0)
    assert bool((network.decisions == 1).all())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("end", [-100.0, 100.0])
def test_a_saturated_gate_gets_the_gradients_that_lead_back_and_no_others(family: str, end: float) -> None:
    gate = gate_maker(family, initial_open=0.9, noise=0.0, hidden=4)(3, 2)
    parameter = gate.decide.bias if family == "head" else next(gate.parameters())
    with torch.no_grad():
        parameter.fill_(end)
    p, g = gate.eval()(torch.randn(5, 3))
    assert bool((g == float(end > 0)).all())
    (p.sum() + g.sum()).backward()  # a step down closes
    gradient = parameter.grad.clone()
    parameter.grad = None
    p, g = gate(torch.randn(5, 3))
    (-p.sum() - g.sum()).backward()  # a step down opens
    back, out = (gradient, parameter.grad) if end > 0 else (parameter.grad, gradient)
    assert bool((back.abs() > 1e-3).all())
    assert bool((out == 0).all())


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_gradients_are_the_same_in_few_operations_and_in_those_that_a_compiler_sees(noise: float) -> None:
    values = torch.linspace(-8, 8, 33).reshape(1, -1)
    gradients = []
    for decide in (families._StraightThrough.apply, lambda *given: families._decide(*given)[:2]):
        torch.manual_seed(0)
        logits = values.clone().requires_grad_()
        p, g = decide(logits, noise)
        (p * torch.linspace(-1, 1, 33) + g.square()).sum().backward()
        gradients.append(logits.grad)
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_noise_has_its_tails_in_every_precision(dtype: torch.dtype) -> None:
    """Drawn in bfloat16 one in 500 would be -13.8, and none above 5.5."""
    torch.manual_seed(0)
    noise = families._logistic(torch.zeros(200_000, dtype=dtype))
    assert noise.dtype == dtype
    for tail in (noise > 6, noise < -6):  # each 0.0025 of the distribution
        assert float(tail.double().mean()) == pytest.approx(0.00247, rel=0.2)
    assert float((noise < -11).double().mean()) < 1e-4


def test_a_closed_channel_is_zero_for_its_readers_and_a_closed_branch_leaves_the_shortcut() -> None:
    network, images = gated("plain", "channel")
    weight = network.network.get_submodule("2").weight
    mask = torch.tensor([True, False, True, True, False, True])
    network.freeze({"0": mask})
    got = network(images)
    with torch.no_grad():
        weight[:, ~mask] = 0
    network.open_gates()
    torch.testing.assert_close(got, network(images))


def test_the_consensus_is_the_majority_of_counted_images_with_a_floor() -> None:
    network, images = gated("plain", "channel", floor=2)
    network.release_gates()
    network.train()
    network.start_statistics()
    network(images)
    with pytest.raises(ConfigError, match="a consensus needs statistics"):
        network.freeze()
    network.eval()
    network(images)
    network(images[:1])
    torch.testing.assert_close(network.open_fraction, torch.ones(network.n_gates, dtype=torch.float64))
    votes = torch.tensor([3, 2, 0, 1, 2, 5]).double()
    place = network.group_slices["0"]
    network._n_open[place] = votes  # of five images
    network._n_open[network.group_slices["2"]] = torch.tensor([0, 0, 1, 0, 2, 0, 0, 0]).double()
    torch.testing.assert_close(network.disagreement[place], torch.tensor([2, 2, 0, 1, 2, 0]).double() / 5)
    masks = network.consensus()
    assert masks["0"].tolist() == [True, False, False, False, False, True]
    assert masks["2"].nonzero().reshape(-1).tolist() == [2, 4], "the floor opens the two most often open"
    network.freeze()
    assert torch.equal(network.masks["0"], masks["0"])
    assert network.mode == "frozen"


def test_names_in_the_state_are_the_same_in_all_modes_and_masks_travel() -> None:
    network, images = gated("mixed", "channel")
    names = set(network.state_dict())
    assert not [name for name in names if "_gated" in name]
    parameters = [name for name, _ in network.named_parameters() if name.startswith("network.")]
    assert {name.removeprefix("network.") for name in parameters} == {
        name for name, _ in small("mixed").named_parameters()
    }
    network.release_gates()
    assert set(network.state_dict()) == names
    mask = torch.zeros(4, dtype=torch.bool)
    mask[1:3] = True
    network.freeze({"stem": mask})
    assert set(network.state_dict()) == names
    other, _ = gated("mixed", "channel")
    other.load_state_dict(network.state_dict())
    other.freeze(other.masks)
    torch.testing.assert_close(other.eval()(images), network.eval()(images), rtol=0, atol=0)
    verify(other, extract(other), images)


def test_copies_and_conversions_keep_modes_together() -> None:
    network, images = gated("mixed", "channel")
    network.eval().release_gates()
    doubled = copy.deepcopy(network).double()
    assert doubled(images.double()).dtype == torch.float64
    torch.testing.assert_close(doubled(images.double()).float(), network(images))
    with torch.no_grad():
        doubled.network.get_parameter("scale").zero_()
    doubled.open_gates()
    dense = doubled(images.double())
    doubled.release_gates()
    torch.testing.assert_close(doubled(images.double()), dense)
    assert bool((network.network.get_parameter("scale") != 0).all())


def test_a_copy_after_a_training_step_is_cut_as_the_original_is() -> None:
    network, images = gated("cifar_resnet8", "both")
    network.train().release_gates()
    functional.cross_entropy(network(images), torch.arange(len(images))).backward()
    network.eval()
    twin = copy.deepcopy(network)
    masks = make_masks(network, "random halves")
    cuts = [extract(one, masks) for one in (network, twin)]
    for one, static in zip((network, twin), cuts, strict=True):
        verify(one, static, images)
    sizes = [{name: tuple(p.shape) for name, p in static.named_parameters()} for static in cuts]
    assert sizes[0] == sizes[1]
    assert sum(p.numel() for p in cuts[1].parameters()) < sum(p.numel() for p in twin.network.parameters())
    before = cuts[0](images)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    torch.testing.assert_close(extract(network, masks).eval()(images), before, rtol=0, atol=0)


def test_a_gated_network_is_not_pickled_but_told_how_it_is_stored() -> None:
    network, _ = gated("plain", "channel")
    with pytest.raises(ConfigError, match=r"stored by its state_dict\(\)"):
        pickle.dumps(network)


def test_warm_up_runs_no_gate() -> None:
    network, images = gated()
    called: list[nn.Module] = []
    for module in network.gates.modules():
        module.register_forward_hook(lambda module, inputs, output: called.append(module))
    network.train()(images)
    assert not called
    network.release_gates()
    network(images)
    assert called


def test_noise_is_set_for_all_gates_and_revived_gates_open() -> None:
    network, images = gated("plain", "channel", family="free")
    network.set_noise(0.0)
    assert {module.noise for module in network.modules() if isinstance(module, Gate)} == {0.0}
    with pytest.raises(ConfigError, match="noise needs a scale >= 0, but got -1"):
        network.set_noise(-1)
    with pytest.raises(ConfigError, match="noise needs a scale >= 0, but got nan"):
        network.set_noise(float("nan"))
    with torch.no_grad():
        for parameter in network.gate_parameters():
            parameter.fill_(-3)
    network.revive([1, network.n_gates - 1])
    network.eval().release_gates()
    network(images)
    assert network.decisions[0].nonzero().reshape(-1).tolist() == [1, network.n_gates - 1]


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ({"5": torch.ones(6, dtype=torch.bool)}, "belongs to a group of the network, but got '5'"),
        ({"0": torch.ones(5, dtype=torch.bool)}, r"one entry per gate \(6\), but got shape \(5,\)"),
        ({"0": torch.ones(0, dtype=torch.bool)}, r"one entry per gate \(6\), but got shape \(0,\)"),
        ({"0": torch.full((6,), 0.5)}, "True and False only"),
        ({"0": [True] * 6}, "a tensor of bool, but that of '0' is of type list"),
    ],
)
def test_a_wrong_mask_is_named(masks: dict[str, Tensor], message: str) -> None:
    network, _ = gated("plain", "channel")
    for act in (network.freeze, lambda given: extract(network, given)):
        with pytest.raises(ConfigError, match=message):
            act(masks)
    assert network.mode == "open"


def test_wrong_settings_of_gates_are_named() -> None:
    images = images_for("plain")
    for settings, message in (
        ({"family": "gumbel"}, "head, free, hard_concrete, but got 'gumbel'"),
        ({"initial_open": 0.5}, r"initial_open lies in \(0.5, 1\)"),
        ({"temperature": 1.0}, "but got 'temperature'"),
        ({"noise": -0.1}, "noise needs at least 0, but got -0.1"),
        ({"hidden": 0}, "hidden needs at least 1, but got 0"),
        ({"floor": -1}, "floor needs at least 1, but got -1"),
        ({"floor": 1.5}, "floor needs a value of type int, but got 1.5"),
        ({"hidden": 2.5}, "hidden needs a value of type int, but got 2.5"),
        ({"initial_open": "0.9"}, "initial_open needs a value of type float, but got '0.9'"),
        ({"noise": float("nan")}, "noise needs at least 0, but got nan"),
        ({"streams": "no"}, "streams needs a value of type bool, but got 'no'"),
        ({"ignore": None}, r"list of names of layers, but got None.*or none: \[\]"),
        ({"ignore": [0]}, r"list of names of layers, but got \[0\]"),
    ):
        with pytest.raises(ConfigError, match=message):
            attach_gates(small("plain"), images, **settings)  # type: ignore[arg-type]


def test_what_is_no_network_is_named() -> None:
    with pytest.raises(ConfigError, match=r"a torch.nn.Module, but got str"):
        attach_gates("resnet", torch.zeros(1, 3, 8, 8))  # type: ignore[arg-type]


def test_gates_work_in_half_precision_and_in_the_other_memory_format() -> None:
    network, images = gated("mixed", "channel")
    network.train().release_gates()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = network(images)
    assert logits.dtype == torch.bfloat16
    (logits.float().square().sum() + network.decision_mean.sum()).backward()
    assert all(bool(p.grad.isfinite().all()) for p in network.parameters() if p.grad is not None)
    network.eval()
    expected = network(images)
    other = network.to(memory_format=torch.channels_last)
    torch.testing.assert_close(other(images.contiguous(memory_format=torch.channels_last)), expected)


@pytest.mark.slow
def test_a_gated_network_compiles_as_one_graph() -> None:
    network, images = gated("cifar_resnet8", "both")
    network.train().release_gates()
    network.set_noise(0.0)
    expected = network(images)
    probability = network.open_probability
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(images), expected)
    torch.testing.assert_close(network.open_probability, probability)
    network.open_probability.sum().backward()
