"""A file appears whole or not at all, with its permissions from the first moment on."""

import os
import stat

import pytest

from cotflow.network.disk import appearing


def test_a_file_appears_when_its_block_ends(tmp_path):
    path, partial = tmp_path / "a", tmp_path / ".a.partial"
    path.write_bytes(b"old")
    with appearing(path, partial, 0o600) as file:
        file.write(b"new")
        assert path.read_bytes() == b"old"
        assert stat.S_IMODE(partial.stat().st_mode) == 0o600
    assert path.read_bytes() == b"new" and os.listdir(tmp_path) == ["a"]


def test_nothing_is_left_of_a_block_that_fails(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError), appearing(path, tmp_path / ".a.partial") as file:
        file.write(b"half")
        raise RuntimeError
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["a"]


def test_it_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    order, fsync, replace = [], os.fsync, type(tmp_path).replace
    monkeypatch.setattr(os, "fsync", lambda h: order.append("fsync") or fsync(h))
    monkeypatch.setattr(
        type(tmp_path), "replace", lambda a, b: order.append("replace") or replace(a, b)
    )
    with appearing(tmp_path / "a", tmp_path / ".a.partial") as file:
        file.write(b"new")
    assert order == ["fsync", "replace", "fsync"]


def test_what_is_planted_at_its_place_is_not_followed(tmp_path):
    treasure, partial = tmp_path / "treasure", tmp_path / ".a.partial"
    treasure.write_bytes(b"gold")
    partial.symlink_to(treasure)
    with pytest.raises(FileExistsError), appearing(tmp_path / "a", partial):
        pass
    assert treasure.read_bytes() == b"gold"
