"""From a name or a reference to a search space."""

import difflib

from greenprune_core.errors import ConfigError
from greenprune_core.references import is_reference, load_reference
from search_spaces.space import SearchSpace, draws

_SPACES = {
    "digits": "search_spaces.digits:DIGITS",
    "fashion_mnist": "search_spaces.fashion_mnist:FASHION_MNIST",
    "cifar10": "search_spaces.cifar10:CIFAR10",
    "cifar100": "search_spaces.cifar100:CIFAR100",
    "tiny_imagenet": "search_spaces.tiny_imagenet:TINY_IMAGENET",
    "torchvision": "search_spaces.torchvision_zoo:TORCHVISION",
}
"""Name -> where it is defined; loaded when asked for."""


def space_names() -> tuple[str, ...]:
    """Names of the shipped spaces."""
    return tuple(_SPACES)


def load_space(name: str) -> SearchSpace:
    """Load a space by its name, or by `module:attribute` or `file.py:attribute`.

    The attribute is a SearchSpace, or a function `suggest(trial) -> TrialConfig`, whose draws then all count as
    scientific.

    Raises:
        ConfigError: no such space (the nearest are named), or the attribute is missing or something else.
    """
    if not is_reference(name):
        if name not in _SPACES:
            near = difflib.get_close_matches(name, _SPACES, n=3, cutoff=0.4) or list(_SPACES)
            raise ConfigError(
                f"a space is {', '.join(_SPACES)}, module:attribute or file.py:attribute, but got {name!r}; "
                f"nearest: {', '.join(near)}"
            )
        name = _SPACES[name]
    found = load_reference(name)
    if isinstance(found, SearchSpace):
        return found
    if callable(found):
        attribute = name.rpartition(":")[2]
        space = SearchSpace(name=attribute, suggest=found, description=(found.__doc__ or "").strip())
        return SearchSpace(name=attribute, suggest=found, scientific=tuple(draws(space)), description=space.description)
    raise ConfigError(
        f"a space is a SearchSpace or a function from a trial to a TrialConfig, but {name} is a "
        f"{type(found).__name__}; name the right attribute after the colon"
    )
