"""One symbol, one meaning: formulas of all pages against the book's table of symbols."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

BOOK = Path(__file__).resolve().parents[2] / "book"
TABLE = yaml.safe_load((BOOK / "notation.yml").read_text(encoding="utf-8"))
PAGES = sorted(path.stem for path in BOOK.glob("*.md") if path.stem != "notation")

CELL = re.compile(r"^```\{code-cell\}.*?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MATH = re.compile(r"\$\$(.+?)\$\$|\$([^$]+)\$", re.DOTALL)
TOKEN = re.compile(r"\\[A-Za-z]+|\\.|\S", re.DOTALL)
# Signs of spacing and size.
MUTE = re.compile(r"\\[,;:! ]|\\(?:[bB]igg?[lrm]?|left|right|q?quad|displaystyle)")
ARGUMENTS = {"^": 1, "_": 1, r"\sqrt": 1, r"\frac": 2, r"\tfrac": 2, r"\dfrac": 2}


def page(name: str) -> str:
    return (BOOK / f"{name}.md").read_text(encoding="utf-8")


def formulas(text: str) -> list[str]:
    """All formulas of a page, those of its captions and of the strings in its code included."""
    pieces = [CELL.sub("", text)]
    for cell in CELL.findall(text):
        pieces += strings(cell)
    found = (match for piece in pieces for match in MATH.findall(piece))
    return [braced(display or inline) for display, inline in found]


def strings(cell: str) -> Iterator[str]:
    """Texts in the options of a cell and the strings of its code; what is put in counts as 0."""
    options, code = "", cell
    if cell.startswith("---\n"):
        options, code = cell[4:].split("\n---\n", 1)
    yield from texts(yaml.safe_load(options))
    code = re.sub(r"\A(:.*\n)*", "", code)
    inside: set[int] = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.JoinedStr):
            inside |= {id(part) for part in node.values}
            parts = (part.value if isinstance(part, ast.Constant) else "0" for part in node.values)
            yield "".join(map(str, parts))
        elif isinstance(node, ast.Constant) and id(node) not in inside:
            yield node.value if isinstance(node.value, str) else ""


def texts(options: object) -> Iterator[str]:
    if isinstance(options, str):
        yield options
    elif isinstance(options, dict):
        for value in options.values():
            yield from texts(value)


def braced(tex: str) -> str:
    """The formula with every argument in braces, without signs of spacing and size."""
    tokens = iter(TOKEN.findall(MUTE.sub(" ", tex)))
    written = ""
    for piece in groups(tokens):
        apart = re.search(r"\\[A-Za-z]+\Z", written) and piece[0].isalpha()
        written += " " + piece if apart else piece
    return written


def groups(tokens: Iterator[str]) -> Iterator[str]:
    for token in tokens:
        name = r"\frac" if token in (r"\tfrac", r"\dfrac") else token
        yield name
        for _ in range(ARGUMENTS.get(token, 0)):
            yield "{" + argument(tokens) + "}"


def argument(tokens: Iterator[str]) -> str:
    first = next(tokens, "")
    if first != "{":
        # A command takes its own argument along, as in ^\mathrm d or _\frac12.
        inner = [first, *(argument(tokens) for _ in range(ARGUMENTS.get(first, 0)))]
        return braced(" ".join(inner))
    held, depth = [], 1
    for token in tokens:
        depth += (token == "{") - (token == "}")
        if depth == 0:
            break
        held.append(token)
    return braced(" ".join(held))


def retired(text: str) -> list[str]:
    """Every use against the table, with what to write instead."""
    written = formulas(text)
    found = []
    for rule in TABLE["retired"]:
        for pattern in map(re.compile, rule["formulas"]):
            found += [f"{tex}: {rule['instead']}" for tex in written if pattern.search(tex)]
        for pattern in map(re.compile, rule.get("words", ())):
            lines = (line for line in text.splitlines() if pattern.search(line))
            found += [f"{line.strip()}: {rule['instead']}" for line in lines]
    return found


@pytest.mark.parametrize("name", PAGES)
def test_no_letter_is_used_against_the_table(name):
    assert retired(page(name)) == []


@pytest.mark.parametrize("entry", TABLE["symbols"], ids=lambda entry: entry["id"])
def test_a_symbol_stands_on_the_page_that_introduces_it(entry):
    written = formulas(page(entry["where"]))
    for symbol in entry["symbol"]:
        alone = re.compile(rf"(?<![A-Za-z\\]){re.escape(braced(symbol))}(?![A-Za-z])")
        assert any(map(alone.search, written)), f"{symbol} is not on the page {entry['where']}"


def test_the_table_names_every_symbol_once_and_pages_that_exist():
    names = [entry["id"] for entry in TABLE["symbols"]]
    symbols = [symbol for entry in TABLE["symbols"] for symbol in entry["symbol"]]
    assert len(set(names)) == len(names)
    assert len(set(symbols)) == len(symbols)
    for entry in TABLE["symbols"]:
        assert {*entry.get("only", ()), *entry.get("except", ())} <= set(PAGES), entry["id"]
        assert "hover" in entry or not {"forms", "only", "except"} & set(entry), entry["id"]


@pytest.mark.parametrize(
    "planted",
    [
        r"with $S$ layers of mass $\frac1{SM}$",
        r"$x_k=x_{k-1}+\tfrac1SF_k(x_{k-1})$",
        r"$p_{S,i}$",
        r"in the limit $S = \infty$",
        r"$\lvert\partial L\rvert^2\ge cL$",
        r"$L(\mu_0)$",
        r"$\dot Z_k=-L\,\partial_{Z_k}\ell$",
        r"$\sqrt{\ell(0)}$",
        r"$\ell=\frac1n\sum_i\lvert F(x_i)-y_i\rvert^2$",
        r"$d(\mu_s,\mu_t)^2\le t\,\mathcal R$",
        r"$$\int_s^t\lvert\dot\mu\rvert^2$$",
        r"$\frac1n\sum_i\lvert p_i\rvert$",
        r"$\lvert\partial\mathcal R\rvert^2\ge m(R)\mathcal R$",
        r"$e^{-mt}$",
        r"$\mu(M)$",
        r"the $(M,\mu)$-local condition",
        r"$\lVert A-\bar A\rVert_F\le M$",
        r"$K_1=\sup\lvert\sigma'\rvert$",
        r"$\Omega=\mathbb R^p$",
        r"$\int\lvert\omega-\omega'\rvert^2\mathrm d\pi$",
        r"$h_0+\frac1L\sum_{i<k}f(h_i)$",
        '```{code-cell} ipython3\n:tags: [x]\n\nclaim(statement=rf"$\\frac{{w}}S$ at {x}")\n```\n',
        "```{code-cell}\n---\nmystnb:\n  figure:\n    caption: like $1/S$\n---\nx = 1\n```\n",
        "```{code-cell} ipython3\ndepths = [8]  # layers S\n```\n",
    ],
)
def test_a_planted_use_is_found(planted):
    assert retired(planted)


@pytest.mark.parametrize(
    "right",
    [
        r"$\mathcal R(\mu_t)\le e^{-c_{\mathrm{PL}}t}\mathcal R(\mu_0)$, $\frac1{LM}$, $\sqrt m$",
        r"$SW_2^2\le W_2^2/D$ and $S_\varepsilon(\alpha,\beta)$, $s\le s'$, $\frac S{2L}$",
        r"$\nabla_x\ell(x(1),y)$, $\partial_s\ell$, $K_k$, $n\le n'$, $\sum_{k\le L}$",
        r"$\mu(\lvert\omega\rvert>\rho)$, $\int_{t_1}^{t_2}\lvert\dot\mu\rvert^2\mathrm dt$",
    ],
)
def test_what_the_table_says_passes(right):
    assert retired(right) == []
