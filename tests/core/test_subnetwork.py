import hashlib
import json
import pickle
import subprocess
import sys

import pytest
import torch
from torch import fx, nn
from torchvision.models import densenet121, efficientnet_b0, mobilenet_v3_small, regnet_y_400mf, resnet18

from greenprune_core.config import BudgetConfig, DataConfig, GateConfig, NetworkConfig, OptimiserConfig, TrialConfig
from greenprune_core.data import load_data
from greenprune_core.errors import ConfigError, UnsupportedNetworkError, VerificationError
from greenprune_core.export import export_subnetwork
from greenprune_core.extract import extract
from greenprune_core.gates import attach_gates
from greenprune_core.portable_graph import describe, rebuild
from greenprune_core.subnetwork import load_subnetwork, save_subnetwork
from hpsearch.trial import run_trial

MEAN_STD = {"mean": [0.2, 0.3, 0.4], "std": [0.5, 0.6, 0.7]}
CARD = {
    "trial_id": "t1",
    "task": "image-classification",
    "data": "digits",
    "classes": ["zero", "one", "two", "three"],
    "accuracy": {"validation": {"value": 0.9, "n": 100}},
    "energy": {"joules": 1e-3, "source": "model:horowitz-45nm"},
    "macs": 100,
    "dense": {"macs": 200},
}


