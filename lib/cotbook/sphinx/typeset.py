"""Sphinx extension: a formula and the punctuation behind it stay on one line, and a page without
formulas loads no MathJax."""

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


def unload(app: Sphinx, pagename: str, template: str, context: dict, doctree: object) -> None:
    """Three megabytes less for a page that has nothing to set."""
    if app.builder.name == "html" and 'class="math' not in context.get("body", ""):
        scripts = context.get("script_files", [])
        context["script_files"] = [
            script
            for script in scripts
            if "mathjax" not in str(getattr(script, "filename", "") or script).lower()
            and "MathJax" not in str(getattr(script, "attributes", {}).get("body", ""))
        ]


def setup(app: Sphinx) -> dict:
    app.connect("doctree-resolved", join)
    app.connect("html-page-context", unload, priority=900)
    return {"version": "0.1", "parallel_read_safe": True, "parallel_write_safe": True}
