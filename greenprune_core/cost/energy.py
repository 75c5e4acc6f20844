"""From counted cost to joules and seconds of one inference, with a device profile.

Everything is a sum over operators, each linear in its counts; modelled time also rounds channels up to the lanes of a
vector unit. The expected energy under gates (`expected.py`) is the same sum.
"""

import dataclasses

from greenprune_core.cost.count import Cost, OperatorCost
from greenprune_core.cost.profile import DeviceProfile, Quantity
from greenprune_core.errors import ConfigError

PARTS = ("macs", "element_ops", "weights", "activations", "static")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Energy:
    """Joules of one inference, by part, and where the figure comes from."""

    parts: dict[str, float]
    """Joules of macs, element_ops, weights, activations (bytes moved) and static (power times modelled time)."""
    source: str
    """`model:<profile>`; figures of two sources are never compared."""
    batch_size: int
    """Images that share one reading of the weights."""

    @property
    def joules(self) -> float:
        """Joules of one inference, all parts together."""
        return sum(self.parts.values())


def estimate_energy(cost: Cost, profile: DeviceProfile, batch_size: int = 1) -> Energy:
    """Estimate the joules of one inference inside a batch of `batch_size` images.

    Args:
        cost: of `count_cost`.
        profile: of `load_profile`.
        batch_size: images that share one reading of the weights, >= 1.

    Raises:
        ConfigError: a batch below 1, a profile without joules or without a price for the type in which the network
            computes, or one with static power and no timing at this batch size.
    """
    if batch_size < 1:
        raise ConfigError(f"a batch holds at least one image, but got batch_size={batch_size}; 1 is a single image")
    parts = dict.fromkeys(PARTS, 0.0)
    for operator in cost.operators:
        for part, joules in operator_joules(operator, profile, batch_size).items():
            parts[part] += joules
    return Energy(parts=parts, source=f"model:{profile.name}", batch_size=batch_size)


def estimate_latency(cost: Cost, profile: DeviceProfile, batch_size: int = 1) -> float:
    """Estimate the seconds of one pass over a batch of `batch_size` images.

    Raises:
        ConfigError: the profile holds no timing at this batch size.
    """
    return sum(operator_seconds(operator, profile, batch_size) for operator in cost.operators)


def operator_joules(operator: OperatorCost, profile: DeviceProfile, batch_size: int = 1) -> dict[str, float]:
    """Joules per image of one operator, by part; linear in its counts but for the lanes in `static`."""
    if profile.joules_per_mac is None or profile.joules_per_byte is None or profile.joules_per_element_op is None:
        raise ConfigError(
            f"joules need a profile that holds them, but {profile.name!r} was made without a meter; "
            "calibrate with --power-w or take horowitz-45nm"
        )
    weight_byte_j = profile.joules_per_byte[profile.weight_level].value / batch_size
    activation_byte_j = profile.joules_per_byte[profile.activation_level].value
    parts = {
        "weights": operator.weight_bytes * weight_byte_j,
        "activations": (operator.read_bytes + operator.written_bytes) * activation_byte_j,
    }
    if operator.macs:
        parts["macs"] = operator.macs * _price(profile.joules_per_mac, operator.dtype, profile)
    if operator.element_ops:
        parts["element_ops"] = operator.element_ops * _price(profile.joules_per_element_op, operator.dtype, profile)
    if profile.static_power_w is not None:
        seconds = operator_seconds(operator, profile, batch_size) / batch_size
        parts["static"] = profile.static_power_w.value * seconds
    return parts


def operator_seconds(operator: OperatorCost, profile: DeviceProfile, batch_size: int = 1) -> float:
    """Seconds of one operator over a batch of `batch_size` images.

    Raises:
        ConfigError: the profile holds no timing at this batch size, or the operator computes in another type than the
            float32 that profiles are timed in.
    """
    timing = profile.timing(batch_size)
    if operator.dtype.startswith(("float", "bfloat", "complex")) and operator.dtype != "float32":
        raise ConfigError(
            f"a profile is timed in float32, but {profile.name!r} got a network that computes in {operator.dtype}; "
            "convert the network, or measure its time with hpsearch measure"
        )
    seconds = 0.0
    for field, count in timing_counts(operator, batch_size, timing.lanes).items():
        rates: dict[str, Quantity] = getattr(timing, field)
        rate = rates.get(operator.kind, rates.get("other"))
        if rate is None:
            raise ConfigError(
                f"latency needs {field} of every kind of operator, but {profile.name!r} has none for "
                f"{operator.kind!r}; add the number to a profile of your own, or search by energy or MACs"
            )
        seconds += count * rate.value
    return seconds


def timing_counts(operator: OperatorCost, batch_size: int, lanes: int) -> dict[str, float]:
    """What takes the time of one operator over a batch: counts by field of `Timing`, zeros left out.

    Channels are rounded up to `lanes`, in arithmetic and traffic: libraries store activations in blocks of so many.
    """
    read, made = (-(-n // lanes) * lanes / n if n else 1.0 for n in operator.channels)
    counts = {
        "seconds_per_mac": operator.macs * read * made * batch_size,
        "seconds_per_element_op": float(operator.element_ops * batch_size),
        "seconds_per_activation_byte": (operator.read_bytes * read + operator.written_bytes * made) * batch_size,
        "seconds_per_weight_byte": float(operator.weight_bytes),
        "seconds_per_operator": 1.0,
    }
    return {field: count for field, count in counts.items() if count}


def _price(prices: dict[str, Quantity], dtype: str, profile: DeviceProfile) -> float:
    price = prices.get(dtype)
    # integer and boolean element operations (indices, masks) are charged as float32
    if price is None and dtype.startswith(("int", "uint", "bool")):
        price = prices.get("float32")
    if price is None:
        known = ", ".join(sorted(prices))
        raise ConfigError(
            f"a profile prices the type that the network computes in, but {profile.name!r} knows {known}, not {dtype}; "
            "convert the network or add the number to a profile of your own"
        )
    return price.value
