"""The whole book as one PDF: the built pages joined in their order and printed by a browser.

    python -m cotbook.keep.pdf _build/html _build/cotflow.pdf

Proofs are open, cells whose code the pages fold away are left out, links between pages lead to
places in the document, and headings make its outline.
"""

from __future__ import annotations

import functools
import http.server
import posixpath
import shutil
import sys
import threading
from pathlib import Path
from urllib.parse import unquote, urldefrag

from bs4 import BeautifulSoup, Tag

from cotbook.records import LEDGER

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
]
JOINED = "whole-book.html"

STYLE = """
@page { size: A4; margin: 18mm 17mm 20mm; }
html { font-size: 13px; }
body { background: white; }
article.bd-article { padding: 0; break-before: page; }
.cover { padding-top: 30vh; text-align: center; }
.cover p { color: #4d596b; }
.book-contents { break-before: page; }
.book-contents ol { list-style: none; padding-left: 0; }
.book-contents li { padding: 0.2rem 0; }
.headerlink, .copybtn, button, details.hide, .cotflow-motion label { display: none !important; }
figure, table tr, .cotflow-claim, div.cell_output img { break-inside: avoid; }
h1, h2, h3, h4, summary, p.admonition-title { break-after: avoid; }
a, a.cotflow-term, a.cotflow-api { color: inherit; text-decoration: none; border: 0; }
p a.reference { color: #0f5cc0; }
a.cotflow-term, a.cotflow-api { text-decoration: none !important; }
a.cotflow-term .math { border-bottom: 0 !important; }
.pst-scrollable-table-container, div.math, span.math { overflow: visible !important; }
.bd-article table { font-size: 0.8rem !important; }
.bd-article table :is(td, th) { white-space: normal !important; min-width: 0 !important; }
summary { list-style: none; }
"""

FOOTER = """<div style="font: 8px sans-serif; width: 100%; text-align: center; color: #4d596b">
<span class="pageNumber"></span></div>"""

MATH_IS_SET = """() => window.MathJax?.startup?.promise !== undefined && [
  ...document.querySelectorAll('.math')].every((node) => node.querySelector('mjx-container'))"""

OPEN_PROOFS = """() => document.querySelectorAll('details:not(.hide)').forEach(
  (details) => { details.open = true; })"""


class Unavailable(RuntimeError):
    """Something that printing needs is missing; the sentence says what to do."""


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args) -> None:
        pass


def soup(path: Path) -> BeautifulSoup:
    return BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")


def pages(html: Path) -> list[str]:
    """The pages in the order of the table of contents, relative to the folder."""
    redirect = soup(html / "index.html").find("meta", attrs={"http-equiv": "Refresh"})
    first = redirect["content"].partition("url=")[2] if redirect else "index.html"
    links = soup(html / first).select("nav.bd-links a.reference.internal")
    folder = posixpath.dirname(first)
    found = [first]
    for link in links:
        page = posixpath.normpath(posixpath.join(folder, urldefrag(link["href"])[0] or first))
        page = first if link["href"] == "#" else page
        if page not in found:
            found.append(page)
    return found


def slug(page: str) -> str:
    return page.removesuffix(".html").replace("/", "-")


def moved(address: str, page: str, known: set[str]) -> str:
    """An address on a page as it reads in the joined document."""
    if "://" in address or address.startswith(("data:", "mailto:")):
        return address
    path, anchor = urldefrag(address)
    target = posixpath.normpath(posixpath.join(posixpath.dirname(page), path)) if path else page
    if target in known:
        return f"#{slug(target)}{'--' + unquote(anchor) if anchor else ''}"
    return target + (f"#{anchor}" if anchor else "")


def article(html: Path, page: str, known: set[str]) -> Tag:
    """The body of a page with names that no other page has."""
    body = soup(html / page).select_one("article.bd-article")
    for node in body.find_all(id=True):
        node["id"] = f"{slug(page)}--{node['id']}"
    for name in ("href", "src"):
        for node in body.find_all(attrs={name: True}):
            node[name] = moved(node[name], page, known)
    for name in ("for", "aria-labelledby", "aria-describedby"):
        for node in body.find_all(attrs={name: True}):
            node[name] = f"{slug(page)}--{node[name]}"
    body["id"] = slug(page)
    return body


