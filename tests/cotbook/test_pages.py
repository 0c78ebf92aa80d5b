"""Every page as a reader's browser shows it: whole, legible, and without the network."""

from __future__ import annotations

import functools
import http.server
import math
import py_compile
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import unquote, urldefrag

import matplotlib.image
import nbformat
import pytest
from axe_playwright_python.sync_playwright import Axe
from bs4 import BeautifulSoup
from playwright.sync_api import Browser, Page

import cotflow
from cotbook import records
from cotbook.claims import RANGE, SLACK, Claim
from cotbook.keep import pdf

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

MATH_IS_SET = """() => {
  const outside = [...document.querySelectorAll('.math')].filter(
    (node) => !node.querySelector('mjx-container'));
  return outside.length === 0;
}"""

IMAGES = """() => [...document.querySelectorAll('article img')].map(
  (image) => [image.src, image.naturalWidth, image.alt.trim()])"""

# Of a link inside a picture, href is no text.
LINKS = """() => [...document.querySelectorAll('a[href]')].map(
  (link) => new URL(link.getAttribute('href'), location.href).href)"""

VERDICTS = """() => [...document.querySelectorAll(
  'table.cotflow-all tbody tr td:first-child a')].map((link) => link.href)"""

CARDS = """() => [...document.querySelectorAll(
  '.cotflow-claim[id], .cotflow-cases tr[id]')].map(
  (card) => location.href + '#' + card.id)"""

BOXES = """() => [...document.querySelectorAll('div.proof[id]')].map(
  (box) => location.href + '#' + box.id)"""

INDEXED = """() => [...document.querySelectorAll(
  'table.cotflow-statements tbody tr td:first-child a')].map((link) => link.href)"""

TO_LIBRARY = """() => document.querySelectorAll('a.cotflow-api[href*="api/"]').length"""

# Proofs and folded code are opened, for they are to be read, too. What occurs a thousand times is
# looked at once a page, which takes a fifth of the time: formulas become a letter (their own
# markup is MathJax's), and of every kind of token in code the first is kept.
PREPARE = """() => {
  const still = document.createElement('style');
  still.textContent = '* { transition: none !important; animation: none !important; }';
  document.head.append(still);
  document.querySelectorAll('details').forEach((details) => { details.open = true; });
  document.querySelectorAll('mjx-container').forEach((formula) => formula.replaceChildren('x'));
  document.querySelectorAll('span.pre').forEach((text) => text.replaceWith(text.textContent));
  const seen = new Set();
  for (const token of document.querySelectorAll('pre span:not(:has(*))')) {
    const kind = token.closest('a') ? 'link' : token.className;
    if (seen.has(kind)) token.replaceWith(token.textContent);
    seen.add(kind);
  }
  window.dispatchEvent(new Event('resize'));
}"""

# The theme does so a while after a page has changed.
TAB_STOPS_ARE_SET = """() => [...document.querySelectorAll(
  'pre, .cell_output > .output, .pst-scrollable-table-container')].every((box) => {
    const scrolls = box.scrollWidth > box.clientWidth || box.scrollHeight > box.clientHeight;
    return (box.tabIndex === 0) === scrolls;
  })"""

VIOLATIONS = """(rules) => axe.run(document, {resultTypes: ['violations'], ...rules}).then(
  (found) => found.violations.filter((rule) => ['serious', 'critical'].includes(rule.impact))
    .flatMap((rule) => rule.nodes.map(
      (node) => `${rule.id}: ${node.target.join(' ')} ${node.html.slice(0, 90)}`)))"""

# All rules but one of moderate weight, which takes long.
ALL = {"rules": {"region": {"enabled": False}}}
# What depends on colours, and so on the theme.
COLOURS = {"runOnly": {"type": "rule", "values": ["color-contrast", "link-in-text-block"]}}

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
    handler = functools.partial(pdf.Quiet, directory=html)
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


def unfit(seen: Visit, width: int, scheme: str) -> list[str]:
    """What is wrong with a page as it was loaded."""
    found = list(seen.complaints)
    if seen.page.evaluate("document.documentElement.dataset.theme") != scheme:
        found.append(f"is not {scheme}")
    across = seen.page.evaluate("document.scrollingElement.scrollWidth")
    if across > width + 1:
        found.append(f"is {across} pixels wide on a screen of {width}")
    return found


@pytest.mark.parametrize(("width", "scheme"), [(1280, "dark"), (390, "light"), (390, "dark")])
def test_pages_load_without_a_complaint_and_fit(visit, pages, width, scheme):
    wrong = {}
    for path in [*pages, "search.html"]:
        with visit(path, width, scheme) as seen:
            if found := unfit(seen, width, scheme):
                wrong[path] = found
    assert not wrong


