"""The campaign of hostile inputs, a short one, and whether it would find what it looks for."""

import os
import subprocess
import sys
import warnings
from functools import partial

import numpy as np
import pytest
import torch

import campaign
import cotflow
import surroundings
from campaign import End
from hostile import oracle
from hostile.draws import Draws


@pytest.mark.slow
def test_a_short_campaign_ends_without_a_fault():
    ends = campaign.campaign(400, 0)
    assert campaign.faults(ends) == []
    assert {end.area for end in ends} == set(campaign.AREAS)
    assert len(ends) >= 400 and len({(end.area, end.index) for end in ends}) == len(ends)
    assert sum(end.end == "answered" for end in ends) > 60


def test_an_input_is_its_seed_and_its_index():
    def drawn(seed, index):
        d = Draws(np.random.default_rng([seed, 0, index]))
        return [repr(d.mutated({"x": d.tensor(2, 2), "n": d.whole(0, 9)}, 0.0)) for _ in range(3)]

    assert drawn(0, 1) == drawn(0, 1) != drawn(0, 2)
    assert drawn(0, 1) != drawn(1, 1)


def told(function, *arguments):
    return oracle.judged(lambda: partial(function, *arguments))


def fails(kind, *arguments):
    raise kind(*arguments)


def test_only_a_sentence_of_our_own_is_a_refusal():
    net, x = cotflow.marion_net(), torch.ones(2, 3)
    assert told(cotflow.loglog_slope, [1], [1])[0] == "refused"
    assert told(cotflow.TANH.value, "text")[0] == "raw"
    assert told(net.rates, None)[0] == "raw"
    assert told(net.residual, None, 0, x)[0] == "raw"
    assert told(fails, KeyError, "x")[0] == "raw"
    assert told(fails, ValueError, "expected x, received y")[0] == "raw"
    assert told(fails, MemoryError)[0] == "refused"


def test_what_is_not_finite_is_found_wherever_it_lies():
    assert told(float, "inf")[0] == "not finite"
    assert told(lambda: {"a": [(torch.tensor([1.0, float("nan")]),)]})[0] == "not finite"
    assert told(cotflow.Sizes, 1, 1, 1, 1, 1)[0] == "answered"
    assert told(float, float("inf"))[0] == "answered"  # as the input was
    assert told(fails, oracle.Disagreement, "1 and 2") == ("disagreement", "1 and 2")


def test_a_crash_is_told_of_and_the_batch_goes_on(monkeypatch):
    ends = {3: ([End("library", 3, "a", "answered")], (4, "b"), -11, "Segmentation fault")}
    ends[5] = [End("library", 5, "c", "refused")], None, 0, ""
    monkeypatch.setattr(campaign, "child", lambda seed, area, start, stop: ends[start])
    found = list(campaign.done(0, "library", 3, 6))
    assert [end.index for end in found] == [3, 4, 5]
    assert [end.end for end in found] == ["answered", "crash", "refused"]
    assert "Segmentation fault" in campaign.faults(found)[0]
    assert campaign.figures(found).splitlines()[-1].split()[1:5] == ["3", "1", "1", "0"]


def test_a_child_that_dies_says_at_which_input(tmp_path, monkeypatch):
    script = tmp_path / "dies.py"
    script.write_text("import os\nprint('[7, \"x\"]', flush=True)\nos.abort()\n")
    monkeypatch.setattr(campaign, "__file__", str(script))
    ends, unfinished, code, _ = campaign.child(0, "library", 7, 8)
    assert (ends, unfinished) == ([], (7, "x")) and code < 0


def test_a_warning_of_our_own_is_an_error_here():
    for module in ("cotflow.flows.any", "cotbook.any"):
        with pytest.raises(UserWarning, match="told"):
            warnings.warn_explicit("told", UserWarning, "any.py", 1, module=module)
    with warnings.catch_warnings(record=True):
        warnings.warn_explicit("told", UserWarning, "any.py", 1, module="another")


@pytest.mark.slow
@pytest.mark.parametrize("name", surroundings.SURROUNDINGS)
def test_a_surrounding_is_what_it_says(name, tmp_path):
    (tmp_path / "test_here.py").write_text(
        "import locale, os, sys, torch\n"
        "def test_here():\n"
        "    print('found', sys.flags.optimize, torch.get_default_dtype(),\n"
        "          os.environ.get('MPLBACKEND'), sys.flags.utf8_mode)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"import surroundings, pathlib, sys\n"
         f"sys.exit(surroundings.run({name!r}, pathlib.Path({str(tmp_path)!r}), ['-s', '-q']))"],
        capture_output=True,
        text=True,
        env={
            # Where make test sets it.
            **{key: value for key, value in os.environ.items() if key != "PYTHONUTF8"},
            "PYTHONPATH": str(campaign.TESTS),
            "MPLBACKEND": "svg",
            # In the locale C, Python would use UTF-8 for everything.
            "LC_ALL": "C.UTF-8",
        },
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    found = done.stdout.split("found ")[1].split()[:4]
    expected = {
        "optimised": ["1", "torch.float32", "svg"],
        "float64": ["0", "torch.float64", "svg"],
        "agg": ["0", "torch.float32", "agg"],
        "together": ["1", "torch.float64", "agg"],
    }
    assert found[:3] == expected.get(name, ["0", "torch.float32", "svg"])
    assert found[3] == ("1" if name in ("C", "together") else "0")


@pytest.mark.skipif(not (surroundings.ROOT / ".git").exists(), reason="git knows of no files here")
def test_the_awkward_folder_has_the_files_that_git_knows(tmp_path):
    root = surroundings.copy(tmp_path)
    assert set(" 'ü") < set(root.name)
    assert (root / "lib/cotflow/__init__.py").is_file() and not (root / ".git").exists()
