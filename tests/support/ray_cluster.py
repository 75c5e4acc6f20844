"""A Ray cluster on hosts of namespaces, launched from the laptop by the cluster file that users get."""

import contextlib
import fcntl
import json
import os
import pty
import signal
import subprocess
import termios
import threading
from pathlib import Path
from typing import Any

from namespace_hosts import ROOT, Host, Hosts, wait_for

from hpsearch.archive import read_trials, rows
from hpsearch.storage import RunStorage

NODES = (
    "import json, urllib.request as u; "
    "found = json.load(u.urlopen('http://127.0.0.1:8265/api/v0/nodes', timeout=20))['data']['result']['result']; "
    "print('NODES', json.dumps({n['node_ip']: n['node_id'] for n in found if n['state'] == 'ALIVE'}))"
)


class RayCluster:
    """`deploy/on_prem.yaml` with only its provider, login and search replaced."""

    def __init__(self, hosts: Hosts, workers: list[Host], **search: str) -> None:
        self.hosts, self.workers = hosts, workers
        self.storage = hosts.shared / "runs"
        self.repository = hosts.laptop.home / "repository"
        self._begun: list[Submitted] = []
        self._write_file(search)

    @property
    def members(self) -> set[str]:
        """Names of the machines that the cluster file lists."""
        return {host.name for host in (self.hosts.head, *self.workers)}

    def up(self) -> None:
        """`ray up` from the laptop, then wait until every machine has joined."""
        self.laptop("ray up -y cluster.yaml")
        self.await_nodes(self.members)

    def settle(self) -> None:
        """Bring the members back to what each test starts from, whatever the test before it has left."""
        for begun in self._begun:
            self._end(begun)
        self._begun.clear()
        for host in self.hosts.all:
            if not host.is_running:
                host.reboot()
            elif host.name not in self.members and host.n_processes("raylet"):
                host.run("PATH=~/.greenprune/bin:$PATH; ray stop --force")
            host.reconnect()
        if not self.hosts.head.n_processes("gcs_server"):
            self.up()
            return
        with contextlib.suppress(AssertionError):
            self.await_nodes(self.members)
            return
        self.up()

    def await_nodes(self, names: set[str], seconds: float = 240) -> None:
        """Wait until just these machines are members."""
        wait_for(lambda: set(self.nodes()) == names, f"the members to be {sorted(names)}", seconds)

    def nodes(self) -> dict[str, str]:
        """Machines that are members now, by name, with Ray's ids of them."""
        output = self.hosts.head.run(f'python -c "{NODES}"', check=False)
        lines = [line for line in output.splitlines() if line.startswith("NODES ")]
        found: dict[str, str] = json.loads(lines[-1][6:]) if lines else {}
        names = {host.ip: host.name for host in self.hosts.all}
        return {names[ip]: node for ip, node in found.items()}

    def laptop(self, command: str, timeout: float = 400) -> str:
        """Type a command on the laptop, in the repository, with the package installed."""
        return self.hosts.laptop.run(f"cd repository && PATH=~/venv/bin:$PATH; {command}", timeout)

    def submit(self, name: str, *options: str) -> "Submitted":
        """Start `ray submit cluster.yaml hpsearch/run.py -- --name NAME ...` and return at once."""
        words = " ".join((f"--name {name}", *options))
        return self.begin(name, f"ray submit cluster.yaml hpsearch/run.py -- {words}")

    def begin(self, name: str, command: str) -> "Submitted":
        """Start a command on the laptop, typed in a terminal, that searches the run `name`."""
        log = self.hosts.base / f"submit-{name}-{os.urandom(2).hex()}.log"
        argv = self.hosts.laptop.argv(f"cd repository && PATH=~/venv/bin:$PATH; {command}")
        begun = Submitted(argv, self.hosts.laptop.environment(), log, self.storage / name)
        self._begun.append(begun)
        return begun

    def driver_pids(self, name: str) -> list[int]:
        """Process ids, as the head counts them, of the drivers of a run."""
        lines = self.hosts.head.run("ps -eo pid=,args=", check=False).splitlines() if self.hosts.head.is_running else []
        found = (line.split(maxsplit=1) for line in lines if f"run.py --name {name}" in line)
        return [int(pid) for pid, command in found if command.startswith("python ")]

    def _end(self, begun: "Submitted") -> None:
        if begun.process.poll() is None:
            for pid in self.driver_pids(begun.run.name):
                self.hosts.head.run(f"kill -9 {pid}", check=False)
            begun.process.kill()
            begun.process.wait(timeout=20)

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


def _take_terminal() -> None:
    """Be what a terminal starts: it is ours, and its signals count, even if the tests run where they are ignored."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)


class Submitted:
    """A search under way, started in a terminal of its own and seen from outside: its output and its run folder."""

    def __init__(self, argv: list[str], environment: dict[str, str], log: Path, run: Path) -> None:
        self.log, self.run = log, run
        log.touch()
        self._terminal, inner = pty.openpty()
        self.process = subprocess.Popen(
            argv, cwd="/", stdin=inner, stdout=inner, stderr=inner, env=environment, start_new_session=True,
            preexec_fn=_take_terminal,
        )  # fmt: skip
        os.close(inner)
        threading.Thread(target=self._copy, daemon=True).start()

    def press_ctrl_c(self) -> None:
        """Type Ctrl-C in its terminal."""
        os.write(self._terminal, b"\x03")

    def close_terminal(self) -> None:
        """Close the terminal's window: what runs in it gets SIGHUP."""
        os.killpg(self.process.pid, signal.SIGHUP)

    def await_output(self, text: str, seconds: float = 120) -> None:
        """Wait until it has printed a text, wherever its lines are broken."""
        wanted = "".join(text.split())
        wait_for(lambda: wanted in "".join(self.output.split()), f"{text!r} to be printed", seconds)

    @property
    def output(self) -> str:
        """What it has printed so far."""
        return self.log.read_text(errors="replace").replace("\r\n", "\n")

    def rows(self) -> list[dict[str, Any]]:
        """Rows of the trials that have ended."""
        if not (self.run / "trials").is_dir():
            return []
        return rows(read_trials(RunStorage.open(str(self.run))))

    def kept_states(self) -> set[str]:
        """Trials that have not ended and whose state is kept."""
        kept = {path.stem for path in (self.run / "checkpoints").glob("*.pt")}
        return kept - {row["trial_id"] for row in self.rows()}

    def await_rows(self, n: int, seconds: float = 240) -> None:
        """Wait until n trials have ended."""
        wait_for(lambda: len(self.rows()) >= n or self.process.poll() is not None, f"{n} trials to end", seconds)
        assert len(self.rows()) >= n, self.output

    def await_states(self, n: int, seconds: float = 240) -> set[str]:
        """Wait until n running trials have kept a state to go on from, and return them."""
        kept: set[str] = set()

        def are_kept() -> bool:
            kept.clear()
            kept.update(self.kept_states())
            return len(kept) >= n or (self.process.poll() or 0) != 0

        wait_for(are_kept, f"{n} running trials to keep their states", seconds)
        assert len(kept) >= n, self.output
        return kept

    def await_end(self, seconds: float = 700, code: int = 0) -> str:
        """Wait for the end, a good one if no other code is expected, and return the output."""
        try:
            found = self.process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"no end after {seconds:.0f} s:\n{self.output}") from None
        assert found == code, self.output
        return self.output

    def _copy(self) -> None:
        with self.log.open("wb", buffering=0) as file, contextlib.suppress(OSError):  # EIO: the last writer has gone
            while content := os.read(self._terminal, 65536):
                file.write(content)
        os.close(self._terminal)
