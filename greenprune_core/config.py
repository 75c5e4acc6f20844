"""The configuration of one trial: everything that decides its result, frozen, checked, hashable.

Fractions called *progress* are of the whole run (0 at its first step, 1 after its last). All rules are checked once,
in `__post_init__`; below this file functions take plain values. Nothing here loads torch.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from greenprune_core.field_paths import leaf_types, resolve_path
from greenprune_core.typed_values import build, check_fields, need, parse_value

Granularity = Literal["channel", "layer", "both"]
GateFamily = Literal["head", "free", "hard_concrete"]
BudgetUnit = Literal["macs", "params", "joules", "macs_and_params"]
PolarForm = Literal["watershed", "half", "variance", "none"]
RampShape = Literal["constant", "linear", "cosine", "cubic"]
LearningRateShape = Literal["cosine", "one_cycle", "hold_then_cosine", "constant"]
Precision = Literal["float32", "bfloat16", "float16"]


_SEEDS = 2**43
"""A step's seed is a million times the trial's, and a generator takes 64 bits."""


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """Which dense network is gated and pruned."""

    name: str = "cifar_resnet20"
    """cifar_resnet<6n+2>, cifar_vgg<11|13|16|19>, torchvision/<name>, a registered name, or a reference to one's own
    function, module:function or file.py:function. Not read where a network itself is given."""
    width: int = 16
    """Channels of the first stage (CIFAR networks only), >= 1; the later stages are multiples of it."""
    init: str | None = None
    """Path of a safetensors file with starting weights; None starts from scratch (the one pass)."""

    def __post_init__(self) -> None:
        check_fields(self)
        need(self.width >= 1, "width needs at least 1 channel", f"width={self.width}", "take 4 or more")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which images are learnt, how they are split, resized and augmented."""

    name: str = "digits"
    """digits, fashion_mnist, cifar10, cifar100, tiny_imagenet, folder, a registered name, or a reference to one's own
    function, module:function or file.py:function."""
    image_size: int | None = None
    """Side in pixels after pooling or padding; None keeps the data set's own."""
    n_train: int | None = None
    """Use only the first n training images (after the validation split); None uses all."""
    validation_share: float = 0.1
    """Share of the training images held out for validation, in (0, 0.5]."""
    split_seed: int = 0
    """Seed of the split; the same for all trials of a search, so that all select on the same images."""
    shift: int = 0
    """Augmentation: largest random shift in pixels, drawn per image."""
    flip: bool = False
    """Augmentation: random horizontal mirror, drawn per image."""
    mixup: float = 0.0
    """Augmentation: parameter of mixup's Beta distribution; 0 turns it off."""
    crop: float | None = None
    """Augmentation: smallest share of an image's area in a random crop that is enlarged to the image, in (0, 1]."""

    def __post_init__(self) -> None:
        check_fields(self)
        need(
            0 < self.validation_share <= 0.5,
            "validation_share lies in (0, 0.5]",
            f"validation_share={self.validation_share}",
            "0.1 is usual",
        )
        need(
            abs(self.split_seed) < _SEEDS,
            "split_seed is smaller than 2^43",
            f"split_seed={self.split_seed}",
            "take a smaller one",
        )
        need(self.shift >= 0, "shift is a number of pixels >= 0", f"shift={self.shift}", "use 0 for no shift")
        need(
            self.crop is None or 0 < self.crop <= 1,
            "crop is a share of the area in (0, 1]",
            f"crop={self.crop}",
            "0.35 is usual, 0.08 with hundreds of epochs; leave it out for none",
        )
        need(self.mixup >= 0, "mixup needs >= 0", f"mixup={self.mixup}", "use 0 for no mixup")
        need(
            self.n_train is None or self.n_train >= 1,
            "n_train needs at least one image",
            f"n_train={self.n_train}",
            "leave it out to use all",
        )


