"""One training run that learns weights and gates together and ends with a plain, smaller, static network.

The story, top to bottom: warm-up, select, freeze, shrink, finish. Each phase is a function from a training state to
the next one; `advance` walks through them as far as it is asked to.
"""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from greenprune_core.config import TrialConfig
from greenprune_core.cost import Cost
from greenprune_core.cost.training import TrainingPart, training_macs
from greenprune_core.data import ImageData, load_data
from greenprune_core.devices import known_device
from greenprune_core.errors import ConfigError, DataError, TrainingError
from greenprune_core.evaluation import accuracy, evaluation_batch, reestimate_batch_statistics
from greenprune_core.extract import extract, slice_like, verify
from greenprune_core.health import at_freeze
from greenprune_core.networks import build_network
from greenprune_core.optimisation import carry_over
from greenprune_core.records import FreezeReport, PhaseSpent
from greenprune_core.state import TrainingState, begin
from greenprune_core.steps import run_steps
from greenprune_core.surroundings import own_settings

_STATISTICS_IMAGES = (128, 4096)
"""Least and largest number of training images over which gates and batch statistics are averaged at the freeze."""

_STATISTICS_SHARE = 0.02
"""Between these, that number over the images of the whole run: an attempt to freeze costs less than 1 % of the run."""

_VERIFIED_IMAGES = 64
_WAIT = 0.02
"""Progress between two attempts to freeze gates that do not agree."""


@dataclass(frozen=True, kw_only=True)
class OnePassResult:
    """A static sub-network and how it came about."""

    config: TrialConfig
    network: nn.Module
    """Plain and small, in evaluation mode. It takes images as it learnt them: less `data.mean`, over `data.std`;
    `save_subnetwork` puts that in as its first step where the card has it as `normalisation`."""
    history: list[dict[str, Any]]
    """One line per epoch; means of the gates' losses are over their looks, and left out where an epoch had none. Kept
    share and target are over the whole epoch: 1 in the warm-up, and what is kept after the cut."""
    cost: Cost
    """Of one inference with one image."""
    dense_cost: Cost
    """The same of the network before gates were attached."""
    val_accuracy: float
    """Of the last epoch, in [0, 1]."""
    test_accuracy: float
    """Of the last epoch, in [0, 1]; never searched on."""
    n_validation: int
    n_test: int
    train_macs: int
    """Multiply-accumulates of the whole run, all phases, backward passes included; evaluation is left out."""
    dense_train_macs: int
    """What training the dense network for the same steps would have taken."""
    spent: dict[str, PhaseSpent]
    """Steps, images and seconds of each phase."""
    training_parts: dict[str, list[TrainingPart]]
    """By phase, what went through which network: what the joules of training are reckoned from."""
    masks: dict[str, list[bool]]
    """Kept gates per group."""
    freeze_report: FreezeReport | None
    """None where nothing was to be pruned."""
    symptoms: list[dict[str, Any]]
    """Collapses of gates that were met and countered on the way: step, name, detail."""
    verify_difference: float
    """Largest absolute difference between the outputs of the cut and the frozen gated network at the cut."""


def train_one_pass(
    config: TrialConfig,
    network: nn.Module | None = None,
    data: ImageData | None = None,
    *,
    data_dir: str | None = None,
    device: str = "cpu",
    on_epoch: Callable[[TrainingState], None] | None = None,
) -> OnePassResult:
    """Train, prune and cut a network in one run.

    Equal configuration, data and thread count give equal numbers on a CPU, whatever the caller has set in torch
    (gradients off, casts, default type and device). The caller's random state and network are left as they were.
    One at a time in a process: threads share the generator from which a step draws its noise.

    Args:
        config: everything that decides the result.
        network: one's own network instead of `config.network`; its own weights are the starting weights. All of its
            parameters that require a gradient and all of its norms are learnt, in whatever mode it comes; a batch norm
            that is to stay as it is is a `torchvision.ops.FrozenBatchNorm2d`.
        data: one's own images instead of `config.data` (`ImageData.from_tensors`), with the split and augmentation
            that it was made with.
        data_dir: where data sets lie, if not in the usual places.
        device: cpu, cuda, cuda:1, ...
        on_epoch: called with the state after each epoch.

    Raises:
        ConfigError: a setting, the data or the network does not fit.
        TrainingError: the run cannot go on.
        VerificationError: the cut network is not equal to the gated one.
    """
    # a seed is one for all GPUs; a process that has used none yet stays so
    uses_gpus = known_device(device).type == "cuda" or torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    gpus = range(torch.cuda.device_count()) if uses_gpus else ()
    with torch.random.fork_rng(devices=gpus):
        state = start(config, network, data, data_dir=data_dir, device=device)
        for epoch in range(1, config.epochs + 1):
            state = advance(state, until_epoch=epoch)
            if on_epoch is not None:
                on_epoch(state)
        return finished(state)


