"""Errors a reader can act on: the rule, the value that broke it, the way out."""


class GreenpruneError(Exception):
    """Base of all errors that this project raises on purpose."""


class ConfigError(GreenpruneError, ValueError):
    """A setting, a file or an argument that the user can correct."""


class DataError(ConfigError):
    """A data set that is missing, truncated, of the wrong size or with wrong values."""


class UnsupportedNetworkError(ConfigError):
    """A network that cannot be traced, gated or cut, with the layers named."""


class VerificationError(GreenpruneError):
    """A cut network whose outputs differ from those of the frozen gated one."""


class TrainingError(GreenpruneError):
    """A training run that cannot go on: NaN loss, collapsed gates, missed budget."""
