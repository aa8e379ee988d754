"""Two hosts on one machine: network namespaces with a cable between them, and all that hosts own.

Each has its own name, hosts file, disk, temporary folder and caches. The disk lies at the same
path on both; ``shared`` is one folder for both. Making them needs root on Linux.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest

from launching import MARK, ROOT, Finished, environment, kill_marked

PORT = 29511
_ENTER = """
hostname "$1" && mount --bind "$2/hosts" /etc/hosts && mount --bind "$2" "$3" && cd "$3" || exit 99
shift 3; exec "$@"
"""


@dataclass(frozen=True)
class Host:
    """One of the two.

    Attributes:
        name: host name, which both know.
        address: on the cable.
        namespace: of the network.
        files: its disk, as this process sees it.
        disk: where it sees the disk itself, as does the other host its own.
        number: 0 or 1.
    """

    name: str
    address: str
    namespace: str
    files: Path
    disk: Path
    number: int

    def command(self, *command: str) -> list[str]:
        """What runs a command there."""
        enter = ("sh", "-c", _ENTER, "enter", self.name, str(self.files), str(self.disk))
        inside = ("unshare", "--mount", "--uts", "--propagation", "private", *enter)
        return ["ip", "netns", "exec", self.namespace, *inside, *command]

    def rank(self, local: int = 0, per_host: int = 1) -> dict[str, str]:
        """The launch variables of one of its ranks, without a launcher."""
        values = {
            "RANK": self.number * per_host + local,
            "LOCAL_RANK": local,
            "WORLD_SIZE": 2 * per_host,
            "LOCAL_WORLD_SIZE": per_host,
            "MASTER_ADDR": "host-a",
            "MASTER_PORT": PORT,
        }
        return {name: str(value) for name, value in values.items()}


class Pair:
    """Two hosts and what lies between them."""

    def __init__(self, folder: Path) -> None:
        self._ranks: subprocess.Popen[str] | None = None
        self._mark, self._launches = os.urandom(16).hex(), 0
        self.shared = folder / "shared"
        self.shared.mkdir()
        disk = folder / "disk"
        disk.mkdir()
        tag = f"vc{os.getpid() % 100000}"
        self.hosts = tuple(
            Host(f"host-{letter}", f"10.77.0.{n + 1}", f"{tag}{letter}", folder / letter, disk, n)
            for n, letter in enumerate("ab")
        )
        for host in self.hosts:
            for name in ("tmp", "cache", "datasets", "home"):
                (host.files / name).mkdir(parents=True)
            others = "".join(f"{other.address} {other.name}\n" for other in self.hosts)
            (host.files / "hosts").write_text(f"127.0.0.1 localhost\n{others}")

    def start(self, *command: str, envs: Sequence[Mapping[str, str]] = ({}, {})) -> Launched:
        """A rank on each host, which runs a command of ``vit-colossal``."""
        if self._ranks is None:
            self._ranks = subprocess.Popen(
                [sys.executable, str(ROOT / "tests" / "host_ranks.py")],
                env=self.environment() | {MARK: self._mark},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        ranks, outputs = [], [self._outputs(host) for host in self.hosts]
        for host, env, (stdout, stderr) in zip(self.hosts, envs, outputs, strict=True):
            job = {
                "host": {name: str(value) for name, value in asdict(host).items()},
                "env": {**host.rank(), **env},
                "command": command,
                "stdout": str(stdout),
                "stderr": str(stderr),
            }
            ranks.append(Rank(self._ranks, job))
        return Launched(ranks, outputs)

    def launch(self, *command: str) -> Launched:
        """Any command on both hosts, such as torchrun's."""
        processes, outputs = [], [self._outputs(host) for host in self.hosts]
        for host, (stdout, stderr) in zip(self.hosts, outputs, strict=True):
            with stdout.open("w") as out, stderr.open("w") as err:
                process = subprocess.Popen(
                    host.command(*command),
                    env=self.environment() | {MARK: self._mark},
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=err,
                    start_new_session=True,
                    text=True,
                )
            processes.append(process)
        return Launched(processes, outputs)

    def environment(self) -> dict[str, str]:
        """Of every process: its paths lie on each host's own disk."""
        folders = {
            "TMPDIR": "tmp",
            "VIT_COLOSSAL_CACHE": "cache",
            "HF_DATASETS_CACHE": "datasets",
            "HOME": "home",
        }
        disk = self.hosts[0].disk
        values = environment(**{name: str(disk / folder) for name, folder in folders.items()})
        values.pop("GLOO_SOCKET_IFNAME", None)  # processes of one machine, as --nproc starts them
        return values

    def train(self, *flags: str) -> list[Finished]:
        """``vit-colossal train`` with one rank on each host, to the end."""
        return self.start("train", "--device", "cpu", *flags).wait()

    def close(self) -> None:
        """End all that runs there."""
        kill_marked(self._mark)
        if self._ranks is not None:
            self._ranks.wait(30)

    def _outputs(self, host: Host) -> tuple[Path, Path]:
        self._launches += 1
        out, err = (host.files / f"terminal-{self._launches}.{kind}" for kind in ("out", "err"))
        out.touch()
        err.touch()
        return out, err

    def cut(self) -> None:
        """Pull the cable: what is sent arrives nowhere, and nobody is told."""
        nobody = ("lladdr", "02:00:00:00:00:99", "nud", "permanent")
        for host, other in zip(self.hosts, self.hosts[::-1], strict=True):
            place = ("neigh", "replace", other.address, "dev", "cable")
            _run("ip", "-n", host.namespace, *place, *nobody)

    def plug_in(self) -> None:
        """And put it back."""
        for host, other in zip(self.hosts, self.hosts[::-1], strict=True):
            _run("ip", "-n", host.namespace, "neigh", "del", other.address, "dev", "cable")