@own_settings()
def start(
    config: TrialConfig,
    network: nn.Module | None = None,
    data: ImageData | None = None,
    *,
    data_dir: str | None = None,
    device: str = "cpu",
) -> TrainingState:
    """Return the state before the first step; arguments as for `train_one_pass`."""
    _check_kinds(config, data)
    if data is None:
        data = load_data(config.data, data_dir=data_dir, device=device)
    _check_device(data, device)
    torch.manual_seed(config.seed)
    if network is None:
        channels, _, side = data.input_shape
        network = build_network(config.network, n_classes=data.n_classes, in_channels=channels, image_size=side)
    return begin(config, network, data, device)


def _check_kinds(config: Any, data: Any) -> None:
    if not isinstance(config, TrialConfig):
        raise ConfigError(
            f"a trial is told by a TrialConfig, but got {type(config).__name__}; TrialConfig.from_dict makes one of "
            "plain values"
        )
    if data is not None and not isinstance(data, ImageData):
        raise DataError(
            f"images of one's own come as ImageData, but got {type(data).__name__}; see ImageData.from_tensors and "
            "ImageData.from_loaders"
        )


def _check_device(data: ImageData, device: str) -> None:
    lies, asked = data.mean.device, known_device(device)
    if lies.type != asked.type or (None not in (lies.index, asked.index) and lies.index != asked.index):
        raise ConfigError(
            f"images lie on the device where a network trains, {asked}, but these are on {lies}; give the device to "
            f"load_data or ImageData.from_...: device={device!r}"
        )


@own_settings()
def advance(state: TrainingState, until_epoch: int) -> TrainingState:
    """Walk through the phases until `until_epoch` epochs are done (at the last one also through the cut).

    Raises:
        TrainingError: the run cannot go on.
        VerificationError: the cut network is not equal to the gated one.
        torch.OutOfMemoryError: a phase needs more memory than the device has, with what to change.
    """
    until_step = min(until_epoch * state.steps_per_epoch, state.n_steps)
    while state.phase != "done":
        with _memory_explained(state):
            state = _PHASES[state.phase](state, until_step)
        is_training = state.phase in ("warm_up", "select", "finish")
        if is_training and state.step >= until_step and until_step < state.n_steps:
            break
    return state


