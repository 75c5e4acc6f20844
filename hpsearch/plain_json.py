"""JSON that every reader takes: null for NaN and infinities, which JSON does not have."""

import json
import math
from collections.abc import Iterable
from typing import Any


def to_json(value: Any) -> str:
    """Write plain values as indented JSON."""
    return json.dumps(finite(value), indent=2, allow_nan=False)


def finite(value: Any) -> Any:
    """Return the value with None for NaN and infinities, lists for other sequences, and text for what JSON lacks."""
    if isinstance(value, dict):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str | int) or value is None:
        return value
    if isinstance(value, Iterable):
        return [finite(inner) for inner in value]
    return value.isoformat() if hasattr(value, "isoformat") else str(value)
