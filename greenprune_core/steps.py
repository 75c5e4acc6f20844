"""Training steps: the loop that all phases share, one step of it, and the end of an epoch."""

import math
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from greenprune_core.config import ExecutionConfig
from greenprune_core.errors import TrainingError
from greenprune_core.evaluation import accuracy, evaluation_batch
from greenprune_core.losses import task_loss
from greenprune_core.optimisation import set_learning_rate
from greenprune_core.pressure import Terms
from greenprune_core.records import PhaseSpent
from greenprune_core.schedules import learning_rate_factor
from greenprune_core.state import TrainingState, training_batches

HEALTH_PERIOD = 20
"""Training steps between two examinations of the gates."""

CHECK_PERIOD = 20
"""Training steps between two checks of the losses where a check waits for the device."""

_RELAPSES = 10
"""Looks that may find the whole network collapsing before the trial is given up."""

_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def run_steps(state: TrainingState, until_step: int) -> None:
    """Train until step `until_step`, closing each epoch on the way.

    Args:
        state: changed in place.
        until_step: number of the step before which to stop.

    Raises:
        TrainingError: a loss term is not finite.
    """
    spent = state.spent.setdefault(state.phase, PhaseSpent())
    while state.step < until_step:
        state.network.train()
        started = time.perf_counter()
        for images, labels in training_batches(state):
            train_step(state, images, labels)
            spent.n_steps += 1
            spent.n_trained += len(images)
            if state.step >= until_step or state.step % state.steps_per_epoch == 0:
                break
        _wait_for_device(state.device)
        spent.seconds += time.perf_counter() - started
        if state.step % state.steps_per_epoch == 0:
            _close_epoch(state)


def train_step(state: TrainingState, images: Tensor, labels: Tensor) -> None:
    """Take one step of the optimiser on one batch, with the gates' losses while they are pressed.

    Args:
        state: changed in place.
        images: `[N, C, H, W]`, normalised, on the state's device.
        labels: `[N]`, int64, or with mixup the classes' probabilities, `[N, K]`.

    Raises:
        TrainingError: a loss term is not finite.
    """
    config = state.config
    torch.manual_seed(config.seed * 1_000_003 + state.step)  # noise and dropout of this step
    shape = learning_rate_factor(
        config.optimiser.shape, config.optimiser.ramp_up, hold_until=state.freeze_at_step / state.n_steps
    )
    rate = set_learning_rate(state.optimiser, config.optimiser, shape(state.progress))
    if config.execution.channels_last:
        images = images.to(memory_format=torch.channels_last)
    state.optimiser.zero_grad(set_to_none=True)
    with in_precision(config.execution, state.device):
        terms = {"task": _task(state, images, labels)}
    pressed = None
    if state.looks and state.pressure is not None:
        pressed = state.pressure.terms(state.gated, state.progress, state.look)
        terms |= {"budget": pressed.budget, "polar": pressed.polar}
    if _is_check_due(state):
        if state.looks:
            _check_gates(state)
        _check_finite(terms, state.step)
    _descend(state, torch.stack(list(terms.values())).sum())
    if pressed is not None:
        _after_look(state, pressed)
    _record(state, terms, pressed, rate)
    state.step += 1


def in_precision(execution: ExecutionConfig, device: str) -> torch.autocast:
    """Return the context in which forward passes run in the precision that is asked for."""
    precision = execution.precision
    return torch.autocast(torch.device(device).type, _DTYPES.get(precision), enabled=precision in _DTYPES)


def _record(state: TrainingState, terms: Mapping[str, Tensor], pressed: Terms | None, rate: float) -> None:
    """Add the step to the epoch's sums; what gates tell, at their looks only: each stands for the steps to the next."""
    losses = {name: term.detach().double() for name, term in terms.items()}
    _add(state, {"task": losses.pop("task"), "learning_rate": rate, "n_steps": 1.0})
    if pressed is not None:
        told = losses | {"kept": pressed.kept, "target": pressed.target, "n_told": 1.0, "n_pressed": 1.0}
        _add(state, told, weight=state.look_every)
    elif state.phase != "select":
        kept, target = _share_trained(state)
        # sums in float32 would differ after a resume
        _add(state, {"kept": torch.tensor(kept, dtype=torch.float64), "target": target, "n_told": 1.0})