@contextmanager
def _memory_explained(state: TrainingState) -> Iterator[None]:
    """Say what lacked memory and the way out; the type stays torch's, by which callers know to try again alone."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise torch.OutOfMemoryError(
            f"training must fit into the memory of {state.device}, but a step, evaluation or cut in phase "
            f"{state.phase} with batch_size={state.config.optimiser.batch_size} did not; take a smaller batch_size, "
            f"precision=bfloat16 or fewer trials per GPU ({str(error).splitlines()[0]})"
        ) from error


def warm_up(state: TrainingState, until_step: int) -> TrainingState:
    """Learn weights with all gates open, at the cost of the dense network."""
    is_pressed = state.pressure is not None
    end = round(state.config.phases.warm_up * state.n_steps) if is_pressed else state.freeze_at_step
    run_steps(state, min(end, until_step))
    if state.step >= end:
        if is_pressed:
            state.gated.release_gates()
        state.phase = "select" if is_pressed else "freeze"
    return state


def select(state: TrainingState, until_step: int) -> TrainingState:
    """Learn weights and gates together while budget and polariser ramp."""
    run_steps(state, min(state.freeze_at_step, until_step))
    if state.step >= state.freeze_at_step:
        state.phase = "freeze"
    return state


def freeze(state: TrainingState, until_step: int) -> TrainingState:
    """Fix each gate at the consensus of the training images, or go back to select where there is none yet."""
    if state.pressure is None:
        state.masks = {name: torch.ones(n, dtype=torch.bool) for name, n in state.gated.groups.items()}
        state.gated.freeze(state.masks)
        state.phase = "shrink"
        return state
    gated = state.gated
    gated.start_statistics()
    accuracy(gated, _statistics_batches(state))
    disagreement = float(gated.disagreement.mean())
    _passed(state, _n_statistics(state))
    phases = state.config.phases
    latest = round(phases.freeze_latest * state.n_steps)
    if disagreement > phases.disagreement_limit and state.step < latest:
        state.n_waits += 1
        state.freeze_at_step = min(latest, state.step + max(1, round(_WAIT * state.n_steps)))
        state.phase = "select"
        return state
    _fix_gates(state)
    state.phase = "shrink"
    return state


def shrink(state: TrainingState, until_step: int) -> TrainingState:
    """Cut the network, prove it equal, carry the optimiser over and estimate batch statistics anew."""
    _become_small(state)
    if torch.device(state.device).type == "cuda":
        gc.collect()  # a traced network is a cycle of references, and the large ones would stay beside the small one
    if state.freeze_report is not None:
        n_images = reestimate_batch_statistics(state.network, _statistics_batches(state))
        _passed(state, n_images)
        state.accuracy_after_cut = _accuracy(state, "validation")
    state.phase = "finish"
    return state


def _become_small(state: TrainingState) -> None:
    gated, old_optimiser = state.gated, state.optimiser
    static = extract(gated)
    images, _ = next(iter(state.data.plain_batches("validation", _VERIFIED_IMAGES, limit=_VERIFIED_IMAGES)))
    state.verify_difference = verify(gated, static, images)
    names: dict[Tensor, str] = {parameter: name for name, parameter in gated.named_parameters()}
    state.become_cut(static)
    carry_over(
        old_optimiser,
        names,
        state.optimiser,
        dict(state.network.named_parameters()),
        lambda tensors: slice_like(gated, static, tensors),
    )


def finish(state: TrainingState, until_step: int) -> TrainingState:
    """Train the small static network for the rest of the run, at its own cost."""
    run_steps(state, until_step)
    if state.step >= state.n_steps:
        state.phase = "done"
    return state


@own_settings()
def finished(state: TrainingState) -> OnePassResult:
    """Evaluate a state that is done and return its result.

    Raises:
        ConfigError: the run is not at its end.
    """
    if state.phase != "done":
        raise ConfigError(
            f"a result is of a run that is done, but this one is in phase {state.phase} at step {state.step} of "
            f"{state.n_steps}; advance it to epoch {state.config.epochs} first"
        )
    assert state.cost is not None
    assert state.masks is not None
    assert state.verify_difference is not None
    parts = state.training_parts()
    all_parts = [part for of_phase in parts.values() for part in of_phase]
    n_trained = sum(part.n_trained for part in all_parts)
    return OnePassResult(
        config=state.config,
        network=state.network.eval(),
        history=state.history,
        cost=state.cost,
        dense_cost=state.dense_cost,
        val_accuracy=_accuracy(state, "validation"),
        test_accuracy=_accuracy(state, "test"),
        n_validation=state.data.n_validation,
        n_test=state.data.n_test,
        train_macs=training_macs(all_parts),
        dense_train_macs=training_macs([TrainingPart(cost=state.dense_cost, n_trained=n_trained)]),
        spent=state.spent,
        training_parts=parts,
        masks={name: mask.tolist() for name, mask in state.masks.items()},
        freeze_report=state.freeze_report,
        symptoms=state.symptoms,
        verify_difference=state.verify_difference,
    )


_PHASES = {"warm_up": warm_up, "select": select, "freeze": freeze, "shrink": shrink, "finish": finish}


def _fix_gates(state: TrainingState) -> None:
    """Repair the consensus to the budget, fix the gates and report."""
    gated, pressure = state.gated, state.pressure
    assert pressure is not None
    open_fraction, disagreement = gated.open_fraction.cpu(), gated.disagreement
    kept_before_repair = pressure.kept_fraction(open_fraction >= 0.5)
    for symptom in at_freeze(pressure.open_average_V, kept_before_repair, state.config.budget.target):
        state.symptoms.append({"step": state.step, "name": symptom.name, "detail": symptom.detail})
        if symptom.name == "no_ranking":
            raise TrainingError(
                f"gates must differ before the network is cut by them, but {symptom.detail}; "
                "raise the budget's weight or the gates' learning rate, or freeze later"
            )
    selection = pressure.settle(open_fraction)
    dynamic_accuracy = _accuracy(state, "validation")
    state.masks = {name: selection.kept_V[group].clone() for name, group in gated.group_slices.items()}
    gated.freeze(state.masks)
    state.freeze_report = FreezeReport(
        progress=state.progress,
        n_waits=state.n_waits,
        n_images=_n_statistics(state),
        disagreement_mean=float(disagreement.mean()),
        disagreement_max=float(disagreement.max()),
        open_histogram=tuple(torch.histc(open_fraction.float(), bins=10, min=0, max=1).int().tolist()),
        n_gates=gated.n_gates,
        n_flipped=selection.n_flipped,
        kept_before_repair=kept_before_repair,
        kept=pressure.kept_fraction(selection.kept_V),
        dynamic_accuracy=dynamic_accuracy,
        frozen_accuracy=_accuracy(state, "validation"),
    )


def _statistics_batches(state: TrainingState) -> Any:
    return state.data.spread_batches(_n_statistics(state), max(2, evaluation_batch(state.data.input_shape)))


def _n_statistics(state: TrainingState) -> int:
    least, largest = _STATISTICS_IMAGES
    share = round(_STATISTICS_SHARE * state.n_steps * state.config.optimiser.batch_size)
    return min(state.data.n_train, largest, max(least, share))


def _accuracy(state: TrainingState, split: Literal["validation", "test"]) -> float:
    return accuracy(state.network, state.data.plain_batches(split, evaluation_batch(state.data.input_shape)))


def _passed(state: TrainingState, n_images: int) -> None:
    """Account for images that are only passed forward."""
    state.spent.setdefault(state.phase, PhaseSpent()).n_passed += n_images
