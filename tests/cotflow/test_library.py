"""The kernel's compiler and cache: asked once, obeyed or named, and never believed unverified."""

import os
import shlex
import time
import warnings
from pathlib import Path

import pytest
import torch

from cotflow.adjoint import compiled, library
from cotflow.adjoint.gradient import gradient
from cotflow.network.residual import marion_net
from problems import random_problem, with_compiler


def forget():
    for cached in (library.command, library.target, library.loaded, library.warn, compiled._built):
        cached.cache_clear()
    library._failures.clear()


@pytest.fixture
def no_cache(monkeypatch, tmp_path):
    """A machine on which nothing has been compiled yet."""
    forget()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("CC", raising=False)
    yield tmp_path
    forget()


def broken_compiler(folder):
    program = folder / "cc"
    program.write_text("#!/bin/sh\necho 'no such instruction' >&2\nexit 1\n")
    program.chmod(0o755)
    return str(folder)


@pytest.mark.parametrize("kind", ["missing", "broken"])
def test_without_a_working_compiler_the_plain_step_is_used_and_said_once(
    no_cache, monkeypatch, kind
):
    empty = no_cache / "bin"
    empty.mkdir()
    monkeypatch.setenv("PATH", broken_compiler(empty) if kind == "broken" else str(empty))
    weights, x, y = random_problem(depth=64, q=16, m=32, n=50, bias=False)
    expected = "no C compiler" if kind == "missing" else "no such instruction"
    with pytest.warns(UserWarning, match=expected):
        auto = gradient(marion_net(), weights, x, y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gradient(marion_net(), weights, x, y)
    plain = gradient(marion_net(), weights, x, y, backend="plain")
    assert torch.equal(auto.velocity["V"], plain.velocity["V"])
    with pytest.raises(compiled.CompilerMissing, match=expected):
        gradient(marion_net(), weights, x, y, backend="compiled")


@with_compiler
def test_a_cache_that_cannot_be_written_leaves_the_plain_step(no_cache, monkeypatch):
    blocked = no_cache / "file"
    blocked.write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    weights, x, y = random_problem(depth=64, q=16, m=32, n=50, bias=False)
    with pytest.warns(UserWarning, match="plain torch step"):
        gradient(marion_net(), weights, x, y)


@with_compiler
def test_the_cache_holds_finished_kernels_only(no_cache):
    weights, x, y = random_problem(depth=64, q=16, m=32, n=50, bias=False)
    gradient(marion_net(), weights, x, y)
    assert [path.suffix for path in (no_cache / "cache/cotflow").iterdir()] == [".so"]
    assert os.listdir(no_cache / "cache") == ["cotflow"]


@with_compiler
def test_a_kernel_that_others_could_have_written_is_built_anew(no_cache):
    weights, x, y = random_problem(depth=64, q=16, m=32, n=50, bias=False)
    gradient(marion_net(), weights, x, y)
    (library,) = (no_cache / "cache/cotflow").iterdir()
    forget()
    library.unlink()
    library.write_text("not a library")
    library.chmod(0o666)
    gradient(marion_net(), weights, x, y, backend="compiled")
    assert library.stat().st_mode & 0o077 == 0


def large(depth=64):
    """A problem for which the kernel is chosen."""
    return marion_net(), *random_problem(depth=depth, q=16, m=32, n=50, bias=False)


def program(folder, name, script):
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def plain_with_one_warning(match, times=3):
    net, weights, x, y = large()
    with pytest.warns(UserWarning, match=match) as caught:
        for _ in range(times):
            found = gradient(net, weights, x, y)
    assert len(caught) == 1
    plain = gradient(net, weights, x, y, backend="plain")
    assert torch.equal(found.velocity["V"], plain.velocity["V"])
    return str(caught[0].message)


@pytest.mark.parametrize("fails", ["at once", "when it builds"])
def test_a_compiler_that_fails_is_asked_once_a_process(no_cache, monkeypatch, fails):
    log = no_cache / "starts"
    works = 'case "$*" in *-dM*) exit 0;; esac; ' if fails == "when it builds" else ""
    program(no_cache / "bin", "cc", f"echo x >> {log}; {works}echo broken >&2; exit 1")
    monkeypatch.setenv("PATH", str(no_cache / "bin"))
    plain_with_one_warning("could not build the kernel: broken", times=20)
    starts = log.read_text()
    assert starts.count("x") == (1 if fails == "at once" else 2)
    other = random_problem(depth=64, q=8, m=32, n=50, bias=False)
    gradient(marion_net(), *other)
    with pytest.raises(compiled.CompilerMissing, match="broken"):
        gradient(marion_net(), *other, backend="compiled")
    assert log.read_text() == starts


def test_a_compiler_that_hangs_ends_with_its_children(no_cache, monkeypatch):
    pids = no_cache / "pids"
    program(no_cache / "bin", "cc", f"/bin/sleep 600 & echo $! >> {pids}; wait")
    monkeypatch.setenv("PATH", str(no_cache / "bin"))
    # Long enough for the script to have started its child.
    monkeypatch.setattr(library, "PATIENCE", 2.0)
    plain_with_one_warning("took more than 2 s")
    (pid,) = pids.read_text().split()
    state = Path(f"/proc/{pid}/stat")
    assert not state.exists() or state.read_text().split()[2] == "Z"


def test_messages_that_are_no_text_are_made_one(no_cache, monkeypatch):
    script = r"printf '\377\376 br\303\266ken \033[31m' >&2; exit 1"
    program(no_cache / "bin", "cc", script)
    monkeypatch.setenv("PATH", str(no_cache / "bin"))
    sentence = plain_with_one_warning("bröken")
    assert "\x1b" not in sentence


@with_compiler
def test_the_compiler_that_CC_names_is_obeyed_with_its_flags(no_cache, monkeypatch):
    log = no_cache / "calls"
    wrapper = program(no_cache / "with space", "ccache", f'echo "$@" >> {log}; exec "$@"')
    real = library.command()[0]
    forget()
    monkeypatch.setenv("CC", shlex.join([str(wrapper), real, "-DASKED=1"]))
    net, weights, x, y = large()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gradient(net, weights, x, y, backend="compiled")
    calls = log.read_text().splitlines()
    assert len(calls) == 2 and all(call.startswith(f"{real} -DASKED=1 ") for call in calls)


@with_compiler
@pytest.mark.parametrize("asked", ["no-such-compiler -O2", "'unbalanced"])
def test_a_CC_that_is_missing_is_named(no_cache, monkeypatch, asked):
    monkeypatch.setenv("CC", asked)
    net, weights, x, y = large()
    with pytest.warns(UserWarning, match="CC=.* names no program that is here") as caught:
        gradient(net, weights, x, y)
    assert asked.strip("'") in str(caught[0].message)


def test_a_missing_CC_is_named_where_there_is_no_other(no_cache, monkeypatch):
    monkeypatch.setenv("CC", "no-such-compiler")
    monkeypatch.setenv("PATH", str(no_cache))
    plain_with_one_warning("nor is CC='no-such-compiler'")


@with_compiler
@pytest.mark.parametrize("home", [None, "relative"])
def test_without_a_home_the_plain_step_is_used(no_cache, monkeypatch, home):
    def nobody(uid):
        raise KeyError(uid)

    monkeypatch.setattr("pwd.getpwuid", nobody)
    monkeypatch.setenv("XDG_CACHE_HOME", "relative/too")
    monkeypatch.chdir(no_cache)
    monkeypatch.delenv("HOME")
    if home:
        monkeypatch.setenv("HOME", home)
    plain_with_one_warning("no home folder")
    assert list(no_cache.iterdir()) == []


@with_compiler
def test_a_full_disk_leaves_nothing_and_is_met_once(no_cache, monkeypatch):
    def full(handle):
        raise OSError(28, "No space left on device")

    starts, run = [], library._run
    monkeypatch.setattr(library, "_run", lambda a: starts.append(a) or run(a))
    monkeypatch.setattr(os, "fsync", full)
    plain_with_one_warning("No space left on device")
    assert list((no_cache / "cache/cotflow").iterdir()) == []
    assert len(starts) == 2


@with_compiler
def test_a_kernel_is_on_the_disk_before_it_has_its_name(no_cache, monkeypatch):
    order, fsync, replace = [], os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda h: order.append("fsync") or fsync(h))
    monkeypatch.setattr(Path, "replace", lambda a, b: order.append("replace") or replace(a, b))
    net, weights, x, y = large()
    gradient(net, weights, x, y, backend="compiled")
    assert order == ["fsync", "replace", "fsync"]  # the last is the folder


