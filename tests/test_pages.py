"""Every page as a reader's browser shows it: whole, legible, and without the network."""

from __future__ import annotations

import functools
import http.server
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest
from playwright.sync_api import Browser, Page

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.timeout(900)

MATH_IS_SET = """() => {
  const outside = [...document.querySelectorAll('.math')].filter(
    (node) => !node.querySelector('mjx-container'));
  return outside.length === 0;
}"""

IMAGES = """() => [...document.querySelectorAll('article img')].map(
  (image) => [image.src, image.naturalWidth, image.alt.trim()])"""

LINKS = "() => [...document.querySelectorAll('a[href]')].map((link) => link.href)"

VERDICTS = """() => [...document.querySelectorAll(
  'table.cotflow-ledger tbody tr a:has(.cotflow-mark)')].map((link) => link.href)"""

CARDS = """() => [...document.querySelectorAll('.cotflow-claim[id]')].map(
  (card) => location.href + '#' + card.id)"""

IDS = "() => [...document.querySelectorAll('[id]')].map((node) => node.id)"

# Text of claims, boxes and tables against the ground it stands on.
CONTRASTS = """() => {
  const channels = (text) => {
    const [r, g, b, a] = text.match(/[\\d.]+/g).map(Number);
    return [r, g, b, a === undefined ? 1 : a];
  };
  const light = ([r, g, b]) => {
    const linear = [r, g, b].map((v) => v / 255).map(
      (v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
  };
  const ground = (node) => {
    for (; node; node = node.parentElement) {
      const colour = channels(getComputedStyle(node).backgroundColor);
      if (colour[3] > 0.99) return colour;
    }
    return [255, 255, 255, 1];
  };
  const own = (node) => [...node.childNodes].some(
    (child) => child.nodeType === 3 && child.textContent.trim());
  const scope = '.cotflow-claim *, .proof *, table *, figcaption *, details summary *';
  return [...document.querySelectorAll(scope)].filter(
    (node) => own(node) && !node.closest('mjx-container, .headerlink')).map((node) => {
      const pair = [light(channels(getComputedStyle(node).color)), light(ground(node))];
      const ratio = (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
      return [ratio, node.className + ' ' + node.textContent.slice(0, 40)];
    });
}"""


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args) -> None:
        pass


@pytest.fixture(scope="session")
def html(tmp_path_factory) -> Path:
    """The book built from clean doctrees; only executions that are still valid are reused."""
    output = tmp_path_factory.mktemp("site")
    cache = ROOT / "_build/.jupyter_cache"
    if cache.exists():
        shutil.copytree(cache, output / "_build/.jupyter_cache")
    command = [Path(sys.executable).with_name("jupyter-book"), "build", ".", "-W", "-n"]
    build = subprocess.run(
        [*command, "--keep-going", "--path-output", output],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert build.returncode == 0, build.stdout
    return output / "_build/html"


@pytest.fixture(scope="session")
def pages(html) -> list[str]:
    return sorted(str(path.relative_to(html)) for path in (html / "book").rglob("*.html"))


@pytest.fixture(scope="session")
def site(html) -> Iterator[str]:
    """Address of a server of the built pages."""
    handler = functools.partial(Quiet, directory=html)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


class Visit:
    """A page in a fresh browser profile, with every complaint that it made while it loaded."""

    def __init__(self, browser: Browser, site: str, path: str, width: int, scheme: str):
        self.complaints: list[str] = []
        self._context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme
        )
        page = self._context.new_page()
        page.on("console", self._console)
        page.on("pageerror", lambda error: self._note("script", error))
        page.on("requestfailed", lambda request: self._note("failed", request.url))
        page.on("request", lambda request: self._leaving(site, request.url))
        page.on("response", lambda answer: answer.ok or self._note(answer.status, answer.url))
        page.goto(site + path, wait_until="networkidle")
        page.wait_for_function(MATH_IS_SET)
        self.page: Page = page

    def _note(self, kind: object, what: object) -> None:
        self.complaints.append(f"{kind}: {what}")

    def _console(self, message) -> None:
        if message.type in ("error", "warning"):
            self._note("console", message.text)

    def _leaving(self, site: str, url: str) -> None:
        if not url.startswith((site, "data:", "blob:")):
            self._note("leaves the site", url)

    def __enter__(self) -> Visit:
        return self

    def __exit__(self, *error) -> None:
        self._context.close()


@pytest.fixture(scope="session")
def visit(browser, site):
    """visit(path, width, scheme) opens a page."""

    def open_page(path: str, width: int = 1280, scheme: str = "light") -> Visit:
        return Visit(browser, site, path, width, scheme)

    return open_page


def test_book_has_its_chapters(pages):
    assert {"book/index.html", "book/one-model.html", "book/depth-limit.html"} <= set(pages)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_pages_load_without_a_complaint_and_fit(visit, pages, width, scheme):
    wrong = {}
    for path in [*pages, "search.html"]:
        with visit(path, width, scheme) as seen:
            found = list(seen.complaints)
            if seen.page.evaluate("document.documentElement.dataset.theme") != scheme:
                found.append(f"is not {scheme}")
            across = seen.page.evaluate("document.scrollingElement.scrollWidth")
            if across > width + 1:
                found.append(f"is {across} pixels wide on a screen of {width}")
            if found:
                wrong[path] = found
    assert not wrong


def test_mathematics_is_set(visit, pages):
    formulas = 0
    for path in pages:
        with visit(path) as seen:
            here = seen.page.locator(".math").count()
            assert seen.page.locator(".math mjx-container").count() >= here, path
            errors = seen.page.locator("mjx-merror, [data-mjx-error]")
            assert errors.count() == 0, f"{path}: {errors.all_inner_texts()}"
            formulas += here
    assert formulas > 0


def test_images_are_there_and_described(visit, pages):
    count = 0
    for path in pages:
        with visit(path) as seen:
            for source, width, alt in seen.page.evaluate(IMAGES):
                assert width > 0, f"{path}: {source} did not load"
                assert alt and not alt.endswith(".png"), f"{path}: {source} has no description"
                count += 1
    assert count > 0


def test_internal_links_and_anchors_are_alive(visit, pages, html, site):
    links, ids = {}, {}
    for path in pages:
        with visit(path) as seen:
            links[path] = {link for link in seen.page.evaluate(LINKS) if link.startswith(site)}
            ids[path] = set(seen.page.evaluate(IDS))
    dead = []
    for path, found in links.items():
        for link in found:
            target, anchor = urldefrag(link.removeprefix(site))
            missing_page = not (html / unquote(target)).is_file()
            if missing_page or (anchor and unquote(anchor) not in ids.get(target, ())):
                dead.append(f"{path}: {link}")
    assert not dead


def test_every_verdict_of_the_ledger_leads_to_its_card(visit, pages):
    with visit("book/index.html") as seen:
        rows = seen.page.locator("table.cotflow-ledger tbody tr").count()
        targets = seen.page.evaluate(VERDICTS)
    cards = set()
    for path in pages:
        with visit(path) as seen:
            cards |= set(seen.page.evaluate(CARDS))
    assert rows == len(targets) > 0
    assert set(targets) == cards


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(visit, pages, scheme):
    faint, looked_at = [], 0
    for path in pages:
        with visit(path, scheme=scheme) as seen:
            for ratio, text in seen.page.evaluate(CONTRASTS):
                looked_at += 1
                if ratio < 4.5:
                    faint.append(f"{path}: {ratio:.2f} {text}")
    assert looked_at > 0
    assert not faint