def test_pages_load_so_on_a_wide_light_screen(survey):
    assert not {path: seen.unfit for path, seen in survey.items() if seen.unfit}


@dataclass
class Seen:
    """What one page shows, read off in one visit on a wide light screen."""

    unfit: list[str]
    formulas: int
    drawn: int
    errors: list[str]
    images: list[tuple[str, int, str]]
    links: set[str]
    ids: list[str]
    verdicts: list[str]
    cards: list[str]
    boxes: list[str]
    indexed: list[str]
    to_library: int
    contrasts: dict[str, list[tuple[float, str]]] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)


def look(visit: Visit) -> Seen:
    page = visit.page
    seen = Seen(
        unfit(visit, 1280, "light"),
        page.locator(".math").count(),
        page.locator(".math mjx-container").count(),
        page.locator("mjx-merror, [data-mjx-error]").all_inner_texts(),
        *map(page.evaluate, (IMAGES,)),
        set(page.evaluate(LINKS)),
        *map(page.evaluate, (IDS, VERDICTS, CARDS, BOXES, INDEXED, TO_LIBRARY)),
    )
    page.evaluate(PREPARE)
    page.evaluate(Axe().axe_script)
    for width in (1280, 390):
        page.set_viewport_size({"width": width, "height": 900})
        page.wait_for_function(TAB_STOPS_ARE_SET)
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            page.wait_for_function(f"document.documentElement.dataset.theme === '{scheme}'")
            if width == 1280:
                seen.contrasts[scheme] = page.evaluate(CONTRASTS)
            found = page.evaluate(VIOLATIONS, ALL if scheme == "light" else COLOURS)
            seen.violations += [f"{width} {scheme} {one}" for one in found]
    return seen


@pytest.fixture(scope="session")
def survey(visit, pages) -> dict[str, Seen]:
    """Every page, and what it shows."""
    seen = {}
    for path in [*pages, "search.html"]:
        with visit(path) as opened:
            seen[path] = look(opened)
    return seen


def test_no_serious_violation_of_accessibility(survey):
    wrong = {path: seen.violations for path, seen in survey.items() if seen.violations}
    assert not wrong


def test_mathematics_is_set(survey):
    for path, seen in survey.items():
        assert seen.drawn >= seen.formulas, path
        assert not seen.errors, path
    assert sum(seen.formulas for seen in survey.values()) > 0


def test_images_are_there_and_described(survey):
    for path, seen in survey.items():
        for source, width, alt in seen.images:
            assert width > 0, f"{path}: {source} did not load"
            assert alt and not alt.endswith(".png"), f"{path}: {source} has no description"
    assert sum(len(seen.images) for seen in survey.values()) > 0


def test_internal_links_and_anchors_are_alive(survey, html, site):
    dead = []
    for path, seen in survey.items():
        for link in seen.links:
            if not link.startswith(site):
                continue
            target, anchor = urldefrag(link.removeprefix(site))
            target = target.partition("?")[0]
            missing_page = not (html / unquote(target)).is_file()
            ids = survey[target].ids if target in survey else ()
            if missing_page or (anchor and unquote(anchor) not in ids):
                dead.append(f"{path}: {link}")
    assert not dead


def test_ids_are_given_once(survey):
    twice = {path: {i for i in seen.ids if seen.ids.count(i) > 1} for path, seen in survey.items()}
    assert not {path: ids for path, ids in twice.items() if ids}


def test_every_verdict_of_the_ledger_leads_to_its_card(survey):
    targets = survey["book/ledger.html"].verdicts
    cards = {card for seen in survey.values() for card in seen.cards}
    assert len(targets) == len(set(targets)) > 0
    assert set(targets) == cards


def test_index_of_statements_has_every_box(survey):
    boxes = {box for seen in survey.values() for box in seen.boxes}
    indexed = survey["book/theorems.html"].indexed
    assert len(indexed) == len(set(indexed)) > 0
    assert set(indexed) == boxes


def test_every_chapter_leads_to_the_library(survey):
    without = [path for path, seen in survey.items() if seen.cards and not seen.to_library]
    assert not without


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(survey, scheme):
    looked_at = [pair for seen in survey.values() for pair in seen.contrasts[scheme]]
    assert looked_at
    assert not [pair for pair in looked_at if pair[0] < 4.5]


