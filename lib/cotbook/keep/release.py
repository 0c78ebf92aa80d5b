"""A release: the built book and its ledger in one archive, with checksums.

The same pages at the same commit give the same archive, byte for byte: members in alphabetical
order, one time for all (the commit's, or SOURCE_DATE_EPOCH), no owners.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import subprocess
import tarfile
import tomllib
from pathlib import Path

from cotbook import records
from cotbook.errors import BadInput
from cotbook.provenance import execution_hash, file_hash
from cotbook.run.runs import workshop_beside

BESIDE = ("LICENSE", "LICENSE-text", "CITATION.cff", "CHANGELOG.md")


def check_tree(root: Path) -> str:
    """The version to release, once nothing is uncommitted and the changelog speaks of it."""
    dirty = _git(root, "status", "--porcelain")
    if dirty:
        raise BadInput(f"expected a tree without uncommitted changes, received\n{dirty}")
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    heading = f"## [{project['version']}]"
    if heading not in (root / "CHANGELOG.md").read_text(encoding="utf-8"):
        raise BadInput(f"CHANGELOG.md: expected a section {heading}")
    return project["version"]


def check_book(root: Path, html: Path) -> None:
    """Refuse pages that are missing, of other sources, or with a claim that does not hold."""
    try:
        ledger = records.of_book(html)
    except records.RecordError as error:
        raise BadInput(f"{html}: expected a built book with its ledger.json: {error}") from None
    if ledger.library_hash != execution_hash():
        raise BadInput(f"{html}: built with another state of the library; build the book again")
    for chapter in ledger.chapters:
        source = root / f"{chapter.docname}.md"
        if not source.is_file() or file_hash(source) != chapter.source_hash:
            raise BadInput(f"{html}: {source.name} has changed since; build the book again")
        for claim in chapter.claims:
            if claim.missed:
                raise BadInput(f"{chapter.docname}, {claim.name}: {claim.verdict}")
    if not any(chapter.claims for chapter in ledger.chapters):
        raise BadInput(f"{html}: expected a ledger with claims")


def release(root: Path, html: Path, folder: Path) -> Path:
    """Pack ``html`` into ``folder/cotflow-VERSION-html.tar.gz``, with SHA256SUMS beside it."""
    version = check_tree(root)
    check_book(root, html)
    time = int(os.environ.get("SOURCE_DATE_EPOCH") or _git(root, "log", "-1", "--format=%ct"))
    stem = f"cotflow-{version}"
    members = {f"{stem}/{name}": root / name for name in BESIDE}
    pages = (path for path in html.rglob("*") if path.is_file())
    members |= {f"{stem}/html/{path.relative_to(html).as_posix()}": path for path in pages}
    members |= {f"{stem}/{name}": html / name for name in (records.LEDGER, "ledger.md")}
    archive = folder / f"{stem}-html.tar.gz"
    with workshop_beside(archive) as workshop:
        pack(members, workshop / archive.name, time)
        digest = hashlib.sha256((workshop / archive.name).read_bytes()).hexdigest()
        (workshop / "SHA256SUMS").write_text(f"{digest}  {archive.name}\n", encoding="utf-8")
        for name in (archive.name, "SHA256SUMS"):
            os.replace(workshop / name, folder / name)
    return archive


def pack(members: dict[str, Path], archive: Path, time: int) -> None:
    """A gzipped tar of files under the given names that depends on their contents alone."""
    with (
        archive.open("wb") as raw,
        gzip.GzipFile("", "wb", mtime=time, fileobj=raw) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for name in sorted(members):
            entry = tarfile.TarInfo(name)
            entry.size = members[name].stat().st_size
            entry.mtime, entry.mode = time, 0o644
            with members[name].open("rb") as content:
                tar.addfile(entry, content)


def _git(root: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=root, capture_output=True, encoding="utf-8", errors="replace"
        )
    except OSError as error:
        raise BadInput(f"a release needs git, which cannot be started: {error.strerror}") from None
    if done.returncode:
        raise BadInput(f"git {arguments[0]}: {done.stderr.strip()}")
    return done.stdout.strip()
