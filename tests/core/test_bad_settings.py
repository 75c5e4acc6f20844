"""Settings out of range are refused where they are made, with the value and the way out."""

import json
import math
from typing import Any

import numpy as np
import pytest
import torch

from greenprune_core.config import (
    BudgetConfig,
    DataConfig,
    ExecutionConfig,
    GateConfig,
    LossConfig,
    OptimiserConfig,
    PhaseConfig,
    TrialConfig,
)
from greenprune_core.errors import ConfigError

CASES: list[tuple[Any, dict[str, Any], str]] = [
    (BudgetConfig, {"target": 0.0}, r"in \(0, 1\], but got target=0.0; 0.5 keeps half"),
    (BudgetConfig, {"target": 1.01}, "but got target=1.01"),
    (BudgetConfig, {"target": -0.5}, "but got target=-0.5"),
    (BudgetConfig, {"target": math.nan}, "but got target=nan"),
    (PhaseConfig, {"warm_up": 0.4, "freeze_at": 0.4}, "0 <= warm_up < freeze_at <= 1.*start earlier or freeze later"),
    (PhaseConfig, {"warm_up": -0.1}, "warm_up=-0.1"),
    (PhaseConfig, {"freeze_at": 1.1, "freeze_latest": 1.1}, "freeze_at=1.1"),
    (PhaseConfig, {"freeze_at": 0.5, "freeze_latest": 0.4}, "freeze_latest=0.4; set it to freeze_at"),
    (PhaseConfig, {"freeze_latest": 1.2}, "freeze_latest=1.2"),
    (PhaseConfig, {"ramp_share": 0.0}, "ramp_share=0.0; 1 ramps until the freeze"),
    (PhaseConfig, {"ramp_share": 1.5}, "ramp_share=1.5"),
    (PhaseConfig, {"polar_delay": 1.0}, "polar_delay=1.0"),
    (PhaseConfig, {"polar_ramp": 1.5}, "polar_ramp=1.5"),
    (PhaseConfig, {"disagreement_limit": 0.6}, "disagreement_limit=0.6; 0.5 never waits"),
    (GateConfig, {"initial_open": 0.5}, "initial_open=0.5; 0.9 is usual"),
    (GateConfig, {"floor": 0}, "floor=0"),
    (GateConfig, {"round_to": 0}, "round_to=0"),
    (GateConfig, {"noise": math.nan}, "noise=nan"),
    (LossConfig, {"polar_weight": -1.0}, "polar_weight=-1.0; use 0 to turn the term off"),
    (LossConfig, {"label_smoothing": 1.0}, "label_smoothing=1.0"),
    (OptimiserConfig, {"learning_rate": 0.0}, "learning_rate=0.0"),
    (OptimiserConfig, {"batch_size": 1}, "batch_size=1; 128 is usual"),
    (OptimiserConfig, {"clip_norm": 0.0}, "clip_norm=0.0; leave it out for no clipping"),
    (DataConfig, {"validation_share": 0.0}, "validation_share=0.0"),
    (TrialConfig, {"epochs": 0}, "epochs=0"),
    (TrialConfig, {"seed": -1}, r"seed lies in \[0, 2\^43\), but got seed=-1"),
    (TrialConfig, {"seed": 2**43}, "seed=8796093022208; take a smaller one"),
    (DataConfig, {"split_seed": 2**64}, "split_seed is smaller than 2.43, but got split_seed=18446744073709551616"),
    (OptimiserConfig, {"learning_rate": math.inf}, "float32 can hold, but got learning_rate=inf; lower it"),
    (OptimiserConfig, {"weight_decay": 1e300}, "weight_decay=1e.300"),
    (LossConfig, {"dual_step": 10**400}, "dual_step=1000"),
    (DataConfig, {"mixup": math.inf}, "mixup=inf"),
    (BudgetConfig, {"target": None}, "target needs a value of type float, but got None of type NoneType; give one of"),
    (BudgetConfig, {"target": "0.5"}, "target needs a value of type float, but got '0.5' of type str"),
    (BudgetConfig, {"unit": "flops"}, "unit is one of macs, params, .*, but got 'flops'; choose one of them"),
    (GateConfig, {"floor": 1.5}, "floor needs a value of type int, but got 1.5 of type float"),
    (DataConfig, {"crop": "0.5"}, "crop needs a value of type float or None, but got '0.5'"),
    (DataConfig, {"flip": 1}, "flip needs a value of type bool, but got 1"),
    (ExecutionConfig, {"compile": "no"}, "compile needs a value of type bool, but got 'no'"),
    (TrialConfig, {"seed": True}, "seed needs a value of type int, but got True"),
    (TrialConfig, {"network": "cifar_resnet20"}, "network needs a value of type NetworkConfig, but got 'cifar"),
]


@pytest.mark.parametrize(("part", "values", "message"), CASES)
def test_a_setting_out_of_range_is_refused(part: Any, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        part(**values)


@pytest.mark.parametrize("values", [None, 5, {"network": 5}, {"gates": None}])
def test_what_holds_no_fields_is_no_configuration(values: Any) -> None:
    with pytest.raises(ConfigError, match=r"holds fields, but got (None|5); give a dictionary"):
        TrialConfig.from_dict(values)


def test_unknown_fields_of_any_kind_are_named() -> None:
    with pytest.raises(ConfigError, match="only known fields, but got 1; it was made"):
        TrialConfig.from_dict({1: 2, "x": 3})


@pytest.mark.parametrize(("path", "value"), [("compile", True), ("crop", None), ("crop", 0.5), ("epochs", 2)])
def test_a_value_itself_is_taken_where_text_is_read(path: str, value: Any) -> None:
    assert TrialConfig().with_value(path, value) == TrialConfig().with_value(path, str(value))


def test_the_largest_seed_trains() -> None:
    largest = TrialConfig(seed=2**43 - 1).seed * 1_000_003 + 10**9  # as steps draw from it
    assert torch.Generator().manual_seed(largest).initial_seed() == largest


def test_a_whole_number_is_a_float_too() -> None:
    assert BudgetConfig(target=1).target == 1


def test_a_whole_number_for_a_float_is_no_other_trial_than_its_own_record() -> None:
    whole = TrialConfig(
        optimiser=OptimiserConfig(learning_rate=1, clip_norm=2), budget=BudgetConfig(target=np.float64(1))
    )
    written = TrialConfig(optimiser=OptimiserConfig(learning_rate=1.0, clip_norm=2.0), budget=BudgetConfig(target=1.0))
    assert whole.config_hash == written.config_hash
    assert TrialConfig.from_dict(json.loads(json.dumps(whole.to_dict()))).config_hash == whole.config_hash
    assert type(whole.budget.target) is float
