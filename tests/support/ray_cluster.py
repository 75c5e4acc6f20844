"""A Ray cluster on hosts of namespaces, launched from the laptop by the cluster file that users get."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from namespace_hosts import ROOT, Host, Hosts, wait_for

from hpsearch.archive import read_trials
from hpsearch.storage import RunStorage

NODES = (
    "import json, ray; ray.init(address='auto', log_to_driver=False, logging_level=40); "
    "print('NODES', json.dumps([n['NodeManagerHostname'] for n in ray.nodes() if n['Alive']]))"
)


class RayCluster:
    """`deploy/on_prem.yaml` with only its provider, login and search replaced."""

    def __init__(self, hosts: Hosts, workers: list[Host], **search: str) -> None:
        self.hosts, self.workers = hosts, workers
        self.storage = hosts.shared / "runs"
        self.repository = hosts.laptop.home / "repository"
        self._write_file(search)

    def up(self) -> None:
        """`ray up` from the laptop, then wait until every machine has joined."""
        self.laptop("ray up -y cluster.yaml")
        self.await_nodes({host.name for host in (self.hosts.head, *self.workers)})

    def await_nodes(self, names: set[str], seconds: float = 240) -> None:
        """Wait until just these machines are members."""
        wait_for(lambda: set(self.nodes()) == names, f"the members to be {sorted(names)}", seconds)

    def nodes(self) -> list[str]:
        """Names of the machines that are members now."""
        output = self.hosts.head.run(f'python -c "{NODES}"', check=False)
        lines = [line for line in output.splitlines() if line.startswith("NODES ")]
        names: list[str] = json.loads(lines[-1][6:]) if lines else []
        return names

    def laptop(self, command: str, timeout: float = 400) -> str:
        """Type a command on the laptop, in the repository, with the package installed."""
        return self.hosts.laptop.run(f"cd repository && PATH=~/venv/bin:$PATH; {command}", timeout)

    def submit(self, name: str, *options: str) -> "Submitted":
        """Start `ray submit cluster.yaml hpsearch/run.py -- --name NAME ...` and return at once."""
        words = " ".join((f"--name {name}", *options))
        return self._begin(name, f"ray submit cluster.yaml hpsearch/run.py -- {words}")

    def _begin(self, name: str, command: str) -> "Submitted":
        log = self.hosts.base / f"submit-{name}-{os.urandom(2).hex()}.log"
        process = self.hosts.laptop.begin(f"cd repository && PATH=~/venv/bin:$PATH; {command}", log)
        return Submitted(process, log, self.storage / name)

    def _write_file(self, search: dict[str, str]) -> None:
        text = (ROOT / "deploy" / "on_prem.yaml").read_text()
        changes = {
            "EDIT-ME-HEAD": self.hosts.head.ip,
            "EDIT-ME-WORKER-1, EDIT-ME-WORKER-2": ", ".join(host.ip for host in self.workers),
            "EDIT-ME-USER": "root",
            "~/.ssh/id_ed25519": str(self.hosts.base / "key"),
            "EDIT-ME-SHARED-FOLDER/greenprune": str(self.storage),
            "HPSEARCH_SPACE=cifar10": "HPSEARCH_SPACE=digits",
            "HPSEARCH_GPUS_PER_TRIAL=0.25": "HPSEARCH_GPUS_PER_TRIAL=0",
            **search,
        }
        for old, new in changes.items():
            assert old in text, f"deploy/on_prem.yaml has no {old}"
            text = text.replace(old, new)
        assert "EDIT-ME" not in text
        (self.repository / "cluster.yaml").write_text(text)


class Submitted:
    """A search under way, seen from outside: its output and its run folder."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path, run: Path) -> None:
        self.process, self.log, self.run = process, log, run

    @property
    def output(self) -> str:
        """What it has printed so far."""
        return self.log.read_text(errors="replace")

    def rows(self) -> list[dict[str, Any]]:
        """Rows of the trials that have ended."""
        if not (self.run / "trials").is_dir():
            return []
        found: list[dict[str, Any]] = read_trials(RunStorage.open(str(self.run))).to_pylist()
        return found

    def kept_states(self) -> set[str]:
        """Trials that have not ended and whose state is kept."""
        kept = {path.stem for path in (self.run / "checkpoints").glob("*.pt")}
        return kept - {row["trial_id"] for row in self.rows()}

    def await_rows(self, n: int, seconds: float = 240) -> None:
        """Wait until n trials have ended."""
        wait_for(lambda: len(self.rows()) >= n or self.process.poll() is not None, f"{n} trials to end", seconds)
        assert len(self.rows()) >= n, self.output

    def await_end(self, seconds: float = 700) -> str:
        """Wait for a good end and return the output."""
        try:
            code = self.process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(f"no end after {seconds:.0f} s:\n{self.output}") from None
        assert code == 0, self.output
        return self.output
