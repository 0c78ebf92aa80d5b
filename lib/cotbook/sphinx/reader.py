"""Sphinx extension: what a reader takes away from a page, and how a page looks from outside.

Downloads: the text of every page; of a chapter also the executed notebook and a script.
Buttons: Binder and Colab, only where the public address of the repository is known.
Preview: title, description and picture for whoever shares a link.
"""

from __future__ import annotations

import copy
import html
import os
from pathlib import Path

import jupytext
import nbformat
from docutils.nodes import make_id
from sphinx.application import Sphinx
from sphinx.errors import ConfigError

from cotbook import render
from cotbook.claims import Claim
from cotbook.keep import bibliography
from cotbook.sphinx import plain, preview, statements
from cotbook.sphinx.executed import notebook_path
from cotbook.sphinx.executed import read as records_of
from cotbook.sphinx.repository import Repository, repository

LOCAL = """\
# The library, from a clone of its repository: put the clone's folder in place of the dot.
# %pip install --quiet "cotflow[notebook] @ file:."
"""
INSTALL = """\
# The library at the commit this page was built from; a minute or two.
%pip install --quiet "{}"
"""


def find_repository(app: Sphinx, *event) -> None:
    try:
        app.cotflow_repository = repository(Path(app.srcdir))
    except ValueError as error:
        raise ConfigError(str(error)) from error
    home = app.cotflow_repository
    if home and home.site and not app.config.html_baseurl:
        app.config.html_baseurl = f"{home.site}/"


def executed(app: Sphinx, pagename: str) -> nbformat.NotebookNode | None:
    """The notebook of a page that has code."""
    if pagename not in app.env.found_docs:
        return None
    path = notebook_path(app.env, pagename)
    if not path.exists():
        return None
    notebook = nbformat.read(path, as_version=4)
    return notebook if any(cell.cell_type == "code" for cell in notebook.cells) else None