@pytest.mark.parametrize("path", ["book/one-model.html", "book/glossary.html", "search.html"])
def test_pages_open_from_a_disk(browser, html, path):
    requests, errors = [], []
    page = browser.new_page()
    page.on("request", lambda request: requests.append(request.url))
    page.on("pageerror", lambda error: errors.append(error))
    page.goto((html / path).as_uri(), wait_until="networkidle")
    page.wait_for_function(MATH_IS_SET)
    page.close()
    assert not [url for url in requests if not url.startswith(("file:", "data:", "blob:"))]
    assert not errors


def test_search_finds_a_statement_by_its_name(visit):
    with visit("search.html?q=no+clipping") as seen:
        first = seen.page.locator("#search-results li a").first
        first.wait_for()
        assert "No clipping" in first.inner_text()
        assert first.get_attribute("href").endswith("book/no-clipping.html#thm-noclip")


def test_definition_appears_on_pointing_and_with_the_keyboard(visit):
    with visit("book/one-model.html") as seen:
        note = seen.page.locator("[role=tooltip].cotflow-definition")
        for term in (
            seen.page.locator("a.cotflow-term").first,
            seen.page.locator("a.cotflow-term:has(.math)").first,
        ):
            term.hover()
            assert note.inner_text() == term.get_attribute("data-definition")
            assert term.get_attribute("aria-describedby") == note.get_attribute("id")
            seen.page.keyboard.press("Escape")
            assert note.count() == 0
            term.focus()
            assert note.inner_text() == term.get_attribute("data-definition")
            seen.page.keyboard.press("Tab")
            seen.page.keyboard.press("Escape")
            assert note.count() == 0


def test_front_door_leads_to_every_name(html):
    page = BeautifulSoup((html / "book/api/index.html").read_text(), "html.parser")
    rows = page.select("table.cotflow-front-door tbody tr")
    names = {row.td.get_text(strip=True) for row in rows if row.td.a}
    assert names == set(cotflow.__all__)


def test_downloads_of_a_chapter_are_text_executed_notebook_and_script(html, survey, tmp_path):
    for path in (path for path, seen in survey.items() if seen.cards):
        links = BeautifulSoup((html / path).read_text(), "html.parser").select(
            ".dropdown-download-buttons a"
        )
        files = {link.get_text(strip=True): (html / path).parent / link["href"] for link in links}
        assert set(files) == {".md", ".ipynb", ".py"}, path
        assert files[".md"].read_text().startswith("---")
        notebook = nbformat.read(files[".ipynb"], as_version=4)
        assert any(cell.get("outputs") for cell in notebook.cells), path
        py_compile.compile(files[".py"], cfile=tmp_path / "compiled", doraise=True)


def test_shared_link_has_title_description_and_picture(html, pages):
    for path in pages:
        page = BeautifulSoup((html / path).read_text(), "html.parser")
        tags = {tag["property"]: tag["content"] for tag in page.select("meta[property^=og]")}
        assert tags["og:title"] and tags["og:image:alt"], path
        picture = matplotlib.image.imread((html / path).parent / tags["og:image"])
        assert picture.shape[:2] == (630, 1200)
        assert page.select_one("link[rel~=icon]"), path


def test_whole_book_joined_has_unique_names_and_live_links(html):
    joined = BeautifulSoup(pdf.join(html), "html.parser")
    ids = [node["id"] for node in joined.select("main [id]")]
    assert len(ids) == len(set(ids))
    links = {link["href"] for link in joined.select("main a[href^='#']")}
    assert links and not {link for link in links if unquote(link[1:]) not in set(ids)}
    assert not joined.select("main a[href$='.html']:not([href^='http'])")
    for image in joined.select("main img"):
        assert (html / image["src"]).is_file()


@pytest.fixture(scope="session")
def measured(html) -> list[Claim]:
    entries = [entry for chapter in records.of_book(html).chapters for entry in chapter.claims]
    return [entry for entry in entries if isinstance(entry, Claim)]


def test_for_every_claim_there_is_a_measurement_that_fails_it(measured):
    for claim in measured:
        floor, ceiling = claim.allowed
        beyond = math.nextafter(floor, -math.inf) if math.isfinite(floor) else None
        beyond = math.nextafter(ceiling, math.inf) if beyond is None else beyond
        missed = replace(claim, measured=beyond, low=beyond, high=beyond)
        assert missed.verdict == "fails", (claim.chapter, claim.name)
        wrong = replace(claim, low=beyond) if beyond < floor else replace(claim, high=beyond)
        verdict = "fails" if claim.interval.startswith(RANGE) else "inconclusive"
        assert wrong.verdict in (verdict, "fails"), (claim.chapter, claim.name)


