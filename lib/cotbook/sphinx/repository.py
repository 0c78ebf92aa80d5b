"""Where this book can be found in public: from the environment, else from the git remote.

Variables, all optional:

COTFLOW_REPOSITORY : address of the repository, for instance https://github.com/owner/name.
COTFLOW_COMMIT : the commit that is built.
COTFLOW_LAUNCH_BRANCH : branch that holds the notebooks of ``_build/html/launch``, for Colab.
COTFLOW_SITE : address at which the built pages are served.

Nothing is assumed to exist: an address that is not public, or a commit that the remote does not
have, leads to no link at all.
"""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

FORGES = ("github.com", "gitlab.com", "codeberg.org")
ADDRESS = re.compile(
    rf"(?:https://(?:[^@/]+@)?|ssh://git@|git@)({'|'.join(map(re.escape, FORGES))})[/:]"
    r"([\w.-]+)/([\w.-]+?)(?:\.git)?/?"
)


@dataclass(frozen=True)
class Repository:
    """A public repository at one commit."""

    forge: str
    owner: str
    name: str
    commit: str
    launch_branch: str | None = None
    site: str | None = None

    @property
    def url(self) -> str:
        return f"https://{self.forge}/{self.owner}/{self.name}"

    @property
    def requirement(self) -> str:
        """What pip installs: the library as it was when the pages were built."""
        return f"cotflow[notebook] @ git+{self.url}@{self.commit}"

    def binder(self, notebook: str) -> str:
        """Binder reads environment.yml at the commit and opens a notebook of the repository."""
        slug = f"{self.owner}/{self.name}"
        source = {
            "github.com": f"gh/{slug}",
            "gitlab.com": f"gl/{quote(slug, safe='')}",
        }.get(self.forge, f"git/{quote(f'{self.url}.git', safe='')}")
        return f"https://mybinder.org/v2/{source}/{self.commit}?urlpath=lab/tree/{notebook}"

    def colab(self, notebook: str) -> str | None:
        """Colab opens notebooks of a GitHub branch; these have the installation in a cell."""
        if self.forge != "github.com" or not self.launch_branch:
            return None
        place = f"{self.owner}/{self.name}/blob/{quote(self.launch_branch)}/{notebook}"
        return f"https://colab.research.google.com/github/{place}"


def git(folder: Path, *words: str) -> str:
    """What git says in the folder, empty where there is no git or no answer."""
    try:
        said = subprocess.run(
            ["git", "-C", folder, *words],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=20,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return said.stdout.strip()


def repository(folder: Path) -> Repository | None:
    """The public home of the tree in this folder, None where none is known."""
    given = os.environ.get("COTFLOW_REPOSITORY", "")
    address = ADDRESS.fullmatch(given or git(folder, "remote", "get-url", "origin"))
    if given and not address:
        raise ValueError(
            f"COTFLOW_REPOSITORY: expected an address like https://github.com/owner/name on one "
            f"of {', '.join(FORGES)}, received {given!r}"
        )
    commit = os.environ.get("COTFLOW_COMMIT") or git(folder, "rev-parse", "HEAD")
    # Without being told, a commit counts as public if a branch of the remote has it.
    public = given or git(folder, "branch", "--remotes", "--contains", "HEAD")
    if not (address and public and re.fullmatch(r"[0-9a-f]{40}", commit)):
        return None
    return Repository(
        *address.groups(),
        commit,
        os.environ.get("COTFLOW_LAUNCH_BRANCH") or None,
        (os.environ.get("COTFLOW_SITE") or "").rstrip("/") or None,
    )
