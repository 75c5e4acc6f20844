"""Read a run in Python: its trials, its front, a pick, and the picked network, trained a step further.

    python examples/read_a_run.py runs/demo

The first half needs neither ray nor optuna nor torch; the second half loads the network and needs torch.
"""

import argparse
import json
from pathlib import Path

import hpsearch


def main(location: str, max_energy: str = "1J") -> int:
    """Show what a run found, take one of its networks, and return its number of parameters."""
    run = hpsearch.open_run(location)
    print(f"{run.trials.num_rows} trials, {run.front.num_rows} on the front")
    for row in run.compared.members:
        print(f"  {row['trial_id']}  {row['val_accuracy']:.2%}  {row['energy_j']:.3g} J  {row['macs']:,} MACs")
    picked = run.pick(max_energy=max_energy)
    print(f"picked {picked.trial_id}, {picked.limits[0].margin(picked.row):.3g} J under the budget")

    # a table for pandas, a picture for a notebook:
    #   run.trials.to_pandas()
    #   run.figure()

    import torch

    from greenprune_core import load_subnetwork

    # plain layers of torch.nn, in evaluation mode; a run in a bucket is fetched by `hpsearch pick --export` first
    folder = Path(location) / "subnetworks" / picked.trial_id
    network = load_subnetwork(folder)
    card = json.loads((folder / "card.json").read_text())
    images = torch.rand(4, *card["input_shape"])  # yours here, in [0, 1]: the normalisation is inside
    optimiser = torch.optim.SGD(network.train().parameters(), lr=0.01)
    network(images).logsumexp(1).mean().backward()
    optimiser.step()
    n_parameters = sum(parameter.numel() for parameter in network.parameters())
    print(f"one more step of training done on {n_parameters:,} parameters")
    return n_parameters


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", help="folder of a run: <storage-path>/<name>")
    parser.add_argument("--max-energy", default="1J", help="energy budget of one inference, e.g. 20uJ")
    arguments = parser.parse_args()
    main(arguments.run, arguments.max_energy)
