"""Hosts made of namespaces: each with its own network, processes, mounts, name, home, /tmp, shared memory and sshd.

    switch ---- laptop    types `ray up`, `ray submit`; has a copy of the repository and an installation
       |------- head
       |------- worker1, worker2, ...

Nothing is changed outside: the bridge lives in a network namespace of its own, the files in one folder under /var/tmp.
Ray needs of a host (each was missed once): a default route, or it takes 127.0.0.1 for its own address; its own
processes, because `ray stop` ends every Ray it can see; its own /tmp, /dev/shm and home.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
TOOLS = ("ip", "setpriv", "unshare", "nsenter", "sshd", "ssh", "ssh-keygen", "rsync", "mount")
MOUNTED = ("greenprune_core", "search_spaces", "hpsearch", "pyproject.toml", "constraints.txt", "README.md", "LICENSE")

INIT = """
set -e
hostname {name}
ip link set lo up
mount --make-rprivate /
mount --bind {folder}/passwd /etc/passwd
mount --bind {base}/etc-hosts /etc/hosts
mount -t tmpfs tmpfs /dev/shm
mount --bind {folder}/tmp /tmp
mkdir -p /run/sshd
mount --bind {folder}/home {base}/home
cd {base}/home
touch {folder}/ready
/usr/sbin/sshd -D -e -f {folder}/sshd_config 2>{folder}/sshd.log &
while true; do wait || true; sleep 1; done   # the first process: it adopts and reaps what Ray leaves behind
"""

SSHD = """
Port 22
HostKey {base}/key
AuthorizedKeysFile {base}/key.pub
StrictModes no
UsePAM no
PidFile none
PermitRootLogin yes
PasswordAuthentication no
MaxStartups 100:30:200
MaxSessions 100
"""

BASHRC = """
# what an administrator of such a machine would have set up: uv, Python, and packages from the machine's cache
export PATH={base}/bin:{python_bin}:$PATH
export UV_OFFLINE=1 UV_CACHE_DIR={uv_cache} UV_PYTHON_DOWNLOADS=never UV_LINK_MODE=symlink
# the homes of all hosts have one path, so what one of them has compiled serves the others
export PYTHONPYCACHEPREFIX={base}/pycache
# real machines run little beside the trials; these share processors with all that runs here, where Ray's 15 starves
export RAY_worker_niceness=0
"""


def missing_tools() -> str | None:
    """Say why hosts cannot be made here, or None."""
    if os.geteuid() != 0:
        return "making namespaces needs root"
    absent = [tool for tool in TOOLS if shutil.which(tool, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None]
    if absent:
        return f"needs {', '.join(absent)}"
    if _uv() is None:
        return "needs uv, which installs on each host"
    probe = subprocess.run(
        ["unshare", "--net", "--pid", "--mount", "--uts", "--fork", "--mount-proc", "true"],
        capture_output=True,
        check=False,
    )
    return None if probe.returncode == 0 else f"this machine allows no namespaces: {probe.stderr.decode().strip()}"


class Host:
    """One machine: its first process, its address, and commands run on it."""

    def __init__(self, cluster: "Hosts", name: str, number: int) -> None:
        self.cluster, self.name, self.ip = cluster, name, f"{cluster.prefix}.{number}"
        self.folder = cluster.base / name
        self.home = self.folder / "home"
        """Its home seen from outside; inside, all hosts have theirs at one path."""
        self.namespace = f"{cluster.id}-{name}"
        self.link = f"{cluster.id[:10]}-{number}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Boot: make the namespaces and wait until ssh answers."""
        base = self.cluster.base
        for inner in ("home", "tmp"):
            (self.folder / inner).mkdir(parents=True, exist_ok=True)
        (self.folder / "tmp").chmod(0o1777)
        passwd = Path("/etc/passwd").read_text().splitlines()
        passwd = [f"root:x:0:0:root:{base}/home:/bin/bash" if line.startswith("root:") else line for line in passwd]
        (self.folder / "passwd").write_text("\n".join(passwd) + "\n")
        (self.folder / "sshd_config").write_text(SSHD.format(base=base))
        python_bin = Path(sys.base_prefix) / "bin"
        rc = BASHRC.format(base=base, python_bin=python_bin, uv_cache=self.cluster.uv_cache)
        if not (self.home / ".bashrc").exists():
            (self.home / ".bashrc").write_text(rc)
        (self.folder / "ready").unlink(missing_ok=True)
        self._plug_in()
        # a session of its own, so that Ctrl-C does not reach the machines; yet they end when the test is killed
        self._process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "ip", "netns", "exec", self.namespace, "unshare", "--pid", "--mount",
             "--uts", "--ipc", "--fork", "--kill-child", "--mount-proc", "bash", "-c",
             INIT.format(name=self.name, folder=self.folder, base=base)],
            start_new_session=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip
        wait_for(lambda: (self.folder / "ready").exists(), f"{self.name} to boot", 20)

    def kill(self) -> None:
        """Pull the plug: SIGKILL to the first process takes every other with it, at once."""
        assert self._process is not None
        os.kill(self._first_process(), 9)
        self._process.wait(timeout=20)
        self._process = None
        _ip("link", "delete", f"{self.link}s", namespace=self.cluster.switch, check=False)
        _ip("netns", "delete", self.namespace, check=False)

    def reboot(self) -> None:
        """Start again with the same disk; memory, processes and /tmp are gone."""
        shutil.rmtree(self.folder / "tmp", ignore_errors=True)
        self.start()

    def cut_off(self) -> None:
        """Take the network away; everything on the host goes on running."""
        _ip("link", "set", f"{self.link}s", "down", namespace=self.cluster.switch)

    def reconnect(self) -> None:
        """Give the network back."""
        _ip("link", "set", f"{self.link}s", "up", namespace=self.cluster.switch)

    def run(self, command: str, timeout: float = 120, check: bool = True, **environment: str) -> str:
        """Run a command in a login shell on the host and return what it printed.

        Raises:
            AssertionError: it failed, with its output.
        """
        done = subprocess.run(
            self.argv(command), cwd="/", capture_output=True, text=True, timeout=timeout, check=False,
            stdin=subprocess.DEVNULL, env={**self.environment(), **environment},
        )  # fmt: skip
        output = done.stdout + done.stderr
        assert not check or done.returncode == 0, f"{self.name}: {command}\nended with {done.returncode}\n{output}"
        return output

    def begin(self, command: str, log: Path) -> subprocess.Popen[bytes]:
        """Start a command in a login shell on the host; its output goes to `log`."""
        with log.open("wb") as file:
            return subprocess.Popen(
                self.argv(command), cwd="/", stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
                env=self.environment(), start_new_session=True,
            )  # fmt: skip

    @property
    def is_running(self) -> bool:
        """Whether it was booted and has not died since."""
        return self._process is not None and self._process.poll() is None

    def n_processes(self, name: str) -> int:
        """Number of processes whose command line contains `name`."""
        lines = self.run("ps -eo args=", check=False).splitlines()
        return sum(name in line and "ps -eo" not in line for line in lines)

    def argv(self, command: str) -> list[str]:
        """The command line that runs `command` inside the host."""
        shell = f"cd {self.cluster.base}/home; . ./.bashrc; {command}"
        return ["nsenter", "--target", str(self._first_process()), "--all", "bash", "--login", "-c", shell]

    def environment(self) -> dict[str, str]:
        """Variables with which a login on it begins."""
        path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        return {"HOME": f"{self.cluster.base}/home", "PATH": path, "TERM": "dumb", "LANG": "C.UTF-8", "USER": "root"}

    def _first_process(self) -> int:
        assert self._process is not None, f"{self.name} is not running"
        # Popen's process is unshare itself; its only child is the first process of the new PID namespace
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        assert len(children) == 1, f"{self.name} died: {self._process.poll()}"
        return int(children[0])

    def _plug_in(self) -> None:
        inside, outside = f"{self.link}h", f"{self.link}s"
        _ip("netns", "add", self.namespace)
        _ip("link", "add", outside, "type", "veth", "peer", "name", inside, "netns", self.namespace,
            namespace=self.cluster.switch)  # fmt: skip
        _ip("link", "set", outside, "master", "bridge", "up", namespace=self.cluster.switch)
        _ip("address", "add", f"{self.ip}/24", "dev", inside, namespace=self.namespace)
        _ip("link", "set", inside, "up", namespace=self.namespace)
        _ip("route", "add", "default", "via", f"{self.cluster.prefix}.1", namespace=self.namespace)