def bare(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The cells and their tags, without outputs and without the traces of an execution."""
    cells = []
    for cell in notebook.cells:
        code = cell.cell_type == "code"
        new = nbformat.v4.new_code_cell if code else nbformat.v4.new_markdown_cell
        cells.append(new(cell.source, metadata={"tags": cell.metadata.get("tags", [])}))
    kernel = {"kernelspec": notebook.metadata.kernelspec}
    return nbformat.v4.new_notebook(cells=cells, metadata=kernel)


def readable(
    notebook: nbformat.NotebookNode, names: plain.Names, home: Repository | None
) -> nbformat.NotebookNode:
    """The executed notebook with texts that every notebook shows, and how to get the library."""
    found = copy.deepcopy(notebook)
    for cell in found.cells:
        if cell.cell_type == "markdown":
            cell.source = plain.markdown(cell.source, names)
    first = INSTALL.format(home.requirement) if home else LOCAL
    found.cells.insert(0, nbformat.v4.new_code_cell(first, id="install"))
    return found


def names(app: Sphinx, pagename: str) -> plain.Names:
    """What references are called on the pages."""
    env = app.env
    labels = {
        box.label: f"{box.kind.title()} {box.number(env)}".strip()
        for found in statements.statements(env).values()
        for box in found
    }
    for label, (docname, number) in env.get_domain("math").equations.items():
        shown = env.toc_fignumbers.get(docname, {}).get("displaymath", {})
        parts = shown.get(make_id(f"equation-{label}"), (number,))
        labels[label] = f"({'.'.join(map(str, parts))})"
    for label, (docname, anchor) in env.get_domain("std").anonlabels.items():
        if parts := env.toc_fignumbers.get(docname, {}).get("figure", {}).get(anchor):
            labels[label] = f"Fig. {'.'.join(map(str, parts))}"
    for chapter in records_of(env):
        for entry in chapter.claims:
            if isinstance(entry, Claim):
                number = render.plain([render.number(entry.measured)])
                labels[f"{entry.chapter}/{entry.name}"] = number
    home: Repository | None = app.cotflow_repository

    def page(path: str) -> tuple[str, str]:
        name = os.path.normpath(f"{pagename.rpartition('/')[0]}/{path}").removesuffix(".md")
        title = env.titles[name].astext() if name in env.titles else name
        site = home.site if home else None
        return title, f"{site}/{app.builder.get_target_uri(name)}" if site else ""

    return plain.Names(labels, bibliography.short_names(Path(app.srcdir)), page)


def script(notebook: nbformat.NotebookNode) -> str:
    """The cells as a Python file that runs from top to bottom, text as comments."""
    bare = nbformat.v4.new_notebook(cells=[], metadata={"kernelspec": notebook.metadata.kernelspec})
    for cell in notebook.cells:
        new = (
            nbformat.v4.new_code_cell if cell.cell_type == "code" else nbformat.v4.new_markdown_cell
        )
        bare.cells.append(new(cell.source))
    return jupytext.writes(bare, fmt="py:percent")


def launchable(notebook: nbformat.NotebookNode, home: Repository) -> nbformat.NotebookNode:
    """The notebook without outputs, with the installation of the library as its first cell."""
    bared = bare(notebook)
    bared.cells.insert(0, nbformat.v4.new_code_cell(INSTALL.format(home.requirement)))
    for number, cell in enumerate(bared.cells):
        cell["id"] = f"cell-{number}"
    return bared


def button(url: str, text: str, tooltip: str, icon: str, **options) -> dict:
    return {"type": "link", "url": url, "text": text, "tooltip": tooltip, "icon": icon, **options}


def downloads(app: Sphinx, pagename: str, context: dict, notebook) -> list[dict]:
    sources = Path(app.outdir) / "_sources"
    here = f"{context['pathto']('_sources', 1)}/{pagename}"
    text = f"{context['pathto']('_sources', 1)}/{context['sourcename']}"
    offered = [button(text, ".md", "Text of this page", "fas fa-file-lines")]
    if notebook is not None:
        path = sources / pagename
        path.parent.mkdir(parents=True, exist_ok=True)
        shown = readable(notebook, names(app, pagename), app.cotflow_repository)
        nbformat.write(shown, path.with_suffix(".ipynb"))
        path.with_suffix(".py").write_text(script(shown), encoding="utf-8")
        offered += [
            button(f"{here}.ipynb", ".ipynb", "Executed notebook", "fas fa-book-open"),
            button(f"{here}.py", ".py", "Script", "fas fa-code"),
        ]
    return offered


def launches(app: Sphinx, pagename: str, notebook) -> list[dict]:
    home: Repository | None = app.cotflow_repository
    name = pagename.rpartition("/")[2]
    paired = Path("book/notebooks") / f"{name}.ipynb"
    if home is None or notebook is None or not (Path(app.srcdir) / paired).exists():
        return []
    icons = "_static/images"
    offered = [button(home.binder(paired), "Binder", "Open in Binder", f"{icons}/logo_binder.svg")]
    colab = home.colab(f"{name}.ipynb")
    if colab:
        offered.append(button(colab, "Colab", "Open in Colab", f"{icons}/logo_colab.png"))
    # What the branch for Colab is made of.
    launch = Path(app.outdir) / "launch" / f"{name}.ipynb"
    launch.parent.mkdir(exist_ok=True)
    nbformat.write(launchable(notebook, home), launch)
    return offered


def group(buttons: list[dict], tooltip: str, icon: str, label: str) -> dict:
    return {"type": "group", "tooltip": tooltip, "icon": icon, "buttons": buttons, "label": label}


def add_buttons(app: Sphinx, pagename: str, template: str, context: dict, doctree) -> None:
    if app.builder.name != "html" or doctree is None or not context.get("sourcename"):
        return
    notebook = executed(app, pagename)
    header = context.setdefault("header_buttons", [])
    offered = launches(app, pagename, notebook)
    if offered:
        header.append(group(offered, "Run this page online", "fas fa-rocket", "launch-buttons"))
    offered = downloads(app, pagename, context, notebook)
    header.append(group(offered, "Download this page", "fas fa-download", "download-buttons"))


def description(doctree) -> str:
    """The first sentences of the page's first long paragraph."""
    for paragraph in doctree.findall(lambda node: node.tagname == "paragraph"):
        text = " ".join(paragraph.astext().split())
        if len(text) > 60 and "$" not in text and "\\" not in text:
            return text if len(text) <= 200 else text[:200].rsplit(" ", 1)[0] + " …"
    return ""


def add_preview(app: Sphinx, pagename: str, template: str, context: dict, doctree) -> None:
    if app.builder.name != "html" or doctree is None:
        return
    home: Repository | None = app.cotflow_repository
    site = home.site if home else None
    picture = f"_static/{preview.NAME}"
    tags = {
        "og:type": "article",
        "og:site_name": app.config.html_title,
        "og:title": app.env.titles[pagename].astext(),
        "og:description": description(doctree),
        # A full address is what others can load; without one the picture is at least beside us.
        "og:image": f"{site}/{picture}" if site else context["pathto"](picture, 1),
        "og:image:width": str(preview.SIZE[0]),
        "og:image:height": str(preview.SIZE[1]),
        "og:image:alt": preview.ALT,
        "twitter:card": "summary_large_image",
    }
    if site:
        tags["og:url"] = f"{site}/{app.builder.get_target_uri(pagename)}"
    written = "".join(
        f'<meta {"name" if key.startswith("twitter") else "property"}="{key}" '
        f'content="{html.escape(value)}" />\n'
        for key, value in tags.items()
        if value
    )
    if tags["og:description"]:
        written += f'<meta name="description" content="{html.escape(tags["og:description"])}" />\n'
    context["metatags"] = context.get("metatags", "") + written


def draw_preview(app: Sphinx, exception: Exception | None) -> None:
    if exception is None and app.builder.name == "html":
        preview.draw(Path(app.outdir) / "_static", app.config.html_title)


def listed_entries(
    app: Sphinx, pagename: str, templatename: str, context: dict, doctree: object
) -> None:
    """Entries of the bibliography are items of its list: ARIA gave up the role docutils writes."""
    if "body" in context:
        old, new = 'role="doc-biblioentry"', 'role="listitem"'
        context["body"] = context["body"].replace(old, new)


def setup(app: Sphinx) -> dict:
    app.cotflow_repository = None
    app.connect("builder-inited", find_repository, priority=100)
    # The theme makes its list of buttons at 501.
    app.connect("html-page-context", add_buttons, priority=502)
    app.connect("html-page-context", add_preview, priority=502)
    app.connect("html-page-context", listed_entries)
    app.connect("build-finished", draw_preview)
    return {"version": "0.1", "parallel_read_safe": False, "parallel_write_safe": False}
