"""Sphinx extension: a formula and the punctuation behind it stay on one line."""

from __future__ import annotations

import re

from docutils import nodes
from sphinx.application import Sphinx

# What must not begin a line: marks, closing brackets, and the hyphen of "$L$-layer".
BEHIND = re.compile(r"[,.;:!?)\]’”'\"–-]+(?:[a-z]+)?")


def join(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    for formula in list(doctree.findall(nodes.math)):
        behind = formula.next_node(descend=False, siblings=True)
        if not isinstance(behind, nodes.Text) or not (found := BEHIND.match(behind)):
            continue
        parent, text = formula.parent, str(behind)
        place = parent.index(formula)
        together = nodes.inline("", "", classes=["cotflow-together"])
        parent.remove(behind)
        parent.replace(formula, together)
        together += [formula, nodes.Text(found[0])]
        if rest := text[found.end() :]:
            parent.insert(place + 1, nodes.Text(rest))


def setup(app: Sphinx) -> dict:
    app.connect("doctree-resolved", join)
    return {"version": "0.1", "parallel_read_safe": True, "parallel_write_safe": True}
