"""Sphinx extension: the library's pages, made from its docstrings, and links that lead to them.

The docstrings are plain text with numpy's section headings; their formulas use ``|``, ``*`` and
``_`` as mathematics does. Here they become reStructuredText for autodoc. On the other pages every
name of the library that stands in code leads to its description.
"""

from __future__ import annotations

import ast
import html
import importlib
import inspect
import pkgutil
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import is_dataclass
from types import ModuleType
from typing import TypeVar

import nbformat
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.docutils import SphinxDirective
from sphinx.util.nodes import make_refnode

import cotflow
from cotbook.sphinx import tables
from cotbook.sphinx.executed import notebook_path

PAGES = "book/api/"
SECTIONS = ("Parameters", "Attributes", "Returns", "Raises")
# What is markup already: literals and roles.
MARKUP = re.compile(r"(``.+?``|:[\w:]+:`[^`]+`)")
FOLDER = re.compile(r"```\{modules\} ([\w.]+)\n(.*?)```", re.DOTALL)


# From docstrings to reStructuredText


def escaped(line: str) -> str:
    """The line with everything that is not a literal or a role taken as plain text."""
    pieces = MARKUP.split(line)
    pieces[::2] = [re.sub(r"([|*_`])", r"\\\1", piece) for piece in pieces[::2]]
    return "".join(pieces)


def running_text(lines: list[str]) -> Iterator[str]:
    """Ordinary text; an example, from >>> to the next empty line, stays as it is."""
    example = False
    for line in lines:
        example = bool(line.strip()) and (example or line.startswith(">>>"))
        yield line if example else escaped(line)


def sections(lines: list[str]) -> Iterator[tuple[str, list[str]]]:
    """(heading, lines below it); the text before the first heading has the heading ""."""
    heading, block = "", []
    for line in lines:
        if block and re.fullmatch(r"-{3,}", line.strip()) and block[-1].strip() in SECTIONS:
            title = block.pop().strip()
            yield heading, block
            heading, block = title, []
        else:
            block.append(line)
    yield heading, block


def field(heading: str, block: list[str]) -> list[str]:
    """A section of ``names : text`` as a field with a list of definitions."""
    written, after_blank = [f":{heading}:"], False
    for i, line in enumerate(block):
        if not line.strip():
            after_blank = True
            continue
        name, colon, text = line.partition(" : ")
        named = colon and not line.startswith((" ", ">>>"))
        if after_blank and not named:
            # The section is over; ordinary text goes on.
            return [*written, "", *running_text(block[i:])]
        after_blank = False
        if named:
            names = ", ".join(f"``{one.strip()}``" for one in name.split(","))
            written += [f"    {names}", f"        {escaped(text)}"]
        elif line.startswith(" "):
            written.append(f"        {escaped(line.strip())}")
        else:
            written.append(f"    {escaped(line.strip())}")
    return [*written, ""]


def rewrite(app: Sphinx, what: str, name: str, thing, options, lines: list[str]) -> None:
    """autodoc's event: the docstring of one object, changed in place."""
    if what == "data":
        # What inspect finds is the text of its class.
        kind = type(thing)
        lines[:] = [f"A :class:`~{kind.__module__}.{kind.__qualname__}`.", ""]
        return
    new: list[str] = []
    for heading, block in sections(list(lines)):
        if heading:
            new += ["", *field(heading, block)]
        else:
            new += running_text(block)
    lines[:] = [*new, ""]


def choose(app: Sphinx, what: str, name: str, thing, skip: bool, options) -> bool | None:
    """A dataclass without a text has its signature as one, which stands on the page already."""
    if isinstance(thing, type) and is_dataclass(thing) and thing.__doc__.startswith(f"{name}("):
        thing.__doc__ = None
    return None


# Modules


def modules(package: str) -> list[str]:
    """The public modules of a package, by their own names."""
    found = pkgutil.iter_modules(importlib.import_module(package).__path__)
    return [info.name for info in found if not (info.ispkg or info.name.startswith("_"))]


