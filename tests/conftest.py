"""Let all tests import shared helpers by plain name (`from data_maker import make_cifar`)."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