def _share_trained(state: TrainingState) -> tuple[float, float]:
    """Return which share of the dense network's cost is trained where gates do not decide, and which was asked for."""
    if state.freeze_report is None:
        return 1.0, 1.0
    return state.freeze_report.kept, state.config.budget.target


def _add(state: TrainingState, values: Mapping[str, Any], weight: int = 1) -> None:
    for name, value in values.items():
        state.epoch_sums[name] = state.epoch_sums.get(name, 0.0) + weight * value


def _task(state: TrainingState, images: Tensor, labels: Tensor) -> Tensor:
    run = state.run
    if state.looks and state.pressure is not None:
        state.gated.set_noise(state.pressure.noise(state.progress))
    elif state.phase == "select":
        run = state.rest
    return task_loss(run(images), labels, state.config.losses.label_smoothing)


def _after_look(state: TrainingState, pressed: Terms) -> None:
    """Care for the gates after the backward pass (it changes weights in place) and let them agree, now and then."""
    assert state.pressure is not None
    if state.is_look_due(HEALTH_PERIOD):
        _care(state, pressed)
    if state.look_every > 1 and state.look % state.looks_per_agreement == 0:
        state.pressure.agree()


def _care(state: TrainingState, pressed: Terms) -> None:
    """Act on collapsing gates, and give up where that does not help."""
    assert state.pressure is not None
    symptoms = state.pressure.care(state.gated, pressed, state.progress)
    state.symptoms += [{"step": state.step, "name": symptom.name, "detail": symptom.detail} for symptom in symptoms]
    n_relapses = sum(symptom["name"] == "all_closed" for symptom in state.symptoms)
    if n_relapses > _RELAPSES:
        raise TrainingError(
            f"gates must not drift shut together, but they did at {n_relapses} looks, last at step {state.step} "
            f"({state.symptoms[-1]['detail']}); lower the budget's weight, its dual step or the gates' learning rate"
        )


def _descend(state: TrainingState, loss: Tensor) -> None:
    clip_norm = state.config.optimiser.clip_norm
    state.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
    if clip_norm is not None:
        state.scaler.unscale_(state.optimiser)
        torch.nn.utils.clip_grad_norm_(state.network.parameters(), clip_norm)
    state.scaler.step(state.optimiser)
    state.scaler.update()


def _is_check_due(state: TrainingState) -> bool:
    """Tell whether the losses are checked at this step: at each on a CPU; elsewhere a check waits for the device."""
    if torch.device(state.device).type == "cpu":
        return True
    if state.phase == "select":
        return state.is_look_due(CHECK_PERIOD)
    return state.step % CHECK_PERIOD == 0


def _check_gates(state: TrainingState) -> None:
    if not bool(torch.isfinite(state.gated.open_probability).all()):
        raise TrainingError(
            f"open probabilities must be finite, but some gate has none at step {state.step}; lower the learning rate "
            "(of all, or of the gates alone), the budget's weight or its dual step, or clip the gradient"
        )


def _check_finite(terms: dict[str, Tensor], step: int) -> None:
    for name, term in terms.items():
        _refuse_infinite(name, float(term.detach()), step)


def _refuse_infinite(name: str, value: float, step: int) -> None:
    if not math.isfinite(value):
        raise TrainingError(
            f"every loss term must be finite, but the {name} loss is {value} at step {step}; "
            "lower the learning rate or look for NaN in the data"
        )


def _close_epoch(state: TrainingState) -> None:
    """Evaluate on the validation split and add a line to the history."""
    n_steps, n_told = state.epoch_sums.pop("n_steps"), state.epoch_sums.pop("n_told", 1.0)
    n_pressed = state.epoch_sums.pop("n_pressed", n_told)  # checkpoints from before it do not tell
    # in an epoch with steps before the looks or after the cut, the gates' losses are of the looks alone
    counts = {"task": n_steps, "learning_rate": n_steps, "budget": n_pressed, "polar": n_pressed}
    means = {name: float(total) / float(counts.get(name, n_told)) for name, total in state.epoch_sums.items()}
    state.epoch_sums = {}
    for name in ("task", "budget", "polar"):
        _refuse_infinite(name, means.get(name, 0.0), state.step)  # on a GPU single steps go unchecked
    batches = state.data.plain_batches("validation", evaluation_batch(state.data.input_shape))
    validation = accuracy(state.network, batches)
    line = {"epoch": state.step // state.steps_per_epoch, "phase": state.phase, "val_accuracy": validation, **means}
    state.history.append(line)


def _wait_for_device(device: str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
