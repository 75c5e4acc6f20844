"""Let the tests of the search import their helpers by plain name (`from archive_maker import make_row`)."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def open_rows(tmp_path):
    """Return a function that writes a run of rows and opens it."""
    from archive_maker import make_run

    from hpsearch.search_run import open_run

    def make(rows, **settings):
        make_run(tmp_path / "run", rows, **settings)
        return open_run(tmp_path / "run")

    return make


@pytest.fixture
def run(open_rows):
    """Return a run of 60 trials."""
    from archive_maker import make_rows

    return open_rows(make_rows(60))