@dataclass(frozen=True, kw_only=True)
class GateConfig:
    """Which gates are attached, and how they decide."""

    family: GateFamily = "head"
    """head: input-dependent straight-through; free: input-free logits; hard_concrete: L0 of Louizos 2018."""
    granularity: Granularity = "channel"
    """channel: groups of coupled channels; layer: residual branches; both."""
    streams: bool = False
    """Also gate channels that are coupled through additions (the residual stream itself)."""
    hidden: int = 16
    """Hidden units of the head gate."""
    initial_open: float = 0.9
    """Open probability of every gate at the start, in (0.5, 1)."""
    noise: float = 0.3
    """Scale of the logistic noise on the logits while training, >= 0; never at evaluation."""
    noise_anneal: bool = False
    """Let the noise fall linearly to 0 at the freeze."""
    learning_rate_factor: float = 1.0
    """Learning rate of the gates over that of the weights, > 0."""
    floor: int = 1
    """Smallest number of open gates per channel group, >= 1: no layer may empty."""
    floor_share: float = 0.5
    """Smallest share of open gates per channel group over the kept fraction asked for, in [0, 1]: at 0.5 and a target
    of 0.3 a layer keeps at least 15 % of its channels. A layer of one channel passes `floor` but not the signal."""
    look_every: int = 4
    """Gates look at the images at every so many-th step of the select phase (oftener where it has few steps, and always
    with branch gates); between, they rest, and the weights learn in the network cut to what the gates agree on so far.
    1: at every step."""
    round_to: int = 1
    """Kept channels per group are a multiple of this (8 is what hardware likes); 1 leaves them as found."""

    def __post_init__(self) -> None:
        check_fields(self)
        need(
            0.5 < self.initial_open < 1,
            "initial_open lies in (0.5, 1)",
            f"initial_open={self.initial_open}",
            "0.9 is usual",
        )
        need(self.noise >= 0, "noise needs >= 0", f"noise={self.noise}", "use 0 for none")
        need(
            self.learning_rate_factor > 0,
            "learning_rate_factor needs > 0",
            f"learning_rate_factor={self.learning_rate_factor}",
            "1 is the weights' own rate",
        )
        need(
            0 <= self.floor_share <= 1,
            "floor_share lies in [0, 1]",
            f"floor_share={self.floor_share}",
            "0 leaves the floor alone",
        )
        for name in ("floor", "hidden", "look_every", "round_to"):
            value = getattr(self, name)
            need(value >= 1, f"{name} needs at least 1", f"{name}={value}", "take 1 or more")


_GATES_BEFORE_RESTS = {item.name for item in dataclasses.fields(GateConfig)} - {"look_every"}


@dataclass(frozen=True, kw_only=True)
class BudgetConfig:
    """How much of the network may be kept."""

    target: float = 0.5
    """Kept fraction of the dense network's cost, in (0, 1]."""
    unit: BudgetUnit = "macs"
    """What the fraction is of: multiply-accumulates, parameters, or modelled joules of one inference; or at most that
    fraction of the multiply-accumulates and of the parameters, both."""
    profile: str = "horowitz-45nm"
    """Device profile behind joules: a shipped name or a JSON file; part of the trial's identity."""

    def __post_init__(self) -> None:
        check_fields(self)
        need(
            0 < self.target <= 1,
            "target is the kept fraction, in (0, 1]",
            f"target={self.target}",
            "0.5 keeps half of the cost",
        )


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Weights and forms of the losses beside the task's (whose weight is 1)."""

    budget_weight: float = 10.0
    """Weight of the squared one-sided distance to the budget ramp, >= 0."""
    dual_step: float = 0.1
    """Step of the dual ascent on the budget's multiplier, >= 0; 0 leaves the squared hinge alone."""
    polar_weight: float = 0.3
    """Weight of the polarisation loss, >= 0."""
    polar_form: PolarForm = "watershed"
    """watershed: towards the mask that the budget would keep now; half: 4 g (1 - g) (the paper's reading);
    variance: of the gate over the batch only; none."""
    label_smoothing: float = 0.0
    """Label smoothing of the task loss, in [0, 1)."""

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("budget_weight", "dual_step", "polar_weight"):
            value = getattr(self, name)
            need(value >= 0, f"{name} needs >= 0", f"{name}={value}", "use 0 to turn the term off")
        need(
            0 <= self.label_smoothing < 1,
            "label_smoothing lies in [0, 1)",
            f"label_smoothing={self.label_smoothing}",
            "0.1 is usual",
        )