@with_compiler
def test_what_a_killed_process_left_is_swept_up(no_cache):
    cache = no_cache / "cache/cotflow"
    cache.mkdir(parents=True)
    (old, young) = (cache / f"{name}.partial" for name in ("old", "young"))
    for path in (old, young):
        path.write_text("")
    long_ago = time.time() - 2 * library.ABANDONED
    os.utime(old, (long_ago, long_ago))
    net, weights, x, y = large()
    gradient(net, weights, x, y, backend="compiled")
    assert not old.exists() and young.exists()


@pytest.fixture
def kept(no_cache, monkeypatch):
    """(file of the cache, its key) after one gradient, and a function that takes it anew."""
    asked, verified = [], library.verified
    monkeypatch.setattr(library, "verified", lambda *a: asked.append(a) or verified(*a))
    net, weights, x, y = large(depth=2)

    def again():
        forget()
        return gradient(net, weights, x, y, backend="compiled")

    again()
    monkeypatch.setattr(library, "verified", verified)
    return *asked[0], again


@with_compiler
def test_a_flipped_bit_is_never_loaded(kept):
    path, key, _ = kept
    content = path.read_bytes()
    assert library.verified(path, key) and not library.verified(path, key + b"x")
    generator = torch.Generator().manual_seed(0)
    places = torch.randint(8 * len(content), (200,), generator=generator).tolist()
    for place in [0, 8 * len(content) - 1, *places]:
        damaged = bytearray(content)
        damaged[place // 8] ^= 1 << place % 8
        path.write_bytes(damaged)
        assert not library.verified(path, key), place
    for length in (0, 1, library.SEAL, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        assert not library.verified(path, key), length


@pytest.mark.slow
@with_compiler
@pytest.mark.parametrize("damage", ["flipped", "truncated", "empty", "foreign", "folder"])
def test_a_damaged_or_foreign_file_is_built_anew(kept, damage):
    path, key, again = kept
    content, before = path.read_bytes(), again()
    path.unlink()
    if damage == "folder":
        path.mkdir()
        with pytest.raises(compiled.CompilerMissing, match="Is a directory"):
            again()
        return
    flipped = content[:5000] + bytes([content[5000] ^ 1]) + content[5001:]
    body = content[: -library.SEAL]
    damaged = {"flipped": flipped, "truncated": content[:5000], "empty": b""}
    damaged["foreign"] = body + library._seal(body, b"of another compiler")
    path.write_bytes(damaged[damage])
    path.chmod(0o700)
    after = again()
    assert torch.equal(after.velocity["V"], before.velocity["V"])
    assert library.verified(path, key)