def test_a_bound_far_from_what_was_measured_says_why_or_has_a_case_that_comes_near(measured):
    known = {(claim.chapter, claim.name): claim for claim in measured}
    for claim in measured:
        where = f"{claim.chapter}/{claim.name}: 1/{claim.slack:.3g} of its bound was reached"
        if claim.slack > SLACK:
            assert claim.loose or claim.companion, where
        if claim.companion:
            near = known.get((claim.chapter, claim.companion))
            assert near, f"{where}, no claim {claim.companion!r}"
            assert near.slack <= SLACK, f"{where}, its companion is as far: {near.slack:.3g}"


def test_a_bound_is_above_zero_and_so_has_a_share_that_was_reached(measured):
    assert not [
        (claim.chapter, claim.name)
        for claim in measured
        if claim.kind == "bound" and claim.strength is None
    ]


SHOWN = """() => [...document.querySelectorAll('table.cotflow-all tbody tr:not([hidden])')].map(
  (row) => [row.id, row.dataset.kind, row.dataset.near])"""


def test_the_ledger_is_filtered_sorted_and_searched(html, browser, measured):
    page = browser.new_page()
    page.goto(f"{(html / 'book/ledger.html').as_uri()}?kind=bound")
    form = page.get_by_role("search", name="Claims")
    bounds = [claim for claim in measured if claim.kind == "bound"]
    shown = page.evaluate(SHOWN)
    assert len(shown) == len(bounds) and {kind for _, kind, _ in shown} == {"bound"}
    assert form.get_by_role("status").inner_text().startswith(f"{len(bounds)} of ")

    form.get_by_label("order").select_option("near")
    near = [float(share) for *_, share in page.evaluate(SHOWN) if share]
    assert near == sorted(near, reverse=True) and "sort=near" in page.url

    form.get_by_role("searchbox").fill(bounds[0].name)
    found = [row for row, *_ in page.evaluate(SHOWN)]
    assert f"row-{bounds[0].chapter}-{bounds[0].name}" in found and len(found) < len(bounds)

    form.get_by_role("button", name="show all").click()
    page.wait_for_function("!location.search")
    assert len(page.evaluate(SHOWN)) > len(measured)
    page.close()


def test_a_card_leads_to_its_row_and_a_point_opens_it(html, browser, measured):
    claim = next(claim for claim in measured if claim.strength and claim.chapter == "depth-limit")
    page = browser.new_page()
    page.goto((html / "book/depth-limit.html").as_uri())
    page.locator(f"#{claim.anchor} a[title='in the ledger']").click()
    row = page.locator(f"#row-{claim.chapter}-{claim.name}")
    is_open = "(id) => document.getElementById(id)?.querySelector('details').open"
    page.wait_for_function(is_open, arg=f"row-{claim.chapter}-{claim.name}")
    page.goto((html / "book/ledger.html").as_uri())
    assert row.locator("details").get_attribute("open") is None
    page.evaluate("(href) => document.querySelector(`.cotflow-glance a[href='${href}']`)"
                  ".dispatchEvent(new MouseEvent('click', {bubbles: true}))",
                  f"#row-{claim.chapter}-{claim.name}")  # fmt: skip
    page.wait_for_function(is_open, arg=f"row-{claim.chapter}-{claim.name}")
    page.close()


def test_the_front_page_maps_every_chapter(html, survey):
    page = BeautifulSoup((html / "book/index.html").read_text(), "html.parser")
    rows = page.select("table.cotflow-map tbody tr")
    mapped = {row.a["href"] for row in rows}
    assert {f"book/{name}" for name in mapped} == {
        path for path, seen in survey.items() if seen.cards
    }
    assert all(row.find_all("td")[3].get_text().strip().endswith(" min") for row in rows)


def test_statements_rest_on_statements(html):
    page = BeautifulSoup((html / "book/statement-graph.html").read_text(), "html.parser")
    nodes = {node["data-label"] for node in page.select(".cotflow-graph a")}
    curves = [
        (curve["data-from"], curve["data-to"]) for curve in page.select(".cotflow-graph path")
    ]
    assert len(nodes) == len(page.select("table.cotflow-statements tbody tr")) > 0
    assert curves and all(name in nodes for pair in curves for name in pair)
    # From a proof that everybody can look up.
    assert ("thm-explicit", "prop-features") in curves
    box = BeautifulSoup((html / "book/local-pl.html").read_text(), "html.parser")
    assert "Rests on" in box.select_one("#thm-explicit .cotflow-neighbours").get_text()