def constants(module: str) -> list[str]:
    """What a module defines besides classes and functions: ready-made objects of the library."""
    loaded = importlib.import_module(module)
    body = ast.parse(inspect.getsource(loaded)).body
    targets = (target for line in body if isinstance(line, ast.Assign) for target in line.targets)
    names = [target.id for target in targets if isinstance(target, ast.Name)]
    kinds = {name: type(getattr(loaded, name)).__module__ for name in names}
    return [name for name in names if kinds[name].startswith("cotflow.") and name.isupper()]


def folder(app: Sphinx, docname: str, source: list[str]) -> None:
    """Where a page asks for a package: the modules that it names, in its order, then the others."""

    def described(match: re.Match[str]) -> str:
        package, named = match[1], match[2].split()
        others = [name for name in modules(package) if name not in named]
        of_cotflow = package != "cotbook"
        blocks = [f"```{{eval-rst}}\n.. automodule:: {package}\n```\n"] * of_cotflow
        for name in [*named, *others * of_cotflow]:
            module = f"{package}.{name}"
            data = "".join(f"\n.. autodata:: {module}.{name}" for name in constants(module))
            block = f"```{{eval-rst}}\n.. automodule:: {module}\n{data}\n```\n"
            blocks.append(f"## `{name}`\n\n{block}")
        return "\n".join(blocks)

    source[0] = FOLDER.sub(described, source[0])


class FrontDoor(SphinxDirective):
    """A table of what can be imported from ``cotflow`` itself, with the first words of its text."""

    def run(self) -> list[nodes.Node]:
        return [Door()]


class Door(nodes.General, nodes.Element):
    """Holds the table's place until every description is known."""


def first_words(thing: object) -> str:
    if not (isinstance(thing, ModuleType) or hasattr(thing, "__qualname__")):
        return f"a {type(thing).__name__}"
    text = (thing.__doc__ or "").strip().partition("\n\n")[0]
    return " ".join(re.sub(r":\w+:`~?([^`]+)`", r"\1", text).replace("``", "").split())


