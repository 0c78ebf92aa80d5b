"""Commands of a virtual environment, in a folder whose name the shell would read in its own way.

    .venv/bin/python -m cotbook.keep.scripts

pip writes the interpreter's path into the first lines of every command. With a quote or a dollar
sign in it the shell finds another path; such commands are told to look beside themselves.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

PLAIN = re.compile(r"[\w ./+,@%:=~-]*")
# The interpreter itself, or a shell that starts it, which Python reads as a string.
HEAD = re.compile(rb"#!(?:/bin/sh\n'''exec' [^\n]*\n' '''|[^\n]*python[^\n]*)\n")
BESIDE = b"""#!/bin/sh
'''exec' "$(dirname "$0")/python" "$0" "$@"
' '''
"""


def mend(folder: Path) -> None:
    """Have commands in the folder start the ``python`` beside them, if its path is not plain."""
    if PLAIN.fullmatch(str(folder)):
        return
    for path in sorted(folder.iterdir()):
        if path.is_file() and not path.is_symlink():
            content = path.read_bytes()
            if head := HEAD.match(content):
                path.write_bytes(BESIDE + content[head.end() :])


if __name__ == "__main__":
    mend(Path(sys.executable).parent)
