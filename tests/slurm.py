"""A Slurm of one node with accounting, in a folder of its own: Debian's daemons, run by root.

Ports, keys, state and database are its own, so it disturbs no other; the database runs as the
user ``mysql`` of Debian's package. There is no cgroup and no systemd in it.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil

from books import wait_for

PACKAGES = "slurm-wlm, slurmdbd, munge, mariadb-server"
DAEMONS = ("munged", "mariadbd", "slurmdbd", "slurmctld", "slurmd")
NEEDED = (*DAEMONS, "mariadb-install-db", "sacctmgr", "sacct", "squeue", "sbatch", "srun")
DATABASE = """\
CREATE DATABASE accounting;
CREATE USER slurm@127.0.0.1 IDENTIFIED BY '{password}';
GRANT ALL ON accounting.* TO slurm@127.0.0.1;
"""
SLURMDBD = """\
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
DbdHost=localhost
DbdPort={slurmdbd}
SlurmUser=root
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={database}
StorageUser=slurm
StoragePass={password}
StorageLoc=accounting
LogFile={folder}/slurmdbd.log
PidFile={folder}/slurmdbd.pid
"""
SLURM = """\
ClusterName=one
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmctldPort={slurmctld}
SlurmdPort={slurmd}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CredType=cred/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
ReturnToService=2
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=localhost
AccountingStoragePort={slurmdbd}
AccountingStoragePass={folder}/munge/socket
NodeName={host} NodeAddr=127.0.0.1 CPUs=2
PartitionName=one Nodes=ALL Default=YES MaxTime=10
"""
# The first notes what it was asked. The executor takes SLURM_CONF away from the srun inside a job.
SACCT = '#!/bin/sh\necho "$@" >> {folder}/asked\nexec {sacct} "$@"\n'
SRUN = '#!/bin/sh\nSLURM_CONF={folder}/slurm.conf exec {srun} "$@"\n'


def unavailable() -> str:
    """Why there can be no such Slurm here, or nothing."""
    if os.getuid() != 0:
        return "a Slurm of one node needs root"
    if absent := [name for name in NEEDED if shutil.which(name) is None]:
        return f"no {absent[0]} here: a Slurm of one node needs Debian's {PACKAGES}"
    for process in psutil.process_iter(["name", "status"]):
        found = process.info
        if found["name"] in DAEMONS[2:] and found["status"] != psutil.STATUS_ZOMBIE:
            return "a Slurm runs here already, and is left alone"
    return ""


class Cluster:
    def __init__(self, folder: Path):
        self.folder = folder
        self.running: dict[str, subprocess.Popen] = {}
        self.variables = {
            "SLURM_CONF": str(folder / "slurm.conf"),
            "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
        }

    def say(self, *command: str) -> str:
        """What a command of Slurm prints."""
        done = subprocess.run(
            command, capture_output=True, text=True, env=os.environ | self.variables, timeout=60
        )
        return done.stdout if done.returncode == 0 else ""

    def start(self, name: str, *options: str) -> None:
        with (self.folder / f"{name}.out").open("ab") as out:
            self.running[name] = subprocess.Popen(
                [name, *options],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=os.environ | self.variables,
                start_new_session=True,
            )

    def start_again(self) -> None:
        """The accounting, and the daemon of the queue, which does not start without it."""
        self.start("slurmdbd", "-D")
        wait_for(lambda: self.say("sacctmgr", "--noheader", "list", "cluster"), 60)
        self.start("slurmctld", "-D")
        wait_for(lambda: "UP" in self.say("scontrol", "ping"), 60)

    def asked(self) -> int:
        """How often the executor asked for the states of its jobs."""
        return (self.folder / "asked").read_text().count("JobIdRaw,State")

    def kill(self, name: str) -> None:
        process = self.running.pop(name)
        process.kill()
        process.wait()

    def set_up(self) -> None:
        for name in ("munge", "state", "spool", "database", "bin"):
            (self.folder / name).mkdir()
        shutil.chown(self.folder / "database", "mysql")
        values = {name: _port() for name in ("slurmdbd", "slurmctld", "slurmd", "database")} | {
            "folder": self.folder,
            "host": socket.gethostname().partition(".")[0],
            "password": secrets.token_hex(),
            "srun": shutil.which("srun"),
            "sacct": shutil.which("sacct"),
        }
        self._write("munge/key", secrets.token_hex(64))
        self._write("database.sql", DATABASE.format(**values), 0o644)
        self._write("slurmdbd.conf", SLURMDBD.format(**values))
        self._write("slurm.conf", SLURM.format(**values), 0o644)
        self._write("bin/srun", SRUN.format(**values), 0o755)
        self._write("bin/sacct", SACCT.format(**values), 0o755)
        munge = {name: self.folder / "munge" / name for name in ("socket", "key", "log", "seed")}
        self.start(
            *("munged", "--foreground", f"--pid-file={self.folder}/munge/pid"),
            *(f"--socket={munge['socket']}", f"--key-file={munge['key']}"),
            *(f"--log-file={munge['log']}", f"--seed-file={munge['seed']}"),
        )
        own = ("--no-defaults", "--user=mysql", f"--datadir={self.folder}/database/data")
        authentication = "--auth-root-authentication-method=socket"
        subprocess.run(
            ["mariadb-install-db", *own, "--skip-test-db", authentication],
            check=True,
            capture_output=True,
        )
        self.start(
            *("mariadbd", *own, f"--socket={self.folder}/database/socket"),
            *("--bind-address=127.0.0.1", f"--port={values['database']}", "--skip-name-resolve"),
            *(f"--pid-file={self.folder}/database/pid", f"--init-file={self.folder}/database.sql"),
            "--innodb-flush-log-at-trx-commit=0",
        )
        wait_for(lambda: _answers(values["database"]), 60)
        self.start("slurmdbd", "-D")
        wait_for(lambda: self.say("sacctmgr", "--immediate", "add", "cluster", "one"), 60)
        self.start("slurmctld", "-D")
        self.start("slurmd", "-D")
        wait_for(lambda: "idle" in self.say("sinfo", "--noheader", "--format=%T"), 60)

    def tear_down(self) -> None:
        self.say("scancel", "--state=RUNNING")
        self.say("scancel", "--state=PENDING")
        with contextlib.suppress(AssertionError):
            wait_for(lambda: not self.say("squeue", "--noheader"), 20)
        for name in list(self.running):
            self.kill(name)
        for process in psutil.process_iter():  # what a failed test left, jobs among it
            with contextlib.suppress(psutil.Error):
                if process.environ().get("PATH") == self.variables["PATH"]:
                    process.kill()

    def _write(self, name: str, text: str, mode: int = 0o600) -> None:
        (self.folder / name).touch(mode)
        (self.folder / name).write_text(text)
        (self.folder / name).chmod(mode)


@contextlib.contextmanager
def one_node() -> Iterator[Cluster]:
    # Sockets have short paths, and the user of the database must see them: not pytest's folder.
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder:
        Path(folder).chmod(0o755)
        cluster = Cluster(Path(folder))
        try:
            cluster.set_up()
            yield cluster
        finally:
            cluster.tear_down()


def _port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
