"""The settings of a search: frozen, checked once, resolved from the command line, the environment and defaults.

Each option `--max-energy 2mJ` is also the variable `HPSEARCH_MAX_ENERGY=2mJ` and the field `max_energy` below; where
an option takes a unit, the field holds the text and a property the number.
"""

import dataclasses
import datetime
import math
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from greenprune_core.errors import ConfigError
from greenprune_core.typed_values import parse_value
from hpsearch import units
from hpsearch.energy.training_energy import check_meter

PREFIX = "HPSEARCH_"

RUNNER = "hpsearch.trial:TrialRun"
"""What a worker runs, as module:attribute; benchmarks put a tabulated trial in its place."""

Sampler = Literal["tpe", "nsga2", "nsga3", "gp", "random"]
Second = Literal["energy", "macs", "params", "latency"]
Third = Literal["training-energy"]
TrainingMeterName = Literal["auto", "nvml", "rapl", "none"]
AtBudget = Literal["stop", "finish"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,199}")
_UNITS = {
    "time_budget": units.TIME,
    "trial_timeout": units.TIME,
    "energy_budget": units.ENERGY,
    "max_energy": units.ENERGY,
}


@dataclass(frozen=True, kw_only=True)
class SearchSettings:
    """One search. The meaning of a field is also the help text of its option."""

    space: Annotated[str, "Search space: a shipped name, module:attribute or file.py:attribute."] = "digits"
    name: Annotated[str, "Name of the run, a folder below the storage path; made from space and date if not given."] = (
        ""
    )
    storage_path: Annotated[str, "Folder or address (s3://bucket/prefix) that holds the runs."] = "./runs"
    trials: Annotated[int, "Number of finished trials that the run is to have, >= 1."] = 32
    time_budget: Annotated[str | None, "Stop after this time, e.g. 2h, 90min; running trials keep a checkpoint."] = None
    energy_budget: Annotated[str | None, "Stop when training has spent this energy, e.g. 3kWh, 500kJ."] = None
    at_budget: Annotated[
        AtBudget, "Running trials, when a budget is used up: stop (keeping a checkpoint) or finish."
    ] = "stop"
    meter: Annotated[
        TrainingMeterName,
        "What counts the joules of training where a trial has its device to itself; else the model does.",
    ] = "auto"
    max_concurrent: Annotated[int | None, "Most trials at once; the cluster's slots if not given."] = None
    cpus_per_trial: Annotated[float, "Processors per trial; a trial uses as many threads."] = 1.0
    gpus_per_trial: Annotated[float, "GPUs per trial; a fraction shares one."] = 0.0
    sampler: Annotated[Sampler, "Who draws: tpe (multivariate), nsga2, nsga3, gp (few, dear trials) or random."] = "tpe"
    halving: Annotated[bool, "Stop trials early that others of their energy have passed."] = False
    eta: Annotated[int, "Halving: one in eta goes on from each rung, >= 2."] = 2
    grace: Annotated[int | None, "Halving: epochs before the first rung; 0.6 of the training if not given."] = None
    warm_start: Annotated[str | None, "Run of a space with the same names; the sampler starts from its trials."] = None
    objective: Annotated[
        Second, "Cost of inference weighed against accuracy; latency needs a calibrated --profile."
    ] = "energy"
    third_objective: Annotated[Third | None, "A further objective: the energy of training."] = None
    max_energy: Annotated[str | None, "A sub-network is feasible up to this energy per inference, e.g. 2mJ."] = None
    min_accuracy: Annotated[float | None, "A sub-network is feasible from this validation accuracy, in (0, 1)."] = None
    profile: Annotated[
        str | None, "Device profile of the energy model: a shipped name or a JSON file; the space's if not given."
    ] = None
    pins: Annotated[tuple[str, ...], "Fix a parameter or a field of the configuration, as key=value; repeatable."] = ()
    repeats: Annotated[int, "Seeds per configuration: each a row, their mean told to the sampler; >= 1."] = 1
    seed: Annotated[int, "Seed of the draws, also added to the seed of every trial; >= 0."] = 0
    resume: Annotated[bool, "Go on with an existing run; finished trials are kept, others taken up again."] = False
    address: Annotated[
        str | None,
        "Address of a Ray cluster, or local; if not given RAY_ADDRESS, else one on this machine, else local.",
    ] = None
    data_dir: Annotated[str | None, "Folder with data sets, looked at before the usual places."] = None
    max_failures: Annotated[float, "Share of the trials that may fail before the search stops, in [0, 1]."] = 0.5
    trial_timeout: Annotated[str | None, "A trial fails that takes longer than this, e.g. 30min."] = None

    def __post_init__(self) -> None:
        self._check_run()
        self._check_resources()
        self._check_course()
        for pin in self.pins:
            _need("=" in pin.strip("="), "set needs key=value", f"set {pin!r}", "e.g. --set epochs=2")
        for name in _UNITS:
            if getattr(self, name) is not None:
                self._number(name)

    def _check_run(self) -> None:
        """Refuse a run that cannot be named, placed or counted."""
        _need(self.trials >= 1, "trials needs at least 1", f"trials={self.trials}", "leave it out for 32")
        _need(
            not self.name or _NAME.fullmatch(self.name) is not None,
            "name is made of letters, digits, '_', '-' and '.', at most 200 of them",
            f"name={self.name!r}",
            "it names a folder below --storage-path",
        )
        _need(
            re.fullmatch(r"\s*|[A-Za-z0-9]+:/*", self.storage_path) is None,
            "storage-path is a folder or an address like s3://bucket/prefix",
            f"storage-path={self.storage_path!r}",
            "write . for the present folder",
        )

    def _check_resources(self) -> None:
        """Refuse what no machine has, and a meter that could not tell the trials apart."""
        _need(
            self.max_concurrent is None or self.max_concurrent >= 1,
            "max-concurrent needs at least 1",
            f"max-concurrent={self.max_concurrent}",
            "leave it out to fill the cluster",
        )
        _need(
            0 < self.cpus_per_trial < math.inf,
            "cpus-per-trial needs a number > 0",
            f"{self.cpus_per_trial:g}",
            "1 is usual",
        )
        _need(
            0 <= self.gpus_per_trial < math.inf,
            "gpus-per-trial needs a number >= 0",
            f"{self.gpus_per_trial:g}",
            "0 trains on processors",
        )
        check_meter(
            self.meter,
            cpus=self.cpus_per_trial,
            gpus=self.gpus_per_trial,
            max_concurrent=self.max_concurrent,
            repeats=self.repeats,
        )

    def _check_course(self) -> None:
        """Refuse constraints, halving and ends of a search that contradict themselves."""
        _need(
            self.min_accuracy is None or 0 < self.min_accuracy < 1,
            "min-accuracy is a share in (0, 1)",
            f"min-accuracy={self.min_accuracy}",
            "write 0.9 for 90 %",
        )
        _need(
            0 <= self.max_failures <= 1, "max-failures is a share in [0, 1]", f"{self.max_failures:g}", "0.5 is usual"
        )
        _need(self.repeats >= 1, "repeats needs at least 1", f"repeats={self.repeats}", "1 trains each once")
        _need(self.seed >= 0, "seed needs >= 0", f"seed={self.seed}", "take 0 or more")
        _need(self.eta >= 2, "eta needs at least 2", f"eta={self.eta}", "2 is usual; --no-halving stops nothing early")
        _need(
            self.grace is None or self.grace >= 1, "grace needs at least 1 epoch", f"grace={self.grace}", "leave it out"
        )
        _need(
            self.halving or self.grace is None,
            "grace belongs to halving",
            f"grace={self.grace} without it",
            "add --halving or leave --grace out",
        )
        _need(
            self.at_budget == "stop" or self.time_budget is not None or self.energy_budget is not None,
            "at-budget belongs to a budget",
            f"at-budget={self.at_budget} without one",
            "add --time-budget or --energy-budget",
        )

    @property
    def time_budget_s(self) -> float | None:
        """Seconds that the search may take."""
        return self._number("time_budget")

    @property
    def energy_budget_j(self) -> float | None:
        """Joules that training may spend."""
        return self._number("energy_budget")

    @property
    def max_energy_j(self) -> float | None:
        """Joules per inference up to which a sub-network is feasible."""
        return self._number("max_energy")

    @property
    def trial_timeout_s(self) -> float | None:
        """Seconds that a trial may take."""
        return self._number("trial_timeout")

    @property
    def pinned(self) -> dict[str, str]:
        """What `--set` fixes, by key; the last of two equal keys counts."""
        pairs = (pin.split("=", 1) for pin in self.pins)
        found = {key.strip(): value.strip() for key, value in pairs}
        return found if self.profile is None else {**found, "budget.profile": self.profile}

    @property
    def run(self) -> str:
        """Location of the run's folder."""
        return f"{self.storage_path.rstrip('/')}/{self.name}"

    def _number(self, name: str) -> float | None:
        text = getattr(self, name)
        return None if text is None else units.parse(text, _UNITS[name], name.replace("_", "-"))


