"""The process that executes a chapter: this interpreter, this library, nothing that lies around.

A kernel's name is looked up on JUPYTER_PATH and in the home folder, and may there mean another
Python; IPython runs start-up files and reads settings from five places; matplotlib obeys MPLBACKEND
and a matplotlibrc. None of them reaches a kernel from here.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ipykernel.kernelspec import get_kernel_dict
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager

from cotbook.provenance import LIBRARY

# As ipykernel_launcher, but with the library of this process, and without the start-up files and
# settings of the machine and of the interpreter's folder. Loaded now, the library is the right one
# whatever lies beside the chapter or first on the path.
LAUNCH = """\
import sys
library, rest = sys.argv.pop(1), [entry for entry in sys.path if entry]
sys.path = [library, *rest]
import cotbook, cotflow
sys.path = [*rest, *{library}.difference(rest)]
from IPython.core import application
application.ENV_CONFIG_DIRS.clear()
application.SYSTEM_CONFIG_DIRS.clear()
from ipykernel.kernelapp import launch_new_instance
launch_new_instance()
"""
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


class Kernel(AsyncKernelManager):
    """Starts a kernel in a folder of its own, which goes with it."""

    def __init__(self, **settings: Any):
        super().__init__(**settings)
        argv = [sys.executable, "-c", LAUNCH, str(LIBRARY), "-f", "{connection_file}"]
        self._kernel_spec = KernelSpec(**get_kernel_dict() | {"argv": argv})
        self._folder = TemporaryDirectory(prefix="cotflow-kernel-", ignore_cleanup_errors=True)
        self.connection_file = str(Path(self._folder.name) / "connection.json")

    async def start_kernel(self, **settings: Any) -> None:
        await super().start_kernel(**settings, env=environment(os.environ, Path(self._folder.name)))

    async def cleanup_resources(self, restart: bool = False) -> None:
        await super().cleanup_resources(restart)
        if not restart:
            self._folder.cleanup()
