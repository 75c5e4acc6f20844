"""What README and docs say can be done: commands and options exist, links lead somewhere, README's Python runs."""

import re
from pathlib import Path

import click
import pytest
import torch

from greenprune_core import build_network
from greenprune_core.config import NetworkConfig
from hpsearch.cli import COMMANDS, hpsearch
from search_spaces import draws

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
COMMAND = re.compile(rf"hpsearch +({'|'.join(COMMANDS)})\b((?: +(?!hpsearch\b)[^\s`#|]+| +\|)*)")
OPTION = re.compile(r"--[a-z][a-z-]*")


def python_blocks():
    return re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)


def block_with(text):
    (found,) = [block for block in python_blocks() if text in block]
    return found


def options_of(command):
    found = hpsearch.get_command(click.Context(hpsearch), command)
    return {opt for parameter in found.params for opt in (*parameter.opts, *parameter.secondary_opts)} | {"--help"}


def slug(heading):
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_commands_have_the_options_with_which_they_are_shown():
    shown = [(page.name, *found) for page in PAGES for found in COMMAND.findall(page.read_text())]
    assert {command for _, command, _ in shown} == set(COMMANDS)
    wrong = [(page, command, set(OPTION.findall(rest)) - options_of(command)) for page, command, rest in shown]
    assert [each for each in wrong if each[2]] == []
    assert sum(len(OPTION.findall(rest)) for _, _, rest in shown) > 50


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if not link.startswith("http"):
            path, _, anchor = link.partition("#")
            target = (page.parent / path) if path else page
            assert target.exists(), link
            text = re.sub(r"```.*?```", "", target.read_text(), flags=re.DOTALL) if anchor else ""
            assert not anchor or anchor in map(slug, re.findall(r"^#+ (.*)$", text, re.MULTILINE)), link


def test_the_readmes_gates_are_attached_frozen_cut_and_folded():
    network = build_network(NetworkConfig(name="cifar_resnet8", width=4), n_classes=3, in_channels=1, image_size=8)
    images = torch.rand(4, 1, 8, 8)
    names = {"network": network, "example_input": images[:1], "images": images}
    exec(compile(block_with("attach_gates("), "README.md", "exec"), names)
    torch.testing.assert_close(names["fast"](images), names["gated"](images))


def test_the_readmes_space_draws_what_it_says():
    names = {}
    exec(compile(block_with("SearchSpace("), "README.md", "exec"), names)
    assert set(draws(names["space"])) == {"target", "learning_rate"}


@pytest.mark.slow
def test_the_readmes_training_keeps_its_budget():
    source = block_with("train_one_pass(config)")
    shorter = source.replace("epochs=10", "epochs=2").replace("cifar_resnet20", "cifar_resnet8")
    assert len(shorter) < len(source)
    names = {}
    exec(compile(shorter, "README.md", "exec"), names)
    assert names["result"].cost.macs <= 0.5 * names["result"].dense_cost.macs
