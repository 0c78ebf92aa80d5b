"""The worker that the jobs of a sweep share: it has loaded what a job needs, and forks one each.

It is started as ``python -m cotbook.grid.warm LISTENER LIFE`` with two open files: the socket at
which jobs are asked for (``ask.py``), and the life of Snakemake's process, with which all ends. It
performs nothing itself, so that no job sees anything of another. A job is a fork of it, and the
job's kernel a fork of a nursery (:mod:`cotbook.run.nursery`); where that is of no use, kernels
are fresh processes.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jupytext  # noqa: F401
import papermill  # noqa: F401

from cotbook import provenance
from cotbook.grid import job
from cotbook.grid.ask import ours
from cotbook.grid.outcome import JOBS
from cotbook.run import runs
from cotbook.run.kernel import Kernel, nursery
from cotbook.run.nursery import Lost
from cotbook.run.system import end_with_parent
from cotbook.run.text import code_cells
from cotbook.run.tree import chapter

PATIENCE = 15.0  # seconds that a job has to clean up when nobody waits for it any more


@dataclass
class Asked:
    """A job that somebody waits for, at the other end of the connection."""

    id: str
    connection: socket.socket
    streams: list[int]


@dataclass
class Running:
    """Its process, the file that tells of its end, and until when it may clean up."""

    process: int
    end: int
    connection: socket.socket
    deadline: float | None = None


class Worker:
    """Forks a job for everyone who asks, as long as Snakemake lives."""

    def __init__(self, listener: socket.socket, life: int, plan: dict[str, Any], folder: Path):
        self.listener, self.life, self.plan, self.folder = listener, life, plan, folder
        self.asked: list[Asked] = []
        self.running: list[Running] = []
        self.ready = False
        # A kernel with a planted error loads a library of its own.
        self.cold = any(record["edit"] for record in plan["jobs"].values())
        self.watch = select.poll()
        for file in (listener, life):
            self.watch.register(file, select.POLLIN)
        if not self.cold:
            self._start_nursery()

    def serve(self) -> None:
        while True:
            found = {number for number, _ in self.watch.poll(1000 if self._ending() else None)}
            if self.life in found:
                self._end()
                return
            for each in list(self.running):
                self._look_after(each, found)
            if Kernel.nursery and Kernel.nursery.control.fileno() in found:
                self._hear_of_nursery()
            if self.listener.fileno() in found:
                self._accept()
            if self.asked and not (Kernel.nursery or self.cold):
                self._start_nursery()
            while self.asked and (self.ready or self.cold):
                self._fork(self.asked.pop(0))

    def _ending(self) -> bool:
        return any(each.deadline for each in self.running)

    def _start_nursery(self) -> None:
        """For the chapter of the sweep; all jobs have the same one."""
        record = next(iter(self.plan["jobs"].values()))
        source = chapter(Path(record["root"]), record["chapter"])
        Kernel.nursery = nursery((cell.source for cell in code_cells(source.text)), self.folder)
        self.watch.register(Kernel.nursery.control, select.POLLIN)

    def _hear_of_nursery(self) -> None:
        """It is ready, or of no use, or was killed; then the next job has another one started."""
        assert Kernel.nursery is not None
        reason = ""
        if not self.ready:
            try:
                reason = Kernel.nursery.answer()
            except Lost as error:
                reason = str(error)
        if reason:
            print(f"each kernel is a fresh process: {reason}", flush=True)
        lost, self.cold = self.ready, bool(reason)
        self.ready = not (lost or self.cold)
        if not self.ready:
            self.watch.unregister(Kernel.nursery.control)
            Kernel.nursery.close()
            Kernel.nursery = None

    def _accept(self) -> None:
        connection, _ = self.listener.accept()
        connection.settimeout(PATIENCE)
        streams: list[int] = []
        with suppress(OSError):
            if ours(connection):
                said, streams, *_ = socket.recv_fds(connection, 4096, 2)
                if said.endswith(b"\n") and len(streams) == 2:
                    self.asked.append(Asked(said.decode().strip(), connection, streams))
                    return
        for stream in streams:
            os.close(stream)
        connection.close()

    def _fork(self, asked: Asked) -> None:
        worker, process = os.getpid(), os.fork()
        if not process:
            self._perform(asked, worker)
        for stream in asked.streams:
            os.close(stream)
        begun = Running(process, os.pidfd_open(process), asked.connection)
        self.running.append(begun)
        self.watch.register(begun.end, select.POLLIN)
        self.watch.register(begun.connection, select.POLLRDHUP)

    def _perform(self, asked: Asked, worker: int) -> None:
        """In the fork; what the worker would clean up at its end is not this process's."""
        code = 1
        try:
            end_with_parent(worker)
            for stream, place in zip(asked.streams, (1, 2), strict=True):
                os.dup2(stream, place)
                os.close(stream)
            for other in (self.listener, *(each.connection for each in self.running)):
                other.close()
            for other in (self.life, *(each.end for each in self.running)):
                os.close(other)
            for waiting in self.asked:
                waiting.connection.close()
                for stream in waiting.streams:
                    os.close(stream)
            asked.connection.close()
            code = job.attempt(asked.id, self.plan)
        except BaseException:
            traceback.print_exc()
        finally:
            with suppress(OSError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)

    def _look_after(self, each: Running, found: set[int]) -> None:
        if each.end in found:
            ended = os.waitstatus_to_exitcode(os.waitpid(each.process, 0)[1])
            with suppress(OSError):
                each.connection.sendall(b"%d\n" % ended)
            self.watch.unregister(each.end)
            if not each.deadline:
                self.watch.unregister(each.connection)
            os.close(each.end)
            each.connection.close()
            self.running.remove(each)
        elif each.connection.fileno() in found and not each.deadline:
            self.watch.unregister(each.connection)
            each.deadline = time.monotonic() + PATIENCE
            os.kill(each.process, signal.SIGTERM)
        elif each.deadline and time.monotonic() > each.deadline:
            os.kill(each.process, signal.SIGKILL)

    def _end(self) -> None:
        for each in self.running:
            os.kill(each.process, signal.SIGKILL)
        for each in self.running:
            os.waitpid(each.process, 0)
        if Kernel.nursery:
            Kernel.nursery.close()


def main(listener: int, life: int) -> None:
    plan = job.prepare()
    provenance.versions()  # which it remembers, for every job
    with (
        socket.socket(fileno=listener) as door,
        runs.workshop_beside((JOBS / "worker").resolve()) as folder,
    ):
        Worker(door, life, plan, folder).serve()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]))
