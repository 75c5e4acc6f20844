"""Let all tests import shared helpers by plain name (`from data_maker import make_cifar`)."""

import sys
from pathlib import Path

from hypothesis import settings

# on a crowded machine any example may take a second: how long an example takes is no property under test
settings.register_profile("greenprune", deadline=None)
settings.load_profile("greenprune")

sys.path.insert(0, str(Path(__file__).parent))
