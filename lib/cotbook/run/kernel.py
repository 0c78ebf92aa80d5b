"""The process that executes a chapter: this interpreter, this library, nothing that lies around.

A kernel's name is looked up on JUPYTER_PATH and in the home folder, and may there mean another
Python; IPython runs start-up files and reads settings from five places; matplotlib obeys MPLBACKEND
and a matplotlibrc. None of them reaches a kernel from here.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

from ipykernel.kernelspec import get_kernel_dict
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager

from cotbook.provenance import LIBRARY
from cotbook.run.nursery import Nursery, beginning

# As ipykernel_launcher, but with the library of this process, and without the start-up files and
# settings of the machine and of the interpreter's folder. Loaded now, the library is the right one
# whatever lies beside the chapter or first on the path.
PREPARE = """\
import sys
library, rest = sys.argv.pop(1), [entry for entry in sys.path if entry]
sys.path = [library, *rest]
import cotbook, cotflow
sys.path = [*rest, *{library}.difference(rest)]
from IPython.core import application
application.ENV_CONFIG_DIRS.clear()
application.SYSTEM_CONFIG_DIRS.clear()
from ipykernel.kernelapp import IPKernelApp
"""
LAUNCH = PREPARE + "IPKernelApp.launch_instance()\n"
# The same in a fork, where the imports of the chapter came before the shell.
HATCH = (
    PREPARE
    + """\
from cotbook.run.hatch import come_first, hatch, leave
filters = hatch()
class IPKernelApp(IPKernelApp):
    def initialize(self, argv=None):
        super().initialize(argv)
        come_first(filters)
IPKernelApp.launch_instance()
leave()
"""
)
# What Python would do before the chapter, or make of its warnings.
UNHEARD = ("PYTHONSTARTUP", "PYTHONINSPECT", "PYTHONWARNINGS")

# Where the packages of a kernel would otherwise look for a home, which a user may not have.
HOMELESS = ("MPLCONFIGDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR")


def environment(given: Mapping[str, str], folder: Path) -> dict[str, str]:
    """The variables for a kernel whose own folder this is."""
    kept = {name: value for name, value in given.items() if name not in UNHEARD}
    home = given.get("HOME") or os.path.expanduser("~")
    if not (os.path.isdir(home) and os.access(home, os.W_OK)):
        kept = dict.fromkeys(HOMELESS, str(folder)) | kept
    return kept | {
        "IPYTHONDIR": str(folder),
        "MATPLOTLIBRC": os.devnull,
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "PYTHONUTF8": "1",
    }


def nursery(cells: Iterable[str], folder: Path) -> Nursery:
    """A nursery for the kernels of a chapter, which has this folder as long as it lives."""
    command = [sys.executable, "-c", HATCH, str(LIBRARY)]
    return Nursery(command, beginning(cells), environment(os.environ, folder))


class Kernel(AsyncKernelManager):
    """Starts a kernel in a folder of its own, which goes with it.

    Attributes
    ----------
    nursery : where kernels are forked; if there is none, each is a fresh process.
    place : where their folders are, if not among the system's temporary ones.
    library : the folder of cotflow and cotbook that they load.
    """

    nursery: ClassVar[Nursery | None] = None
    place: ClassVar[Path | None] = None
    library: ClassVar[Path] = LIBRARY

    def __init__(self, **settings: Any):
        super().__init__(**settings)
        argv = [sys.executable, "-c", LAUNCH, str(self.library), "-f", "{connection_file}"]
        self._kernel_spec = KernelSpec(**get_kernel_dict() | {"argv": argv})
        self._folder = TemporaryDirectory(
            prefix="cotflow-kernel-", dir=self.place, ignore_cleanup_errors=True
        )
        self.connection_file = str(Path(self._folder.name) / "connection.json")

    async def start_kernel(self, **settings: Any) -> None:
        await super().start_kernel(**settings, env=environment(os.environ, Path(self._folder.name)))

    async def _async_launch_kernel(self, kernel_cmd: list[str], **settings: Any) -> None:
        if self.nursery is None:
            await super()._async_launch_kernel(kernel_cmd, **settings)
            return
        variables = settings["env"] | {"JPY_PARENT_PID": str(os.getpid())}
        arguments = kernel_cmd[kernel_cmd.index("-f") :]
        place = self.provisioner
        place.cwd = settings.get("cwd") or os.getcwd()
        place.process = self.nursery.kernel(arguments, variables, str(place.cwd))
        place.pid = place.pgid = place.process.pid
        self._reconcile_connection_info(place.connection_info)

    async def cleanup_resources(self, restart: bool = False) -> None:
        await super().cleanup_resources(restart)
        if not restart:
            self._folder.cleanup()
