"""Make drivers without Ray and kill each at a random moment: `python storm.py FOLDER TRIALS KILLS SEED`.

Each driver opens the run, reconciles it, and books trials as fast as it can; the last one is left to finish. Between
kills the run is inspected and one line of JSON printed.
"""

import contextlib
import json
import os
import random
import signal
import sys
import time
from pathlib import Path


def drive(folder: Path, n_trials: int) -> None:
    """Open the run and work until all trials have a row, like the tuner does."""
    import tabulated

    from hpsearch.lock import DriverLock
    from hpsearch.objectives import choose
    from hpsearch.storage import RunStorage
    from hpsearch.study.journal import DriverJournal
    from hpsearch.study.ledger import Ledger
    from hpsearch.study.search_study import SearchStudy

    storage = RunStorage.open(folder)
    lock = DriverLock(storage)
    study = SearchStudy(
        DriverJournal(storage), name="run", space=tabulated.SPACE, objectives=choose(), sampler="nsga2", seed=1
    )
    ledger = Ledger(storage, study, choose())
    ledger.reconcile()
    running = []
    while ledger.n_finished + len(running) < n_trials or running:
        while len(running) < 3 and ledger.n_finished + len(running) < n_trials:
            suggestion = ledger.suggest()
            assert suggestion is not None
            running.append(suggestion)
        done = running.pop(0)
        if int(done.trial_id, 16) % 7 == 0:
            ledger.stop(done.trial_id, "behind", {"epochs": 1})
        elif int(done.trial_id, 16) % 7 == 1:
            ledger.fail(done.trial_id, "loss is NaN")
        else:
            ledger.finish(done.trial_id, tabulated.InstantTrial(done.config, folder).finish())
    lock.release()


def hypervolume(folder: Path) -> float:
    """Recompute the volume from the raw rows, with one fixed corner."""
    from hpsearch import archive
    from hpsearch.pareto import hypervolume as volume
    from hpsearch.storage import RunStorage

    trials = archive.read_archive(RunStorage.open(folder))
    assert not trials.damaged, trials.damaged
    rows = [row for row in archive.rows(trials.table) if row["state"] == "complete"]
    return volume([(1 - row["val_accuracy"], row["energy_j"]) for row in rows], (1.0, 1e-6)) if rows else 0.0


def fork(work: object, *arguments: object) -> int:
    """Run work in a child process and return its id."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work(*arguments)  # type: ignore[operator]
            code = 0
        finally:
            os._exit(code)
    return pid


def _wait_for_growth(journal: Path, n_bytes: int) -> None:
    """Wait until the driver has written so much: a moment in its work, however slow the machine is."""
    before = journal.stat().st_size if journal.exists() else 0
    ends = time.monotonic() + 20
    while time.monotonic() < ends and (not journal.exists() or journal.stat().st_size < before + n_bytes):
        time.sleep(0.001)


def report(folder: Path) -> None:
    n_rows = len(list(folder.glob("trials/*.parquet")))
    print(json.dumps({"n_rows": n_rows, "hypervolume": hypervolume(folder)}), flush=True)


def main(folder: Path, n_trials: int, n_kills: int, seed: int) -> None:
    # what every driver needs is loaded once; nothing is opened before the forks
    import optuna  # noqa: F401
    import tabulated  # noqa: F401

    import hpsearch.study.ledger  # noqa: F401

    with contextlib.suppress(ImportError):
        import pandas  # noqa: F401  pyarrow loads it, where it is installed, at its first conversion

    moments = random.Random(seed)
    for _ in range(n_kills):
        child = fork(drive, folder, n_trials)
        _wait_for_growth(folder / "study.journal", moments.randrange(1, 45_000))
        time.sleep(moments.uniform(0.0, 0.01))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.waitpid(fork(report, folder), 0)
    _, status = os.waitpid(fork(drive, folder, n_trials), 0)
    assert status == 0, status
    os.waitpid(fork(report, folder), 0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