def fill_front_door(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    for door in list(doctree.findall(Door)):
        rows = []
        for name in cotflow.__all__:
            thing, place = getattr(cotflow, name), described(app.env, f"cotflow.{name}")
            shown: nodes.Node = nodes.literal("", name)
            if place:
                shown = make_refnode(app.builder, docname, *place, shown)
            rows.append(([shown], first_words(thing)))
        door.replace_self(tables.table(rows, ("name", "what it is"), ["cotflow-front-door"]))


# Links

# A capital letter or an underscore, which words of the text do not have.
ODD = re.compile(r"[A-Z_]")


def found(name: str) -> object:
    """The thing of a dotted name, None if there is none."""
    module, names = name, []
    while module:
        try:
            thing = importlib.import_module(module)
        except ImportError:
            module, _, last = module.rpartition(".")
            names.insert(0, last)
            continue
        for attribute in names:
            thing = getattr(thing, attribute, None)
        return thing
    return None


def canonical(name: str) -> str:
    """Where a name of the library is described: ``cotflow.flow`` is ``cotflow.flows.flow``."""
    thing, attribute = found(name), name.rpartition(".")[2]
    if isinstance(thing, ModuleType):
        return thing.__name__
    if hasattr(thing, "__qualname__"):
        return f"{thing.__module__}.{thing.__qualname__}"
    # A constant is described where its type is, or where it was asked for.
    home = f"{type(thing).__module__}.{attribute}"
    return home if type(thing).__module__.startswith("cotflow.") else name


def described(env: BuildEnvironment, name: str) -> tuple[str, str] | None:
    """(page, anchor) of the description of a dotted name."""
    objects = env.get_domain("py").objects
    target = next((n for n in (name, canonical(name)) if n in objects), None)
    return target and (objects[target].docname, objects[target].node_id)


def resolve(app: Sphinx, env: BuildEnvironment, node, content):
    """A reference to a name at the library's front door leads to the module that defines it."""
    if node.get("refdomain") != "py":
        return None
    name, module = node["reftarget"], node.get("py:module")
    if not name.startswith("cotflow") and module:
        # What a docstring names as its module imports it.
        name = f"{module}.{name}"
    place = described(env, name)
    if place is None:
        variable = isinstance(found(name), TypeVar)
        return content if variable else None
    return make_refnode(app.builder, node["refdoc"], *place, content, name)


def inner_names(env: BuildEnvironment) -> dict[str, str]:
    """Functions and classes behind the front door, by a name that no two share and that is no
    plain word."""
    objects = env.get_domain("py").objects
    kinds = {name: found.objtype for name, found in objects.items()}
    dotted = [name for name, kind in kinds.items() if kind in ("function", "class")]
    last = Counter(name.rpartition(".")[2] for name in dotted)
    named = {name.rpartition(".")[2]: name for name in dotted if name.startswith("cotflow.")}
    return {short: name for short, name in named.items() if last[short] == 1 and ODD.search(short)}


def link_literals(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """A name of the library in running text leads to its description."""
    if docname.startswith(PAGES):
        return
    inner = inner_names(app.env)
    for literal in list(doctree.findall(nodes.literal)):
        text = literal.astext()
        name = re.fullmatch(r"(?:cotflow\.)?([\w.]+)(?:\(\))?", text)
        if not name or isinstance(literal.parent, nodes.reference):
            continue
        dotted = f"cotflow.{name[1]}"
        if "." not in text and name[1] not in cotflow.__all__:
            dotted = inner.get(name[1], "")
        place = described(app.env, dotted)
        if place:
            link = make_refnode(app.builder, docname, *place, literal.deepcopy(), dotted)
            link["classes"].append("cotflow-api")
            literal.replace_self(link)


def imports(app: Sphinx, docname: str) -> dict[str, str]:
    """The library's names in the code of a page: name as it is written there → dotted name."""
    path = notebook_path(app.env, docname)
    if not path.exists():
        return {}
    names = {}
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type != "code":
            continue
        try:
            tree = ast.parse(cell.source)
        except SyntaxError:
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "cotflow":
                for alias in node.names:
                    names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return names


CELL = re.compile(r'(<div class="cell_input.*?<pre>)(.*?)(</pre>)', re.DOTALL)
NAME = re.compile(
    r'(?P<dot><span class="o">\.</span>)?<span class="n">(?P<name>\w+)</span>'
    r'(?P<assign><span class="o">=)?'
)


def link_code(app: Sphinx, pagename: str, template: str, context: dict, doctree) -> None:
    """In each code cell the first occurrence of a name of the library leads to its description."""
    if doctree is None or "body" not in context:
        return
    targets = {}
    for name, dotted in imports(app, pagename).items():
        place = described(app.env, dotted)
        if place:
            page, anchor = place
            uri = app.builder.get_relative_uri(pagename, page)
            targets[name] = html.escape(f"{uri}#{anchor}"), html.escape(dotted)
    if not targets:
        return

    def cell(match: re.Match) -> str:
        seen: set[str] = set()

        def link(token: re.Match) -> str:
            name = token["name"]
            if name not in targets or name in seen or token["dot"] or token["assign"]:
                return token[0]
            seen.add(name)
            uri, dotted = targets[name]
            return f'<a class="cotflow-api" href="{uri}" title="{dotted}">{token[0]}</a>'

        return match[1] + NAME.sub(link, match[2]) + match[3]

    context["body"] = CELL.sub(cell, context["body"])


SIGNATURE = re.compile(r"<dl>\n((?:<dd>(?:(?!<d[dlt]).)*?</dd>\n)+)</dl>", re.DOTALL)


def plain_signatures(app: Sphinx, pagename: str, template: str, context: dict, doctree) -> None:
    """Parameters one a line without a list of definitions that has no terms to define."""

    def lines(match: re.Match) -> str:
        return (
            match[1].replace("<dd>", '<span class="cotflow-parameter">').replace("</dd>", "</span>")
        )

    if pagename.startswith(PAGES) and "body" in context:
        context["body"] = SIGNATURE.sub(lines, context["body"])


def setup(app: Sphinx) -> dict:
    app.setup_extension("sphinx.ext.autodoc")
    app.connect("autodoc-process-docstring", rewrite)
    app.connect("autodoc-skip-member", choose)
    app.connect("source-read", folder)
    app.connect("missing-reference", resolve)
    app.add_node(Door)
    app.add_directive("front-door", FrontDoor)
    app.connect("doctree-resolved", fill_front_door)
    app.connect("doctree-resolved", link_literals)
    app.connect("html-page-context", link_code)
    app.connect("html-page-context", plain_signatures)
    return {"version": "0.1", "parallel_read_safe": False, "parallel_write_safe": False}
