# SPDX-License-Identifier: Apache-2.0
"""Keeps the ROS traffic of a test run to itself, and starts node executables as real processes."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mlkd_ros.share import fastdds_environment, share_directory
from mlkd_ros.shared_memory import remove_abandoned_segments


def _claim_domain() -> int:
    """Find a DDS domain that no other pytest process on this machine uses.

    Claimed by a lock on a file that stays open as long as this process lives. Above 101 the ports
    of a domain fall into the range that the system hands out.
    """
    for domain in range(1, 102):
        path = Path(tempfile.gettempdir()) / f"mlkd_ros_domain_{domain}.lock"
        try:
            fcntl.flock(os.open(path, os.O_RDWR | os.O_CREAT), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # taken, or another user's
            continue
        return domain
    raise RuntimeError("all 101 DDS domains are in use by other test runs")


# Before anything imports rclpy; inherited by the processes that tests start. Not from the
# environment: the workers of one xdist run inherit the same.
os.environ["ROS_DOMAIN_ID"] = str(_claim_domain())
os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
os.environ["ROS_PYTHON_CHECK_FIELDS"] = "1"  # a wrong type is an error, not garbage on the wire
os.environ.setdefault("ROS_LOG_DIR", tempfile.mkdtemp(prefix="mlkd_ros_log_"))
os.environ.update(fastdds_environment())


def _listen_to_signals() -> None:
    """As in a terminal, also where the tests were started in the background or by nohup, which
    have all their processes ignore some: what tests send is to arrive.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


_listen_to_signals()


def pytest_sessionstart() -> None:
    """Make room: a run that was killed leaves what its processes shared, in memory."""
    remove_abandoned_segments()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say loudly, in the last lines, that the page was not tried in a browser."""
    from browser import EXECUTABLE

    if EXECUTABLE is None:
        terminalreporter.section("NOT TESTED: the page and videos in a real browser", red=True)
        terminalreporter.line("There is no chromium here. To test them, too:")
        terminalreporter.line("  sudo apt-get install -y chromium && make test")


def pytest_sessionfinish() -> None:
    """The same for the processes that tests have killed."""
    remove_abandoned_segments()


class NodeProcess:
    """An executable of the package, running. Its output goes to a file, so it never blocks."""

    def __init__(self, name: str, arguments: tuple[str, ...], log: Path) -> None:
        # Where `ros2 run` takes it from, in an installation of either kind.
        executable = share_directory().parents[1] / "lib" / "mlkd_ros" / name
        self.log = log
        with open(log, "wb") as output:
            self.process = subprocess.Popen(
                [str(executable), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    @property
    def output(self) -> str:
        """What it has written so far."""
        return self.log.read_text(errors="replace")

    @property
    def running(self) -> bool:
        """Whether it is still there."""
        return self.process.poll() is None

    def wait_for_output(self, text: str, timeout: float = 60.0) -> None:
        """Wait until `text` is in its output; fails when it ends, or not in `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while text not in self.output:
            assert self.running, f"ended with {self.process.returncode}:\n{self.output}"
            assert time.monotonic() < deadline, f"no {text!r} in {timeout} s:\n{self.output}"
            time.sleep(0.05)

    def stop(self, timeout: float = 60.0) -> int:
        """End it as Ctrl-C does and return its exit status; killed after `timeout` seconds."""
        if self.running:
            self.process.send_signal(signal.SIGINT)
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            pytest.fail(f"{self.log.stem} did not stop in {timeout} s:\n{self.output}")


def _process() -> tuple[object, ...]:
    """What all that this process starts inherits, and what signals do in it."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    return os.sched_getscheduler(0), *map(signal.getsignal, numbers)


_AT_FIRST = _process()


@pytest.fixture(autouse=True)
def same_process() -> Iterator[None]:
    """No test leaves this process with another priority or other signal handlers: the tests after
    it would fail, or start processes that do.
    """
    yield
    now = _process()
    if now != _AT_FIRST:
        os.sched_setscheduler(0, int(str(_AT_FIRST[0])), os.sched_param(0))
        _listen_to_signals()
        pytest.fail(f"this test has left the process with {now} and not {_AT_FIRST}")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path | None]:
    """The folder of a disk of 8 MiB, in memory; None where nobody may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        yield None
        return
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def start_node(tmp_path: Path) -> Iterator[Callable[..., NodeProcess]]:
    """`start_node(executable, *arguments)` starts one; it is stopped when the test is over."""
    started: list[NodeProcess] = []

    def start(name: str, *arguments: str) -> NodeProcess:
        log = tmp_path / f"{name}-{len(started)}.log"
        started.append(NodeProcess(name, arguments, log))
        return started[-1]

    yield start
    for node in reversed(started):
        try:
            node.stop()
        finally:
            # Where a test fails, what its processes said is shown with it.
            print(f"--- {node.log.stem}, ended with {node.process.returncode}:\n{node.output}")
