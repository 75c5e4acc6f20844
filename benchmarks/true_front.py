"""How near a search comes to the true front, where every sub-network can be trained: 6 gates, 64 sub-networks.

    python benchmarks/true_front.py [--trials 24] [--epochs 12]

The network is ResNet-14 on real digits with one gate on each residual branch. The true front comes from training each
of the 2^6 sub-networks from fresh weights, with the space's known-good recipe and the epochs of a trial, nothing
pruned. The searched one comes from one-pass trials of the space that draw the kept share and all else
(`--set granularity=layer`). Both have one seed per sub-network, so both profit from luck; the true one, a maximum over
64 trainings, more. One process, no Ray. What is done is kept in results/true_front.jsonl (not in git), so that a run
that was cut off goes on. Result: benchmarks/results/true_front-<date>.json.
"""

import argparse
import itertools
import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from results_file import RESULTS, write_result

from greenprune_core.config import TrialConfig
from greenprune_core.data import load_data
from greenprune_core.gates import attach_gates
from greenprune_core.networks import build_network
from greenprune_core.uniform import cut_fresh
from hpsearch.objectives import choose
from hpsearch.pareto import front_mask, hypervolume
from hpsearch.storage import RunStorage
from hpsearch.study.draws import first_config
from hpsearch.study.journal import DriverJournal
from hpsearch.study.search_study import SearchStudy
from hpsearch.trial import TrialRun
from search_spaces import SearchSpace, load_space, pin

KEPT = RESULTS / "true_front.jsonl"
SMALLER = {"network.width": "4", "n_train": "720"}
"""Width and images of a trial: all 88 trainings together take some four minutes on one idle core."""


def train_all(config: TrialConfig, keep: Callable[[str, Callable[[], dict[str, Any]]], dict[str, Any]]) -> list[Any]:
    """Train every sub-network of the gated network; return what became of each."""
    data = load_data(config.data)
    torch.manual_seed(config.seed)
    channels, _, side = data.input_shape
    dense = build_network(config.network, n_classes=data.n_classes, in_channels=channels, image_size=side)
    (example, _) = next(iter(data.plain_batches("validation", 2, limit=2)))
    gated = attach_gates(dense, example, granularity="layer")
    found = []
    for bits in itertools.product((True, False), repeat=len(gated.groups)):
        masks = {name: torch.tensor([bit]) for name, bit in zip(gated.groups, bits, strict=True)}
        name = "".join(str(int(bit)) for bit in bits)

        # where no branch is left only the stem has something to gate; at a target of 1 no gate is ever closed
        own = config if any(bits) else replace(config, gates=replace(config.gates, granularity="channel"))

        def train(masks: dict[str, torch.Tensor] = masks, own: TrialConfig = own) -> dict[str, Any]:
            return _train(own, cut_fresh(gated, masks, config.seed), data)

        found.append(keep(f"{name}, {config.config_hash}", train))
    return found


def _train(config: TrialConfig, network: Any = None, data: Any = None) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="true-front-") as folder:
        began = time.perf_counter()
        trial = TrialRun(config, Path(folder), network=network, data=data)
        trial.advance(trial.epochs)
        row = trial.finish()
    return {
        "val_accuracy": row["val_accuracy"],
        "energy_j": row["energy_j"],
        "seconds": round(time.perf_counter() - began, 2),
    }


def search(space: SearchSpace, n_trials: int, keep: Any) -> list[dict[str, Any]]:
    """Run the search one trial after the other."""
    found = []
    with tempfile.TemporaryDirectory(prefix="true-front-") as folder:
        study = SearchStudy(DriverJournal(RunStorage.open(folder)), name="run", space=space, objectives=choose())
        for _ in range(n_trials):
            suggestion = study.ask()
            assert suggestion is not None

            def train(config: TrialConfig = suggestion.config) -> dict[str, Any]:
                return _train(config)

            row = keep(suggestion.trial_id, train)
            study.tell_complete(
                suggestion.trial_id, [row["val_accuracy"], row["energy_j"]], attributes={}, constraints={}
            )
            found.append(row)
    return found


def _keep(name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return what is kept under a name, or make and keep it."""
    lines = [json.loads(line) for line in KEPT.read_text().splitlines()] if KEPT.exists() else []
    known = {line["name"]: line for line in lines}
    if name not in known:
        known[name] = {"name": name, **make()}
        with KEPT.open("a") as stream:
            stream.write(json.dumps(known[name]) + "\n")
    return known[name]


def _costs(rows: list[dict[str, Any]]) -> list[tuple[float, float]]:
    return [(1 - row["val_accuracy"], row["energy_j"]) for row in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--epochs", type=int, default=12)
    options = parser.parse_args()
    torch.set_num_threads(1)
    load_before = round(os.getloadavg()[0], 2)
    space = pin(load_space("digits"), {"granularity": "layer", "epochs": str(options.epochs), **SMALLER})
    first = first_config(space)
    recipe = replace(
        first, budget=replace(first.budget, target=1.0), optimiser=replace(first.optimiser, shape="cosine")
    )
    searched = _costs(search(space, options.trials, _keep))
    true = _costs(train_all(recipe, _keep))
    both = [*searched, *true]
    front = [point for point, is_member in zip(true, front_mask(true), strict=True) if is_member]
    whole = (1.0, max(energy for _, energy in both) * 1.05)
    edge = tuple(min(p[i] for p in front) + 1.1 * (max(p[i] for p in front) - min(p[i] for p in front)) for i in (0, 1))
    results = {
        "sub-networks": len(true),
        "trials": len(searched),
        "true front (error, joules)": sorted(front, key=lambda point: point[1]),
        "searched front (error, joules)": sorted(
            (p for p, is_member in zip(searched, front_mask(searched), strict=True) if is_member),
            key=lambda point: point[1],
        ),
    }
    for name, corner in {"whole box": whole, "front's box": edge}.items():
        volumes = [
            hypervolume([p for p in points if p[0] < corner[0] and p[1] < corner[1]], corner)
            for points in (searched, true)
        ]
        results[f"hypervolume of the searched front over the true one, {name}"] = round(volumes[0] / volumes[1], 4)
    print(json.dumps(results, indent=2))
    settings = {"epochs": options.epochs, "recipe": recipe.to_dict(), "load_1min before": load_before}
    print(write_result("true_front", settings, results))


if __name__ == "__main__":
    main()