@dataclass(frozen=True, kw_only=True)
class PhaseConfig:
    """When the phases of the one pass begin and end.

    Positions inside the select phase are shares of it, so that every draw is valid.
    """

    warm_up: float = 0.1
    """Progress at which gates begin to act, in [0, freeze_at)."""
    freeze_at: float = 0.4
    """Progress at which the consensus is taken and the network is cut, in (0, 1]."""
    freeze_latest: float = 0.6
    """The freeze waits for disagreeing gates at most until this progress, in [freeze_at, 1]."""
    disagreement_limit: float = 0.02
    """Largest dynamic/static disagreement (mean over gates, in [0, 0.5]) at which the freeze does not wait."""
    ramp_share: float = 0.6
    """Share of the select phase during which the kept fraction falls from 1 to the target, in (0, 1]."""
    ramp_shape: RampShape = "linear"
    """Shape of that fall."""
    polar_delay: float = 0.3
    """Share of the select phase before the polariser starts, in [0, 1)."""
    polar_ramp: float = 0.2
    """Share of the select phase during which the polariser's weight rises, in [0, 1]."""

    def __post_init__(self) -> None:
        check_fields(self)
        need(
            0 <= self.warm_up < self.freeze_at <= 1,
            "phases need 0 <= warm_up < freeze_at <= 1",
            f"warm_up={self.warm_up}, freeze_at={self.freeze_at}",
            "start earlier or freeze later",
        )
        need(
            self.freeze_at <= self.freeze_latest <= 1,
            "freeze_latest lies in [freeze_at, 1]",
            f"freeze_at={self.freeze_at}, freeze_latest={self.freeze_latest}",
            "set it to freeze_at to freeze without waiting",
        )
        need(
            0 < self.ramp_share <= 1,
            "ramp_share lies in (0, 1]",
            f"ramp_share={self.ramp_share}",
            "1 ramps until the freeze",
        )
        need(
            0 <= self.polar_delay < 1,
            "polar_delay lies in [0, 1)",
            f"polar_delay={self.polar_delay}",
            "0 starts with the select phase",
        )
        need(
            0 <= self.polar_ramp <= 1,
            "polar_ramp lies in [0, 1]",
            f"polar_ramp={self.polar_ramp}",
            "0 switches the polariser on at once",
        )
        need(
            0 <= self.disagreement_limit <= 0.5,
            "disagreement_limit lies in [0, 0.5]",
            f"disagreement_limit={self.disagreement_limit}",
            "0.5 never waits",
        )


