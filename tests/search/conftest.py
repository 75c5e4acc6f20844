"""Let the tests of the search import their helpers by plain name (`from archive_maker import make_row`)."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
