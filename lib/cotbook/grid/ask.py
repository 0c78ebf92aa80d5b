"""Has a warm worker perform a job: ``python -I -S ask.py ID PARENT``, in the folder of the sweep.

The worker (``warm.py``) is shared by the jobs of PARENT, a process of Snakemake, and ends with
it; it is started by the sweep, or by the first job where Snakemake runs on another machine. This
file loads nothing but a few modules of Python's own, so that it costs a job next to nothing.
Where there can be no worker, the job is performed in a process of its own. The exit code is the
job's, or 3 with a sentence if it was killed.
"""

import contextlib
import os
import signal
import socket
import struct
import sys
import time


def address(parent: int) -> bytes:
    """An abstract one, which leaves no file behind; the parent's start tells it from a namesake."""
    with open(f"/proc/{parent}/stat", "rb") as stream:
        started = stream.read().rpartition(b")")[2].split()[19]
    return b"\0cotflow-%d-%d-%b" % (os.getuid(), parent, started)


def door(parent: int) -> socket.socket:
    """Where the worker is asked; raises OSError if it has one already."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address(parent))
    listener.listen(1024)
    return listener


def worker(listener: socket.socket, life: int) -> list[str]:
    """The command that starts one for a parent with that pidfd."""
    return [sys.executable, "-m", "cotbook.grid.warm", str(listener.fileno()), str(life)]


def ours(connection: socket.socket) -> bool:
    """Whether the other end is of the same user."""
    found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return struct.unpack("3i", found)[1] == os.getuid()


def connect(parent: int, life: int) -> socket.socket:
    """To the parent's worker, which is started if there is none."""
    while True:
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(address(parent))
        except ConnectionRefusedError:
            connection.close()
        else:
            if ours(connection):
                return connection
            raise OSError("another user has the worker's address")
        with contextlib.suppress(OSError), door(parent) as listener:  # or another job was faster
            start(listener, life)


def start(listener: socket.socket, life: int) -> None:
    """The worker says what it has to say where Snakemake does."""
    if os.fork():
        return
    os.setsid()
    os.dup2(1, 2)
    for number in (listener.fileno(), life):
        os.set_inheritable(number, True)
    os.execv(sys.executable, worker(listener, life))


def ask(job: str, connection: socket.socket) -> int | None:
    """The job's exit code, negative for a signal; None if the worker ended before the job."""
    interrupted = []

    def interrupt(number: int, frame: object) -> None:
        interrupted.append(number)
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_WR)

    # Who has heard enough has the job end, and waits until it has cleaned up.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)
    said = b""
    with contextlib.suppress(OSError):
        socket.send_fds(connection, [job.encode() + b"\n"], [1, 2])
        said = connection.makefile("rb").readline()
    if said:
        return int(said)
    return 128 + interrupted[0] if interrupted else None


def main(job: str, parent: int) -> int:
    code = None
    with contextlib.suppress(AttributeError, OSError):  # no such system, or no such thing allowed
        life = os.pidfd_open(parent)
        for pause in (0, 0.1, 1):  # a job whose worker is killed gets another one, when it is gone
            time.sleep(pause)
            if os.getppid() != parent:
                return 1
            code = ask(job, connect(parent, life))
            if code is not None:
                break
    if code is None:
        os.execv(sys.executable, [sys.executable, "-m", "cotbook.grid.job", job, str(parent)])
    if code < 0:
        name = signal.Signals(-code).name
        print(f"the process of the job was ended by {name}", file=sys.stderr)
        return 3
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
