"""Is the asked budget met? Three networks x three targets x two seeds on real digits, one pass each.

A target is met when the cut network's kept fraction lies at it or at most one point below. Reported with it: the kept
fraction before the exact repair, the gates that the repair flipped, and the disagreement at the freeze.
Run: `python benchmarks/budget_met.py [--unit macs|params|joules|macs_and_params]`.
"""

import argparse
import dataclasses

import torch
from results_file import write_result

from greenprune_core.config import (
    BudgetConfig,
    DataConfig,
    GateConfig,
    LossConfig,
    NetworkConfig,
    OptimiserConfig,
    PhaseConfig,
    TrialConfig,
)
from greenprune_core.one_pass import train_one_pass

NETWORKS = (("cifar_resnet14", 8), ("cifar_resnet20", 16), ("cifar_vgg11", 16))
TARGETS = (0.7, 0.5, 0.3)
SEEDS = (0, 1)
BASE = TrialConfig(
    data=DataConfig(name="digits", validation_share=0.25, shift=1),
    gates=GateConfig(learning_rate_factor=4.0),
    losses=LossConfig(polar_weight=1.0),
    phases=PhaseConfig(warm_up=0.05, freeze_at=0.4, freeze_latest=0.5, polar_delay=0.2),
    optimiser=OptimiserConfig(batch_size=64, shape="hold_then_cosine"),
    epochs=24,
)


def main() -> None:
    """Run all cases, print a line each, and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--unit", default="macs", choices=("macs", "params", "joules", "macs_and_params"))
    parser.add_argument("--streams", action="store_true", help="also gate the residual streams")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = [run(name, width, target, seed, options) for name, width in NETWORKS for target in TARGETS for seed in SEEDS]
    n_met = sum(bool(row["is_met"]) for row in rows)
    print(f"{n_met} of {len(rows)} within [target - 0.01, target]")
    print(write_result(f"budget_met_{options.unit}", vars(options), {"n_met": n_met, "n": len(rows), "rows": rows}))


def run(name: str, width: int, target: float, seed: int, options: argparse.Namespace) -> dict[str, object]:
    """Train one case and hold its kept fraction against the target."""
    config = dataclasses.replace(
        BASE,
        network=NetworkConfig(name=name, width=width),
        gates=dataclasses.replace(BASE.gates, streams=options.streams),
        budget=BudgetConfig(target=target, unit=options.unit),
        seed=seed,
    )
    result = train_one_pass(config)
    report = result.freeze_report
    assert report is not None
    row = {
        "network": name,
        "target": target,
        "seed": seed,
        "kept": report.kept,
        "kept_before_repair": report.kept_before_repair,
        "is_met": target - 0.01 <= report.kept <= target,
        "n_flipped": report.n_flipped,
        "n_gates": report.n_gates,
        "disagreement": report.disagreement_mean,
        "n_waits": report.n_waits,
        "val_accuracy": result.val_accuracy,
        "test_accuracy": result.test_accuracy,
    }
    print({key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()}, flush=True)
    return row


if __name__ == "__main__":
    main()
