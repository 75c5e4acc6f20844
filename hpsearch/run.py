"""Entry of `ray submit cluster.yaml hpsearch/run.py`: `hpsearch search` with the arguments given here."""

import sys
from pathlib import Path

if __name__ == "__main__":
    # run in place, this folder is first on the import path, where our `trial` or `report` could hide another package's
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).resolve().parent]
    from hpsearch.cli import main

    sys.exit(main(["search", *sys.argv[1:]]))