class Hosts:
    """A laptop, a head and workers on one switch, with a folder that all of them share."""

    def __init__(self, n_workers: int) -> None:
        self.id = f"gp{os.getpid()}"
        self.prefix = "10.231.77"  # its own namespaces: no other network can be meant
        self.switch = f"{self.id}-switch"
        self.base = Path(tempfile.mkdtemp(prefix="greenprune-hosts-", dir="/var/tmp"))
        self.shared = self.base / "shared"
        self.uv_cache = subprocess.check_output([str(_uv()), "cache", "dir"], text=True).strip()
        self.laptop = Host(self, "laptop", 2)
        self.head = Host(self, "head", 10)
        self.workers = [Host(self, f"worker{number}", 10 + number) for number in range(1, n_workers + 1)]

    @property
    def all(self) -> Sequence[Host]:
        """Every machine, the laptop included."""
        return [self.laptop, self.head, *self.workers]

    def start(self) -> None:
        """Make the switch and boot every machine; put a copy of the repository on the laptop."""
        # in memory: an installation is 60,000 links, and taking five of them off a disk again takes a minute
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8g", "tmpfs", str(self.base)], check=True)
        for inner in ("shared", "bin", "home"):
            (self.base / inner).mkdir()
        shutil.copy2(str(_uv()), self.base / "bin" / "uv")
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.base / "key")], check=True)
        names = "".join(f"{host.ip} {host.name}\n" for host in self.all)
        (self.base / "etc-hosts").write_text("127.0.0.1 localhost\n" + names)
        _ip("netns", "add", self.switch)
        _ip("link", "add", "bridge", "type", "bridge", namespace=self.switch)
        _ip("address", "add", f"{self.prefix}.1/24", "dev", "bridge", namespace=self.switch)
        _ip("link", "set", "bridge", "up", namespace=self.switch)
        for host in self.all:
            host.start()
        repository = self.laptop.home / "repository"
        repository.mkdir()
        for name in MOUNTED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, repository / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy2(source, repository / name)

    def stop(self) -> None:
        """End every machine and remove everything."""
        for host in self.all:
            if host._process is not None:
                host.kill()
        for namespace in (*(host.namespace for host in self.all), self.switch):
            _ip("netns", "delete", namespace, check=False)
        subprocess.run(["umount", "--lazy", str(self.base)], check=False, capture_output=True)
        shutil.rmtree(self.base, ignore_errors=True)


def _uv() -> str | None:
    beside = ROOT / ".uv" / "bin" / "uv"
    return shutil.which("uv") or (str(beside) if beside.exists() else None)


def _ip(*arguments: str, namespace: str | None = None, check: bool = True) -> None:
    inside = ["-n", namespace] if namespace else []
    done = subprocess.run(["ip", *inside, *arguments], capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, f"ip {' '.join([*inside, *arguments])}: {done.stderr}"


def wait_for(condition: Callable[[], bool], what: str, seconds: float) -> None:
    """Return as soon as the condition holds.

    Raises:
        AssertionError: it did not within that time.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s for {what}"
        time.sleep(0.05)
