"""Every name at the front door shows how it is used, and the example runs as it is printed."""

import doctest
import inspect

import pytest

import cotflow


@pytest.mark.parametrize("name", cotflow.__all__)
def test_the_example_runs(name):
    thing = getattr(cotflow, name)
    # A constant is shown in its class, a package or module in its own text.
    shown = thing if inspect.isroutine(thing) or inspect.isclass(thing) else None
    text = inspect.getdoc(shown or (thing if inspect.ismodule(thing) else type(thing))) or ""
    test = doctest.DocTestParser().get_doctest(text, {}, name, None, None)
    assert any(name in example.source for example in test.examples), f"{name}: no example"
    written: list[str] = []
    failed = doctest.DocTestRunner(verbose=False).run(test, out=written.append).failed
    assert failed == 0, "".join(written)