def join(html: Path) -> str:
    """All pages as one."""
    order = pages(html)
    document = soup(html / order[0])
    title = document.select_one(".navbar-brand .title").get_text(strip=True)
    for name in ("href", "src"):
        for node in document.head.find_all(attrs={name: True}):
            node[name] = moved(node[name], order[0], set())
    for node in document.head.find_all("link", rel=["next", "prev", "canonical"]):
        node.decompose()
    style = document.new_tag("style")
    style.string = STYLE
    document.head.append(style)
    articles = [article(html, page, set(order)) for page in order]
    contents = "".join(
        f'<li><a href="#{body["id"]}">{body.h1.contents[0]}</a></li>' for body in articles
    )
    document.title.string = title
    date = document.select_one(".last-updated, .footer-item p.last-updated")
    built = f"<p>{date.get_text(' ', strip=True)}</p>" if date else ""
    front = BeautifulSoup(
        f'<div class="cover"><h1>{title}</h1><p>A book that measures its own theorems</p>{built}'
        '</div><nav class="book-contents" aria-label="Contents"><h2>Contents</h2>'
        f"<ol>{contents}</ol></nav>",
        "html.parser",
    )
    main = document.new_tag("main", attrs={"class": "bd-content"})
    main.extend([front, *articles])
    scripts = [node for node in document.body.find_all("script") if "mathjax" in str(node).lower()]
    document.body.clear()
    document.body.extend([main, *scripts])
    document.html["data-theme"] = document.html["data-mode"] = "light"
    return str(document)


def browser() -> str:
    """Path of an installed browser that can print."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError as error:
        raise Unavailable("the package playwright is missing: `make setup` installs it") from error
    with sync_playwright() as playwright:
        own = playwright.chromium.executable_path
    found = next(filter(None, map(shutil.which, BROWSERS)), own)
    if not Path(found).exists():
        raise Unavailable(
            "no chromium or chrome was found: install one with your system's packages, "
            "or with `.venv/bin/playwright install --with-deps chromium`"
        )
    return found


def print_pdf(html: Path, pdf: Path) -> None:
    from playwright.sync_api import sync_playwright

    path = browser()
    if not (html / LEDGER).exists():
        raise Unavailable(f"no built pages in {html}: run `make book` first")
    joined = html / JOINED
    joined.write_text(join(html), encoding="utf-8")
    handler = functools.partial(Quiet, directory=html)
    try:
        with (
            http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server,
            sync_playwright() as playwright,
        ):
            threading.Thread(target=server.serve_forever, daemon=True).start()
            chromium = playwright.chromium.launch(executable_path=path, args=FLAGS)
            page = chromium.new_page(viewport={"width": 794, "height": 1123}, color_scheme="light")
            page.set_default_timeout(600_000)
            page.goto(f"http://127.0.0.1:{server.server_port}/{JOINED}", wait_until="networkidle")
            page.wait_for_function(MATH_IS_SET)
            page.evaluate(OPEN_PROOFS)
            page.emulate_media(media="print", color_scheme="light")
            pdf.parent.mkdir(parents=True, exist_ok=True)
            page.pdf(
                path=pdf,
                prefer_css_page_size=True,
                print_background=True,
                display_header_footer=True,
                header_template="<span></span>",
                footer_template=FOOTER,
                tagged=True,
                outline=True,
            )
            chromium.close()
            server.shutdown()
    finally:
        joined.unlink(missing_ok=True)


def main(words: list[str]) -> int:
    if words == ["--check"]:
        step = browser
    elif len(words) == 2:
        step = functools.partial(print_pdf, *map(Path, words))
    else:
        print(f"usage: {sys.argv[0]} PAGES PDF, or --check", file=sys.stderr)
        return 2
    try:
        step()
    except Unavailable as error:
        print(f"No PDF: {error}.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