class Rank:
    """One process of `host_ranks`; as much of ``subprocess.Popen`` as is needed."""

    def __init__(self, ranks: subprocess.Popen[str], job: Mapping[str, Any]) -> None:
        self._ranks, self.returncode = ranks, None
        self.pid = self._ask({"start": job})

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = self._ask({"poll": self.pid})
        return self.returncode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def _ask(self, request: Mapping[str, Any]) -> Any:
        assert self._ranks.stdin is not None and self._ranks.stdout is not None
        self._ranks.stdin.write(json.dumps(request) + "\n")
        self._ranks.stdin.flush()
        return json.loads(self._ranks.stdout.readline())


class Launched:
    """A process on each host, and what their terminals show."""

    def __init__(
        self,
        processes: Sequence[subprocess.Popen[str] | Rank],
        outputs: Sequence[tuple[Path, Path]],
    ) -> None:
        self.processes, self.outputs = processes, outputs

    def output(self, number: int) -> str:
        """What one host's terminal shows by now."""
        return "".join(path.read_text(errors="replace") for path in self.outputs[number])

    def until(self, text: str, number: int = 0, timeout_s: float = 240) -> None:
        """Wait until one host has said something."""
        deadline = time.monotonic() + timeout_s
        while text not in self.output(number):
            if time.monotonic() > deadline or self.processes[number].poll() is not None:
                self.kill()
                raise AssertionError(f"no {text!r}:\n{self.output(0)}\n---\n{self.output(1)}")
            time.sleep(0.05)

    def wait(self, timeout_s: float = 300) -> list[Finished]:
        """Both, once they have ended by themselves.

        Raises:
            AssertionError: one did not in time; both are killed.
        """
        deadline = time.monotonic() + timeout_s
        while any(process.poll() is None for process in self.processes):
            if time.monotonic() > deadline:
                self.kill()
                text = f"not done after {timeout_s} s:\n{self.output(0)}\n---\n{self.output(1)}"
                raise AssertionError(text)
            time.sleep(0.05)
        return [
            Finished(process.returncode or 0, out.read_text(), err.read_text(), [])
            for process, (out, err) in zip(self.processes, self.outputs, strict=True)
        ]

    def kill(self) -> None:
        for process in self.processes:
            while process.poll() is None:
                process.send_signal(signal.SIGKILL)
                time.sleep(0.05)


@contextmanager
def two_hosts(folder: Path) -> Iterator[Pair]:
    """Make them; skips the test where that is not allowed."""
    if sys.platform != "linux" or os.geteuid():
        pytest.skip("two hosts on one machine: network namespaces need root on Linux")
    pair = Pair(folder)
    try:
        for host in pair.hosts:
            if _tried("ip", "netns", "add", host.namespace):
                pytest.skip("two hosts on one machine: network namespaces are not allowed here")
        _cable(pair)
        yield pair
    finally:
        pair.close()
        for host in pair.hosts:
            subprocess.run(["ip", "netns", "del", host.namespace], capture_output=True, check=False)


def _cable(pair: Pair) -> None:
    a, b = pair.hosts
    if _tried(
        "ip",
        "link",
        "add",
        "cable",
        "netns",
        a.namespace,
        "type",
        "veth",
        "peer",
        "name",
        "cable",
        "netns",
        b.namespace,
    ):
        pytest.skip("two hosts on one machine: no pair of network devices can be made here")
    for host in pair.hosts:
        _run("ip", "-n", host.namespace, "addr", "add", f"{host.address}/24", "dev", "cable")
        _run("ip", "-n", host.namespace, "link", "set", "cable", "up")
        _run("ip", "-n", host.namespace, "link", "set", "lo", "up")


def _tried(*command: str) -> str:
    """Why a command failed; nothing when it did not."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        return str(error)
    return done.stderr or "failed" if done.returncode else ""


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)
