"""The command line: arguments, YAML, profiles, sweeps, chapters and bibliographies of any kind."""

import json
import math
import os
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path

import yaml

from books import invoke, tree, write_tiny_chapter
from hostile.draws import Draws

NAMES = ("depths", "seed", "bound", "device", "depth", "Seed", "")
NASTY = (
    *("[" * 5000, "&a [*a]", "a: &a {b: *a}", "? [x]\n: 1", "\0", "!!python/none", "- {", "~"),
    *("!!python/object/apply:os.system [true]", "a: 1\na: 2", "<<: 1", "--- 1\n--- 2", "%YAML 9"),
    *("a: !!binary x", "a: 2026-13-45", "a: 1e400", "a: .inf", "{" * 900, "a:\tb", "\ufeffa: 1"),
    *(
        "a: 0x" + "f" * 5000,
        "a: " + "9" * 5000,
        "*x",
        "'",
        '"\\x"',
        "a: |\n b\n\tc",
        "{a: 1, a: 2}",
    ),
)
SPEAKING = (
    "\x1b]0;x\x07",
    "\x1b[2J",
    "<img src=x onerror=a>",
    "=1+1",
    "\u202e",
    "\udc80",
    "a\0b",
    "\r",
)
WORDS = (
    *("tiny-rate", "full", "book", ".", "-p", "seed", "3", "depths", "[2]", "--profile", "quick"),
    *("--cores", "--retry", "--help", "--check", "-o", "sweep.yml", "/proc/nowhere", "x" * 300),
    *("-p", "--only", "--title", "--after", "0", "-1", "1e400", "~nobody/x", "..", "_toc.yml", ""),
)
# What moves, colours or reorders the text of a terminal.
UNSEEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
COMMANDS = ("run", "sweep", "list", "parameters", "ledger", "diff", "lit", "bibliography", "new")


def text(d: Draws) -> str:
    """A text of any characters."""
    if d.chance(0.3):
        return d.one(*SPEAKING, "tiny-rate", "x" * d.whole(1, 5000))
    return "".join(chr(d.one(d.whole(0, 255), d.whole(0, 0x2FFF))) for _ in range(d.whole(0, 12)))


def scalar(d: Draws):
    return d.one(
        *(None, True, False, 0, 1, -1, 10**30, 0.5, 1e300, math.nan, math.inf, -math.inf),
        *(text(d), text(d), [2], [2, 4], "cpu", "cuda:99999", 10.0),
    )


def value(d: Draws, depth: int = 0):
    if depth > 3 or d.chance(0.5):
        return scalar(d)
    if d.chance(0.5):
        return [value(d, depth + 1) for _ in range(d.whole(0, 3))]
    return mapping(d, depth + 1)


def mapping(d: Draws, depth: int = 0) -> dict:
    keys = [d.one(*NAMES, text(d), d.whole(0, 9), None, True) for _ in range(d.whole(0, 3))]
    return {key: value(d, depth) for key in keys}


def dumped(content: object) -> bytes:
    """As YAML, or as JSON where YAML cannot."""
    try:
        found = yaml.safe_dump(content, allow_unicode=True, sort_keys=False)
    except (yaml.YAMLError, ValueError):
        found = json.dumps(content, default=str)
    return found.encode(errors="replace")


def damaged(d: Draws, content: bytes) -> bytes:
    """A file that was cut off, written over, swapped, or in which bits flipped."""
    content = bytearray(content)
    how = d.one("flip", "flip", "flip", "cut", "cut", "write", "drop", "double", "append", "lines")
    if not content or d.chance(0.05):
        return d.one(b"", b"\0" * 99, os.urandom(0) + bytes(range(256)), b"PK\x03\x04", b"\xff\xfe")
    at, until = sorted(d.whole(0, len(content) - 1) for _ in range(2))
    if how == "flip":
        for _ in range(d.one(1, 1, 1, 8)):
            content[d.whole(0, len(content) - 1)] ^= 1 << d.whole(0, 7)
    elif how == "cut":
        del content[at:]
    elif how == "write":
        content[at:until] = bytes(d.whole(0, 255) for _ in range(until - at))[:4096]
    elif how == "drop":
        del content[at:until]
    elif how == "double":
        content[at:at] = content[at:until]
    elif how == "append":
        content += d.one(b"\n", b"\0", bytes(content), text(d).encode(errors="replace"), b"}" * 9)
    else:
        lines = bytes(content).split(b"\n")
        lines.insert(d.whole(0, len(lines)), d.one(text(d), *NASTY).encode(errors="replace"))
        content = b"\n".join(lines)
    return bytes(content)


def book(d: Draws) -> Path:
    """A book whose folder ``full`` no run may use, so that nothing is ever executed."""
    root = Path("book-of-the-campaign").resolve()
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    write_tiny_chapter(root)
    (root / "book/profiles/quick.yml").write_text("description: one\ntiny-rate: {depths: [2]}\n")
    (root / "sweep.yml").write_text("chapter: tiny-rate\nseeds: [0]\n")
    (root / "_toc.yml").write_text("root: book/tiny-rate\nchapters:\n- file: book/tiny-rate\n")
    (root / "book/references.bib").write_text("@misc{a, title={A}, url={https://example.org}}\n")
    (root / "full").mkdir()
    (root / "full/notes.txt").write_text("mine")
    return root


