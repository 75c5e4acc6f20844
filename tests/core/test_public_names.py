import subprocess
import sys

import pytest
import torch
import torchvision


@pytest.mark.slow
def test_functions_are_not_hidden_by_the_files_of_their_names():
    code = (
        "import greenprune_core.extract, greenprune_core.subnetwork\n"
        "from greenprune_core import __all__, extract, verify\n"
        "import greenprune_core\n"
        "functions = [extract, verify, greenprune_core.extract]\n"
        "functions += [getattr(greenprune_core, name) for name in __all__]\n"
        "print(len(functions), [each for each in functions if not callable(each)])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.split(" ", 1)[1:] == ["[]\n"], done.stderr
    assert int(done.stdout.split()[0]) > 10


@pytest.mark.parametrize("mode", ["layer", "both"])
def test_a_cut_network_trains_where_in_place_layers_lost_their_addition(mode):
    from greenprune_core import attach_gates, extract

    network = torchvision.models.resnet18(num_classes=4)
    gated = attach_gates(network, torch.zeros(1, 3, 32, 32), granularity=mode)
    gated.freeze(
        {
            name: torch.zeros(n, dtype=torch.bool).index_fill(0, torch.tensor(0), mode == "both")
            for name, n in gated.groups.items()
        }
    )
    static = extract(gated).train()
    static(torch.randn(4, 3, 32, 32)).sum().backward()
    assert all(p.grad is not None for p in static.parameters())
