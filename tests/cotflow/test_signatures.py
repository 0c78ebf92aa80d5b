"""One order of arguments in all of the library: the generator comes last of those with a place."""

import importlib
import inspect
import pkgutil

import torch

import cotflow

PLACED = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def signatures():
    """Of every public function, class and method of the library, by its dotted name."""
    for info in pkgutil.walk_packages(cotflow.__path__, "cotflow."):
        for name, thing in vars(importlib.import_module(info.name)).items():
            if name.startswith("_") or getattr(thing, "__module__", None) != info.name:
                continue
            if not inspect.isclass(thing):
                parts = {name: thing}
            else:
                parts = {f"{name}.{k}": v for k, v in vars(thing).items() if k[0] != "_"}
                parts[name] = vars(thing).get("__init__")
            for part, function in parts.items():
                if inspect.isfunction(function):
                    yield f"{info.name}.{part}", inspect.signature(function)


def place(signature):
    """(name of the generator, [last argument with a place]); None without a generator."""
    for parameter in signature.parameters.values():
        if "Generator" in str(parameter.annotation) or parameter.annotation is torch.Generator:
            placed = [p.name for p in signature.parameters.values() if p.kind in PLACED]
            return parameter.name, placed[-1:]
    return None


def test_the_generator_is_the_last_argument_with_a_place():
    found = {name: place(signature) for name, signature in signatures()}
    drawing = {name: where for name, where in found.items() if where is not None}
    assert len(found) > 150 and len(drawing) >= 8
    wrong = {n: w for n, w in drawing.items() if w != ("generator", ["generator"])}
    assert wrong == {}
