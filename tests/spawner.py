"""Real processes of the program at a small price: one process imports it, and forks for every command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

SERVER = """
import json, os, resource, sys
import anomaly.bundle, anomaly.cli, anomaly.inspection.scoring, anomaly.inspection.writer
import anomaly.networks, anomaly.models.picture  # torch, before memory is limited

def run(arguments, log, memory):
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(out, 1)
    os.dup2(out, 2)
    if memory:
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + memory, used + memory))
    sys.argv = ["anomaly", *arguments]
    try:
        anomaly.cli.main()
    except SystemExit as done:
        return done.code or 0
    except BaseException:
        import traceback
        traceback.print_exc()
        return 1
    return 0

for line in sys.stdin:
    pid = os.fork()
    if not pid:
        code = run(*json.loads(line))
        sys.stdout.flush()
        os._exit(code)
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


class Spawner:
    """Runs commands one after the other; `pid` is that of the one that runs."""

    def __init__(self) -> None:
        root = Path(__file__).parent.parent
        self._server = subprocess.Popen(
            [sys.executable, "-c", SERVER],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": str(root), "OPENBLAS_NUM_THREADS": "1"},
        )  # fmt: skip
        self.pid = 0

    def start(self, log: Path, *arguments: object, memory: int = 0) -> int:
        """Start `anomaly ARGUMENTS`, its output in `log`, with at most `memory` bytes more if not 0."""
        assert self._server.stdin and self._server.stdout
        self._server.stdin.write(json.dumps([[*map(str, arguments)], str(log), memory]) + "\n")
        self._server.stdin.flush()
        self.pid = int(self._server.stdout.readline())
        return self.pid

    def wait(self) -> int:
        """The exit code; that of a signal is negative."""
        assert self._server.stdout
        return int(self._server.stdout.readline())

    def run(self, log: Path, *arguments: object, memory: int = 0) -> int:
        self.start(log, *arguments, memory=memory)
        return self.wait()

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait until `condition` holds or the process has ended."""
        while not condition() and Path(f"/proc/{self.pid}").exists():
            time.sleep(0.002)

    def signal(self, number: int) -> None:
        """Send a signal, unless the process has ended of itself."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def close(self) -> None:
        assert self._server.stdin and self._server.stdout
        self._server.stdin.close()
        self._server.wait()
        self._server.stdout.close()