def arguments(d: Draws, root: Path) -> list[str]:
    words = [d.one(*WORDS, text(d)).replace("\0", "") for _ in range(d.whole(0, 6))]
    command = d.one(*COMMANDS, text(d).replace("\0", ""))
    return [command, *words, *(["-o", "full"] if command in ("run", "sweep") else [])]


def parameters(d: Draws, root: Path) -> list[str]:
    words = ["run", "tiny-rate", "-o", "full"]
    for _ in range(d.whole(1, 3)):
        words += ["-p", d.one(*NAMES, text(d)), d.one(str(scalar(d)), text(d), *NASTY)]
    return [word.replace("\0", "") for word in words]


def sweeps(d: Draws, root: Path) -> list[str]:
    keys = ("chapter", "profile", "description", "grid", "seeds", "cases", "gird")
    content = {"chapter": "tiny-rate", "seeds": [0]}
    content |= {d.one(*keys): value(d) for _ in range(d.whole(0, 3))}
    if d.chance(0.5):
        content["grid"] = {d.one(*NAMES): [value(d) for _ in range(d.whole(0, 3))]}
    found = d.one(dumped(content), d.one(*NASTY).encode(), damaged(d, dumped(content)))
    (root / "sweep.yml").write_bytes(found)
    return ["sweep", "sweep.yml", "-o", "full", *d.one([], [], ["--retry"], ["--cores", "1"])]


def profiles(d: Draws, root: Path) -> list[str]:
    content = {d.one("tiny-rate", "description", text(d)): value(d) for _ in range(d.whole(0, 3))}
    found = d.one(dumped(content), d.one(*NASTY).encode(), damaged(d, dumped(content)))
    (root / "book/profiles/quick.yml").write_bytes(found)
    return d.one(["run", "tiny-rate", "--profile", "quick", "-o", "full"], ["list"])


def chapters(d: Draws, root: Path) -> list[str]:
    path = root / "book/tiny-rate.md"
    path.write_bytes(damaged(d, path.read_bytes()))
    return d.one(
        ["list"],
        ["parameters", "tiny-rate"],
        ["run", "tiny-rate", "-o", "full", "-p", "seed", "1"],
        ["sweep", "sweep.yml", "-o", "full"],
        ["notebooks", "--check"],
        ["bibliography"],
    )


def contents(d: Draws, root: Path) -> list[str]:
    path = root / d.one("_toc.yml", "book/references.bib", "book/profiles/quick.yml")
    path.write_bytes(damaged(d, path.read_bytes()))
    return d.one(["bibliography"], ["list"], ["new", "deep-limit"], ["new", text(d)])


def bibliographies(d: Draws, root: Path) -> list[str]:
    kinds = d.one("misc", "article", "string", "comment", "preamble", text(d))
    fields = ", ".join(f"{d.one('title', 'url', 'doi', text(d))} = {{{text(d)}}}" for _ in range(3))
    found = f"@{kinds}{{{d.one('a', text(d))}, {fields}}}\n"
    (root / "book/references.bib").write_bytes(found.encode(errors="replace"))
    return ["bibliography"]


def others(d: Draws, root: Path) -> list[str]:
    return d.one(
        ["bench", "--only", text(d)],
        ["bench", "-o", d.one("nowhere/x", "", text(d)), "--only", "nothing"],
        ["release", "--check"],
        ["notebooks", "--check", d.one("tiny-rate", text(d))],
        ["new", d.one("a-b", "tiny-rate", text(d)), "--after", d.one("tiny-rate", text(d))],
    )


CASES: dict[Callable[[Draws, Path], list[str]], int] = {
    arguments: 3,
    parameters: 3,
    sweeps: 4,
    profiles: 2,
    chapters: 4,
    contents: 2,
    bibliographies: 1,
    others: 1,
}
NAMED = {case.__name__: case for case in CASES}
CHOICES = [name for name, case in NAMED.items() for _ in range(CASES[case])]


def named(d: Draws) -> str:
    """Which of them the input is."""
    return d.one(*CHOICES)


def ended(name: str, d: Draws) -> tuple[str, str]:
    """How it ends."""
    root = book(d)
    words = [word.replace("\0", "") for word in NAMED[name](d, root)]
    return judged(root, words)


def judged(root: Path, words: list[str]) -> tuple[str, str]:
    """How the command ends, and what it says."""
    before = tree(root)
    done = invoke(root, *words)
    said = " ".join(done.output.split())[:200]
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        from hostile.oracle import place

        return "traceback", f"{place(done.exception)} {words}"
    if done.exit_code not in (0, 1, 2, 3) or "Traceback" in done.output:
        return "traceback", f"exit {done.exit_code}: {said} {words}"
    if done.exit_code and not said:
        return "no sentence", f"exit {done.exit_code} {words}"
    if any(unicodedata.category(c) in UNSEEN and c not in "\n\t\u2060" for c in done.output):
        return "no sentence", f"it speaks to the terminal: {said!r} {words}"
    if done.exit_code == 2 and tree(root) != before:
        return "believed", f"refused, but something was written: {said} {words}"
    return ("refused", said) if done.exit_code in (2, 3) else ("answered", "")
