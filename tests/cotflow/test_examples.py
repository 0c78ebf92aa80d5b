"""Every name at the front door shows how it is used, and the example runs as it is printed."""

import doctest
import importlib
import inspect
import pkgutil

import pytest
import torch

import cotflow

MODULES = [info.name for info in pkgutil.walk_packages(cotflow.__path__, "cotflow.")]


@pytest.fixture(autouse=True)
def as_it_is_printed():
    """Tensors show their dtype where it is not the default one, which is torch's own here."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    yield
    torch.set_default_dtype(before)


def run(test):
    """An example stands alone: it sees no name that it has not imported."""
    written: list[str] = []
    test.globs = {}
    failed = doctest.DocTestRunner(verbose=False).run(test, out=written.append).failed
    assert failed == 0, "".join(written)


@pytest.mark.parametrize("name", MODULES)
def test_every_example_of_a_module_runs(name):
    for test in doctest.DocTestFinder(exclude_empty=True).find(importlib.import_module(name)):
        run(test)


@pytest.mark.parametrize("name", cotflow.__all__)
def test_the_example_runs(name):
    thing = getattr(cotflow, name)
    # A constant is shown in its class, a package or module in its own text.
    shown = thing if inspect.isroutine(thing) or inspect.isclass(thing) else None
    text = inspect.getdoc(shown or (thing if inspect.ismodule(thing) else type(thing))) or ""
    test = doctest.DocTestParser().get_doctest(text, {}, name, None, None)
    assert any(name in example.source for example in test.examples), f"{name}: no example"
    run(test)
