"""Training steps: the loop that all phases share, one step of it, and the end of an epoch."""

import time

import torch
from torch import Tensor

from greenprune_core.errors import TrainingError
from greenprune_core.evaluation import accuracy
from greenprune_core.losses import task_loss
from greenprune_core.optimisation import set_learning_rate
from greenprune_core.schedules import learning_rate_factor
from greenprune_core.state import PhaseCost, TrainingState, training_batches

BACKWARD_FACTOR = 3
"""Multiply-accumulates of forward and backward pass over those of the forward pass alone: the backward pass forms
two products (gradients of inputs and of weights) for each one of the forward pass."""

EVALUATION_BATCH = 512

_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def run_steps(state: TrainingState, until_step: int, macs_per_image: int) -> None:
    """Train until step `until_step`, closing each epoch on the way.

    Args:
        state: changed in place.
        until_step: number of the step before which to stop.
        macs_per_image: of a forward pass in this phase.

    Raises:
        TrainingError: a loss term is not finite.
    """
    spent = state.spent.setdefault(state.phase, PhaseCost())
    while state.step < until_step:
        state.network.train()
        started = time.perf_counter()
        for images, labels in training_batches(state):
            train_step(state, images, labels)
            spent.steps += 1
            spent.images += len(images)
            spent.macs += BACKWARD_FACTOR * macs_per_image * len(images)
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
    precision = config.execution.precision
    with torch.autocast(
        torch.device(state.device).type, _DTYPES.get(precision, torch.bfloat16), enabled=precision in _DTYPES
    ):
        terms = {"task": _task(state, images, labels)}
    kept, target = 1.0, 1.0
    if state.phase == "select" and state.pressure is not None:
        pressed = state.pressure.terms(state.gated, state.progress, state.step)
        terms |= {"budget": pressed.budget, "polar": pressed.polar}
        kept, target = float(pressed.kept), pressed.target
    _check_finite(terms, state.step)
    _descend(state, torch.stack(list(terms.values())).sum())
    for name, value in {**terms, "kept": kept, "target": target, "learning_rate": rate}.items():
        state.epoch_sums[name] = state.epoch_sums.get(name, 0.0) + float(value)
    state.epoch_sums["n_steps"] = state.epoch_sums.get("n_steps", 0) + 1
    state.step += 1


def _task(state: TrainingState, images: Tensor, labels: Tensor) -> Tensor:
    if state.phase == "select" and state.pressure is not None:
        state.gated.set_noise(state.pressure.noise(state.progress))
    return task_loss(state.network(images), labels, state.config.losses.label_smoothing)


def _descend(state: TrainingState, loss: Tensor) -> None:
    clip_norm = state.config.optimiser.clip_norm
    state.scaler.scale(loss).backward()
    if clip_norm is not None:
        state.scaler.unscale_(state.optimiser)
        torch.nn.utils.clip_grad_norm_(state.network.parameters(), clip_norm)
    state.scaler.step(state.optimiser)
    state.scaler.update()


def _check_finite(terms: dict[str, Tensor], step: int) -> None:
    for name, value in terms.items():
        if not torch.isfinite(value):
            raise TrainingError(
                f"every loss term must be finite, but the {name} loss is {float(value)} at step {step}; "
                "lower the learning rate or look for NaN in the data"
            )


def _close_epoch(state: TrainingState) -> None:
    """Evaluate on the validation split and add a line to the history."""
    n_steps = state.epoch_sums.pop("n_steps")
    means = {name: total / n_steps for name, total in state.epoch_sums.items()}
    state.epoch_sums = {}
    validation = accuracy(state.network, state.data.plain_batches("validation", EVALUATION_BATCH))
    line = {"epoch": state.step // state.steps_per_epoch, "phase": state.phase, "val_accuracy": validation, **means}
    state.history.append(line)


def _wait_for_device(device: str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
