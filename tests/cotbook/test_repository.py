"""Buttons that run a page online lead to a public commit that installs the library, or nowhere."""

from __future__ import annotations

import subprocess
from pathlib import Path

import nbformat
import pytest

from cotbook.sphinx.reader import launchable, script
from cotbook.sphinx.repository import ADDRESS, Repository, repository

ROOT = Path(__file__).resolve().parents[2]

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def no_address(monkeypatch):
    for name in ("REPOSITORY", "COMMIT", "LAUNCH_BRANCH", "SITE"):
        monkeypatch.delenv(f"COTFLOW_{name}", raising=False)


@pytest.fixture
def clone(tmp_path):
    """A repository with one commit; git(words) runs there."""

    def git(*words: str) -> str:
        identity = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
        command = ["git", "-C", tmp_path, *identity, *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "--quiet")
    git("commit", "--quiet", "--allow-empty", "--message", "first")
    git.folder = tmp_path
    return git


@pytest.mark.parametrize(
    "address",
    [
        "https://github.com/owner/some.name",
        "https://github.com/owner/some.name.git",
        "https://token@github.com/owner/some.name/",
        "git@github.com:owner/some.name.git",
        "ssh://git@github.com/owner/some.name.git",
    ],
)
def test_address_of_a_forge_is_read_in_all_its_forms(address):
    assert ADDRESS.fullmatch(address).groups() == ("github.com", "owner", "some.name")


@pytest.mark.parametrize("address", ["/srv/git/book", "https://git.example.org/owner/name", ""])
def test_other_addresses_are_no_public_repository(clone, address):
    if address:
        clone("remote", "add", "origin", address)
    assert repository(clone.folder) is None


def test_commit_counts_once_the_remote_has_it(clone):
    clone("remote", "add", "origin", "git@github.com:owner/name.git")
    assert repository(clone.folder) is None
    clone("update-ref", "refs/remotes/origin/main", "HEAD")
    assert repository(clone.folder).commit == clone("rev-parse", "HEAD")
    clone("commit", "--quiet", "--allow-empty", "--message", "not pushed")
    assert repository(clone.folder) is None


def test_environment_comes_before_the_remote(clone, monkeypatch):
    monkeypatch.setenv("COTFLOW_REPOSITORY", "https://gitlab.com/a/b")
    monkeypatch.setenv("COTFLOW_COMMIT", COMMIT)
    home = repository(clone.folder)
    assert home.binder("x.ipynb") == (
        f"https://mybinder.org/v2/gl/a%2Fb/{COMMIT}?urlpath=lab/tree/x.ipynb"
    )
    assert home.colab("x.ipynb") is None, "Colab opens notebooks from GitHub alone"
    monkeypatch.setenv("COTFLOW_REPOSITORY", "somewhere")
    with pytest.raises(ValueError, match="expected an address like"):
        repository(clone.folder)


def test_colab_opens_the_branch_that_was_published():
    home = Repository("github.com", "a", "b", COMMIT)
    assert home.colab("x.ipynb") is None
    home = Repository("github.com", "a", "b", COMMIT, launch_branch="launch")
    assert home.colab("x.ipynb") == (
        "https://colab.research.google.com/github/a/b/blob/launch/x.ipynb"
    )


def test_first_cell_installs_the_library_at_the_commit():
    notebook = nbformat.read(ROOT / "book/notebooks/one-model.ipynb", as_version=4)
    launched = launchable(notebook, Repository("github.com", "a", "b", COMMIT))
    nbformat.validate(launched)
    first, *rest = launched.cells
    assert f'"cotflow[notebook] @ git+https://github.com/a/b@{COMMIT}"' in first.source
    assert "%pip install" in first.source
    assert [cell.source for cell in rest] == [cell.source for cell in notebook.cells]
    assert not any(cell.get("outputs") for cell in rest)


def test_script_is_python():
    notebook = nbformat.read(ROOT / "book/notebooks/one-model.ipynb", as_version=4)
    compile(script(notebook), "one-model.py", "exec")


def test_binder_has_what_it_reads():
    environment = (ROOT / "environment.yml").read_text()
    assert "-c requirements.txt" in environment
    assert "-e ." in environment