class Small(nn.Module):
    """A residual block, a constant, a pooling, a head: what a cut network is made of."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(6)
        self.conv2 = nn.Conv2d(6, 6, 3, padding="same", groups=2)
        self.constant = nn.Parameter(torch.rand(1, 6, 1, 1))
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        x = torch.relu(self.bn1(self.conv1(x)))
        x = x + self.conv2(x) + self.constant
        return self.head(torch.flatten(nn.functional.adaptive_avg_pool2d(x, (1, 1)), 1))


@pytest.fixture
def network():
    torch.manual_seed(0)
    network = Small()
    network(torch.rand(32, 3, 8, 8) * 3)  # running statistics away from their defaults
    return network.eval()


@pytest.fixture
def images():
    return torch.rand(5, 3, 8, 8)


@pytest.fixture
def folder(network, images, tmp_path):
    save_subnetwork(tmp_path / "t1", network, images[:1], CARD | {"normalisation": MEAN_STD})
    return tmp_path / "t1"


def normalise(images):
    mean, std = (torch.tensor(MEAN_STD[name]).reshape(1, 3, 1, 1) for name in ("mean", "std"))
    return (images - mean) / std


def test_the_loaded_network_takes_raw_images_and_answers_exactly_the_same(network, images, folder):
    loaded = load_subnetwork(folder)
    assert torch.equal(loaded(images), network(normalise(images)))


def test_saving_leaves_the_network_as_it_was(network, images, tmp_path):
    graph = fx.symbolic_trace(network).train()
    before = graph.code
    save_subnetwork(tmp_path / "x", graph, images, {"normalisation": MEAN_STD})
    assert graph.code == before
    assert graph.training


def test_a_network_trained_with_channels_last_is_saved_and_the_callers_random_state_left(network, images, tmp_path):
    laid_out = network.to(memory_format=torch.channels_last)
    before = torch.get_rng_state()
    save_subnetwork(tmp_path / "x", laid_out, images, {"normalisation": MEAN_STD})
    assert torch.equal(torch.get_rng_state(), before)
    assert laid_out.conv1.weight.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(load_subnetwork(tmp_path / "x")(images), laid_out(normalise(images)))


def test_the_exported_program_takes_any_batch_size(network, images, folder):
    program = torch.export.load(folder / "program.pt2").module()
    for n_images in (1, 2, 5):
        torch.testing.assert_close(program(images[:n_images]), network(normalise(images[:n_images])))


def test_the_loaded_network_can_be_trained_further(images, folder):
    loaded = load_subnetwork(folder).train()
    mean_before = loaded.bn1.running_mean.clone()
    optimiser = torch.optim.SGD(loaded.parameters(), lr=0.1)
    labels = torch.tensor([0, 1, 2, 3, 0])
    losses = []
    for _ in range(20):
        loss = nn.functional.cross_entropy(loaded(images), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.02
    assert not torch.equal(loaded.bn1.running_mean, mean_before)


def test_the_card_is_complete_and_its_hashes_are_those_of_the_files(folder):
    card = json.loads((folder / "card.json").read_text())
    assert card["input_shape"] == [3, 8, 8]
    assert card["params"] == sum(parameter.numel() for parameter in Small().parameters())
    assert card["trial_id"] == "t1"
    for name in ("weights.safetensors", "program.pt2"):
        assert card["files"][name] == hashlib.sha256((folder / name).read_bytes()).hexdigest()


@pytest.mark.parametrize("name", ["weights.safetensors", "program.pt2"])
def test_a_changed_file_is_refused_by_its_hash(folder, name):
    content = bytearray((folder / name).read_bytes())
    content[-1] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(ConfigError, match=rf"hash is the one on the card .*{name}"):
        load_subnetwork(folder)


def test_a_missing_file_or_card_is_named(folder, tmp_path):
    (folder / "program.pt2").unlink()
    with pytest.raises(ConfigError, match=r"program\.pt2 is missing"):
        load_subnetwork(folder)
    with pytest.raises(ConfigError, match=r"holds card\.json, but"):
        load_subnetwork(tmp_path / "nowhere")


def test_loading_never_unpickles(folder, images, monkeypatch):
    def refuse(*arguments, **keywords):
        raise AssertionError("something was unpickled")

    monkeypatch.setattr(pickle, "load", refuse)
    monkeypatch.setattr(pickle, "loads", refuse)
    monkeypatch.setattr(pickle, "Unpickler", refuse)
    monkeypatch.setattr(torch, "load", refuse)
    assert load_subnetwork(folder)(images).shape == (5, 4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"accuracy": {"test": {"value": 93.0}}}, "divide percents by 100"),
        ({"macs": "many"}, "macs is of type int"),
        ({"normalisation": {"mean": [0.1], "std": [1.0]}}, "mean and std for 3 channels"),
    ],
)
def test_a_card_that_is_not_valid_is_refused(network, images, tmp_path, change, message):
    with pytest.raises(ConfigError, match=message):
        save_subnetwork(tmp_path / "x", network, images, CARD | change)


def test_a_card_of_a_newer_version_is_refused(folder):
    card = json.loads((folder / "card.json").read_text())
    (folder / "card.json").write_text(json.dumps(card | {"schema_version": 99}))
    with pytest.raises(ConfigError, match="install a newer one"):
        load_subnetwork(folder)


@pytest.mark.parametrize("build", [resnet18, mobilenet_v3_small, densenet121])
def test_networks_of_torchvision_come_back_exactly(build):
    network = fx.symbolic_trace(build(num_classes=5).eval())
    again = rebuild(json.loads(json.dumps(describe(network))), network.state_dict())
    images = torch.rand(2, 3, 64, 64)
    assert torch.equal(again(images), network(images))


@pytest.mark.slow
@pytest.mark.parametrize("build", [efficientnet_b0, regnet_y_400mf])
def test_cut_networks_with_stochastic_depth_or_hyphens_in_names_are_saved_and_come_back(build, tmp_path):
    images = torch.rand(2, 3, 64, 64)
    gated = attach_gates(build(num_classes=5), images[:1])
    static = extract(gated, {name: torch.arange(n) < max(1, n // 2) for name, n in gated.groups.items()})
    save_subnetwork(tmp_path / "x", static, images[:1], {})
    again = load_subnetwork(tmp_path / "x")
    with torch.no_grad():
        assert torch.equal(again(images), static.eval()(images))


def test_a_layer_of_ones_own_is_refused_with_its_name():
    class Odd(nn.ReLU):
        pass

    network = nn.Sequential(Odd())
    tracer = fx.Tracer()
    tracer.is_leaf_module = lambda module, name: isinstance(module, Odd)
    graph = fx.GraphModule(network, tracer.trace(network))
    with pytest.raises(UnsupportedNetworkError, match=r"layers of torch\.nn"):
        describe(graph)


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"op": "call_function", "target": "os.system", "args": ["true"]}, "only pure functions"),
        ({"op": "call_function", "target": "getattr", "args": [{"node": "x"}, "__class__"]}, "only shapes"),
        ({"op": "call_method", "target": "untyped_storage", "args": [{"node": "x"}]}, "only pure methods"),
        ({"op": "get_attr", "target": "a;import os", "args": []}, "is an identifier"),
        ({"op": "exec", "target": "x", "args": []}, "a node is a call"),
    ],
)
def test_a_description_from_a_stranger_cannot_reach_other_code(node, message):
    nodes = [{"name": "x", "op": "placeholder", "target": "x", "args": [], "kwargs": {}}]
    nodes.append({"name": "evil", "kwargs": {}} | node)
    with pytest.raises(UnsupportedNetworkError, match=message):
        rebuild({"format": 1, "layers": {}, "tensors": {}, "nodes": nodes}, {})


def test_a_node_named_like_code_is_refused():
    node = {"name": "x\nimport os", "op": "placeholder", "target": "x", "args": [], "kwargs": {}}
    with pytest.raises(UnsupportedNetworkError, match="is an identifier"):
        rebuild({"format": 1, "layers": {}, "tensors": {}, "nodes": [node]}, {})


def test_a_layer_with_hidden_state_is_caught_at_saving(images, tmp_path):
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.LazyLinear(3)).eval()
    network(images)
    network[1].eps = 0.5  # kept: an argument of the constructor
    save_subnetwork(tmp_path / "kept", network, images, {})
    network[0].register_forward_hook(lambda module, inputs, output: output + 1)
    graph = fx.symbolic_trace(network)
    with pytest.raises(VerificationError, match="keeps state outside"):
        save_subnetwork(tmp_path / "hooked", graph, images, {})


def test_an_export_writes_what_was_asked_and_overwrites_nothing(folder, images, tmp_path):
    to = tmp_path / "out"
    written = export_subnetwork(folder, to, ["pt2", "card"])
    assert sorted(path.name for path in written) == ["README.md", "card.json", "program.pt2"]
    assert sorted(path.name for path in to.iterdir()) == ["README.md", "card.json", "program.pt2"]
    before = (to / "card.json").read_bytes()
    with pytest.raises(ConfigError, match="overwrites nothing"):
        export_subnetwork(folder, to, ["safetensors"])
    assert (to / "card.json").read_bytes() == before
    export_subnetwork(folder, to, ["pt2", "safetensors"], force=True)
    assert load_subnetwork(to)(images).shape == (5, 4)


def test_the_model_card_shows_figures_with_their_n_and_source(folder, tmp_path):
    export_subnetwork(folder, tmp_path / "out", ["card"])
    text = (tmp_path / "out" / "README.md").read_text()
    assert text.startswith("---\nlibrary_name:")
    assert "| accuracy, validation | 90.00% (n = 100) |" in text
    assert "0.001 J (model:horowitz-45nm)" in text
    assert "100 (50% of the dense network)" in text


@pytest.mark.parametrize(
    ("formats", "use"),
    [
        (["safetensors", "card"], 'load_subnetwork(".")'),
        (["card", "pt2", "safetensors"], 'torch.export.load("program.pt2")'),
        (["card"], None),
    ],
)
def test_the_model_card_shows_how_the_files_beside_it_are_used(folder, tmp_path, formats, use):
    export_subnetwork(folder, tmp_path / "out", formats)
    text = (tmp_path / "out" / "README.md").read_text()
    assert ("## Use" in text) == (use is not None)
    assert use is None or use in text
    files = {"program.pt2", "weights.safetensors"}
    assert {name for name in files if f'"{name}": ' in text} == files & {
        path.name for path in (tmp_path / "out").iterdir()
    }


@pytest.mark.slow
def test_onnx_agrees_with_the_network_in_another_runtime(folder, images, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    export_subnetwork(folder, tmp_path / "out", ["onnx"])
    session = onnxruntime.InferenceSession(tmp_path / "out" / "network.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"images": images.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), load_subnetwork(folder)(images), atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_every_format_gives_the_accuracy_of_the_card_on_the_test_images(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    config = TrialConfig(
        network=NetworkConfig(name="cifar_resnet8", width=4),
        data=DataConfig(name="digits"),
        budget=BudgetConfig(target=0.6),
        gates=GateConfig(learning_rate_factor=5.0),
        optimiser=OptimiserConfig(batch_size=32),
        epochs=3,
    )
    row = run_trial(config, tmp_path / "t1")
    data = load_data(config.data)
    batches = list(data.plain_batches("test", 512))
    mean, std = data.mean.reshape(1, -1, 1, 1), data.std.reshape(1, -1, 1, 1)
    raw = torch.cat([images for images, _ in batches]) * std + mean
    labels = torch.cat([labels for _, labels in batches])
    export_subnetwork(tmp_path / "t1", tmp_path / "out", ["pt2", "safetensors", "onnx"])
    session = onnxruntime.InferenceSession(tmp_path / "out" / "network.onnx", providers=["CPUExecutionProvider"])
    with torch.no_grad():
        answers = {
            "eager": load_subnetwork(tmp_path / "out")(raw),
            "pt2": torch.export.load(tmp_path / "out" / "program.pt2").module()(raw),
            "onnx": torch.from_numpy(session.run(None, {"images": raw.numpy()})[0]),
        }
    assert 0.3 < row["test_accuracy"] < 1.0
    assert len(raw) == row["n_test"]
    for name, logits in answers.items():
        assert torch.equal(logits.argmax(1), answers["eager"].argmax(1)), name
        assert float((logits.argmax(1) == labels).double().mean()) == row["test_accuracy"], name


def test_without_the_extra_onnx_says_what_to_install(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'greenprune\[onnx\]'"):
        export_subnetwork(folder, tmp_path / "out", ["onnx"])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("name", "reason"), [("torchscript", "deprecated"), ("gif", "one of pt2, safetensors")])
def test_other_formats_are_refused_with_the_reason(folder, tmp_path, name, reason):
    with pytest.raises(ConfigError, match=reason):
        export_subnetwork(folder, tmp_path / "out", ["pt2", name])
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_program_runs_where_greenprune_is_not(folder):
    code = (
        "import sys, torch; sys.modules['greenprune_core'] = None\n"
        "network = torch.export.load('program.pt2').module()\n"
        "print(tuple(network(torch.rand(7, 3, 8, 8)).shape))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "(7, 4)", done.stderr