def resolve(given: Mapping[str, Any], environment: Mapping[str, str]) -> tuple[SearchSettings, dict[str, str]]:
    """Put settings together: what was given, then `HPSEARCH_*`, then defaults; return them and where each came from.

    Args:
        given: values by field name; None and empty tuples count as not given.
        environment: the process's variables.

    Raises:
        ConfigError: a value is wrong, or a variable with our prefix is none of ours.
    """
    hints = typing.get_type_hints(SearchSettings)
    known = {PREFIX + _variable(name): name for name in hints}
    unknown = sorted(name for name in environment if name.startswith(PREFIX) and name not in known)
    if unknown:
        raise ConfigError(
            f"variables that begin with {PREFIX} are settings of the search, but got {unknown[0]}; "
            f"known: {', '.join(sorted(known))}"
        )
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for variable, name in known.items():
        if given.get(name) not in (None, ()):
            values[name], origins[name] = given[name], "command line"
        elif environment.get(variable, "") != "":
            values[name], origins[name] = _from_text(environment[variable], hints[name], variable), variable
        else:
            origins[name] = "default"
    settings = SearchSettings(**values)
    if not settings.name:
        settings = dataclasses.replace(settings, name=_make_name(settings.space))
        origins["name"] = "from space and date"
    return settings, origins


def _variable(name: str) -> str:
    return "SET" if name == "pins" else name.upper()


def _from_text(text: str, hint: Any, variable: str) -> Any:
    if typing.get_origin(hint) is tuple:
        return tuple(text.split())
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        inner = [option for option in typing.get_args(hint) if option is not type(None)]
        return _from_text(text, inner[0], variable)
    return parse_value(text, hint, variable)


def _make_name(space: str) -> str:
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", space.rsplit("/", 1)[-1]).strip("-_") or "run"
    return f"{stem}-{datetime.datetime.now():%Y%m%d-%H%M%S}"


def _need(holds: bool, rule: str, got: str, way_out: str) -> None:
    if not holds:
        raise ConfigError(f"{rule}, but got {got}; {way_out}")