@dataclass(frozen=True, kw_only=True)
class OptimiserConfig:
    """How the weights are learnt."""

    name: str = "sgd"
    """Name of a class in torch.optim, in lower case (sgd, adamw, ...)."""
    learning_rate: float = 0.1
    """Peak learning rate at batch size 128, > 0; scaled linearly with the batch size."""
    momentum: float = 0.9
    """Momentum of SGD, in [0, 1); Nesterov when above 0."""
    weight_decay: float = 5e-4
    """Weight decay of the weights, >= 0; gates, norms and biases have none."""
    shape: LearningRateShape = "cosine"
    """Course of the learning rate over the run; hold_then_cosine is constant until the freeze."""
    ramp_up: float = 0.05
    """Progress during which the learning rate rises from 0, in [0, 1)."""
    batch_size: int = 128
    """Images per step, >= 2 (batch normalisation needs two)."""
    clip_norm: float | None = None
    """Largest global norm of the gradient; None does not clip."""

    def __post_init__(self) -> None:
        check_fields(self)
        need(
            self.learning_rate > 0,
            "learning_rate needs > 0",
            f"learning_rate={self.learning_rate}",
            "0.1 is usual for SGD",
        )
        need(0 <= self.momentum < 1, "momentum lies in [0, 1)", f"momentum={self.momentum}", "0.9 is usual")
        need(self.weight_decay >= 0, "weight_decay needs >= 0", f"weight_decay={self.weight_decay}", "5e-4 is usual")
        need(0 <= self.ramp_up < 1, "ramp_up lies in [0, 1)", f"ramp_up={self.ramp_up}", "0.05 is usual")
        need(self.batch_size >= 2, "batch_size needs at least 2", f"batch_size={self.batch_size}", "128 is usual")
        need(
            self.clip_norm is None or self.clip_norm > 0,
            "clip_norm needs > 0",
            f"clip_norm={self.clip_norm}",
            "leave it out for no clipping",
        )


@dataclass(frozen=True, kw_only=True)
class ExecutionConfig:
    """How the arithmetic is done: it changes the last digits, so it belongs to the trial's identity."""

    precision: Precision = "float32"
    """Type of the forward and backward arithmetic; float16 uses a gradient scaler."""
    channels_last: bool = False
    """Memory format of the activations."""
    compile: bool = False
    """Compile the network with torch.compile, again once after the cut."""

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, kw_only=True)
class TrialConfig:
    """One trial: network, data, gates, budget, losses, phases, optimiser, length and seed."""

    network: NetworkConfig = field(default_factory=NetworkConfig)
    data: DataConfig = field(default_factory=DataConfig)
    gates: GateConfig = field(default_factory=GateConfig)
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    losses: LossConfig = field(default_factory=LossConfig)
    phases: PhaseConfig = field(default_factory=PhaseConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    execution: ExecutionConfig = field(default_factory=ExecutionConfig)
    epochs: int = 10
    """Passes over the training images, >= 1."""
    seed: int = 0
    """Seed of weights, order, augmentation and noise, >= 0."""

    def __post_init__(self) -> None:
        check_fields(self)
        need(self.epochs >= 1, "epochs needs at least 1", f"epochs={self.epochs}", "take 1 or more")
        need(0 <= self.seed < _SEEDS, "seed lies in [0, 2^43)", f"seed={self.seed}", "take a smaller one, of 0 or more")

    @property
    def config_hash(self) -> str:
        """Identity of the trial: 16 hexadecimal digits over all fields that decide it, seed included."""
        values = self.to_dict()
        if self.data.crop is None:
            del values["data"]["crop"]  # came later: trials without it keep their identity
        if self.gates.look_every == 1:
            del values["gates"]["look_every"]  # the same
        text = json.dumps(values, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def to_dict(self) -> dict[str, Any]:
        """Nested plain values, fit for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Rebuild from `to_dict`; absent fields take their defaults.

        But gates that are told in full without `look_every` are a record from before it, and looked at every step.

        Raises:
            ConfigError: a field is unknown, of the wrong type or out of range.
        """
        gates = values.get("gates") if isinstance(values, Mapping) else None
        if isinstance(gates, Mapping) and set(gates) >= _GATES_BEFORE_RESTS:
            values = {**values, "gates": {"look_every": 1, **gates}}
        config: Self = build(cls, values)
        return config

    def with_value(self, path: str, text: str) -> Self:
        """Return a copy with one field set from text, e.g. `("optimiser.batch_size", "64")` or `("epochs", "2")`.

        Raises:
            ConfigError: no such field, text of the wrong type, or value out of range.
        """
        full = resolve_path(type(self), path)
        values = self.to_dict()
        *sections, leaf = full.split(".")
        inner = values
        for section in sections:
            inner = inner[section]
        inner[leaf] = parse_value(text, leaf_types(type(self))[full], path)
        return type(self).from_dict(values)
