"""What the tests of the search share: tabulated trials, a session of Ray, and a driver that can be killed."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))


class Driver:
    """`hpsearch search` with sleeping trials, as a process of its own.

    Ray's processes carry the folder's name in their command line, so that a test can see whether any is left.
    """

    def __init__(self, root: Path, ray_folder: Path, **options: Any) -> None:
        flags = {"storage-path": root, "name": "run", "address": "local", **options}
        command = [sys.executable, str(BENCHMARKS / "tabulated.py")]
        for name, value in flags.items():
            command += [f"--{name}"] if value is True else [f"--{name}", str(value)]
        environment = {**os.environ, "RAY_TMPDIR": str(ray_folder), "OMP_NUM_THREADS": "1"}
        # at the niceness that Ray gives them workers starve beside other tests
        environment |= {"PYTHONPATH": str(BENCHMARKS), "RAY_worker_niceness": "0"}
        self.output = root / f"output-{time.monotonic_ns()}.txt"
        root.mkdir(parents=True, exist_ok=True)
        with self.output.open("w") as stream:
            self.process = subprocess.Popen(
                command, stdout=stream, stderr=subprocess.STDOUT, env=environment, start_new_session=True
            )

    def wait_for(self, n_rows: int, folder: Path, limit_s: float = 120) -> None:
        """Wait until so many rows are there."""
        ends = time.monotonic() + limit_s
        while len(list(folder.glob("trials/*.parquet"))) < n_rows:
            assert self.process.poll() is None, self.output.read_text()
            assert time.monotonic() < ends, self.output.read_text()
            time.sleep(0.05)

    def wait_until(self, holds: Callable[[], bool], limit_s: float = 120) -> None:
        """Wait until something holds while the driver lives."""
        ends = time.monotonic() + limit_s
        while not holds():
            assert self.process.poll() is None, self.output.read_text()
            assert time.monotonic() < ends, self.output.read_text()
            time.sleep(0.05)

    def wait_for_a_checkpoint(self, folder: Path, limit_s: float = 300) -> None:
        """Wait until a running trial has kept its state."""
        ends = time.monotonic() + limit_s
        while not list(folder.glob("checkpoints/*.pt")):
            assert self.process.poll() is None, self.output.read_text()
            assert time.monotonic() < ends, self.output.read_text()
            time.sleep(0.05)

    def kill(self) -> None:
        """End it without a goodbye."""
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def interrupt(self) -> None:
        """Press Ctrl-C: the whole process group hears it, as on a terminal."""
        os.killpg(self.process.pid, signal.SIGINT)

    def finish(self, limit_s: float = 150) -> int:
        """Wait for the end and return the exit code."""
        return self.process.wait(timeout=limit_s)


def processes_with(text: str) -> list[int]:
    """Return the ids of living processes whose command line holds a text."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            try:
                if text in (folder / "cmdline").read_bytes().decode(errors="replace"):
                    found.append(int(folder.name))
            except (FileNotFoundError, ProcessLookupError):
                continue
    return found


def wait_until_gone(text: str, limit_s: float = 30) -> list[int]:
    """Return who is still there after waiting for all to go."""
    ends = time.monotonic() + limit_s
    while (left := processes_with(text)) and time.monotonic() < ends:
        time.sleep(0.2)
    return left
