"""Claims as a person reads them: the pieces of a text, and how each medium shows them.

A text is a sequence of plain text, numbers and formulas. It becomes HTML here, nodes in
:mod:`cotbook.sphinx.tables`, and characters of a terminal or of Markdown. What comes from a file
speaks to none of them: HTML is escaped by :func:`written`, Markdown by :func:`escaped`, a cell
of a spreadsheet by :func:`spreadsheet`, a label of a figure by :func:`drawn`, and what goes to a
terminal by :func:`terminal`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from cotbook.claims import Claim, Entry, Relation, Untested, Verdict, tally

MARKS: dict[Verdict, str] = {
    "holds": "✔",
    "inconclusive": "?",
    "fails": "✘",
    "not tested here": "–",
}
SIGNS: dict[Relation, str] = {"equals": "=", "at most": "≤", "at least": "≥"}
HEAD = ("", "claim", "predicted", "measured", "tolerance", "source")


@dataclass(frozen=True)
class Number:
    """mantissa · 10^exponent with four significant digits; no power where a person writes none."""

    mantissa: str
    exponent: int | None = None


@dataclass(frozen=True)
class Formula:
    """LaTeX."""

    tex: str


Piece = str | Number | Formula


def number(value: float) -> Number:
    mantissa, power, exponent = f"{value:.4g}".partition("e")
    return Number(mantissa, int(exponent) if power else None)


# With these MathJax makes links and loads code.
_SPEAKING = re.compile(r"\\(href|url|html|require|style|class|cssId|data|unicode|include)", re.I)


def pieces(text: str) -> list[Piece]:
    """Text in which $…$ is a formula; one that would speak to the browser stays text."""
    parts = enumerate(text.split("$"))
    found: list[Piece] = []
    for piece in (_piece(part, i % 2 == 1) for i, part in parts if part):
        if isinstance(piece, str) and found and isinstance(found[-1], str):
            found[-1] += piece
        else:
            found.append(piece)
    return found


def _piece(part: str, marked: bool) -> Piece:
    if marked and _SPEAKING.search(part):
        return f"${part}$"
    return Formula(part) if marked else part


def predicted(claim: Claim) -> list[Piece]:
    return [f"{SIGNS[claim.relation]} ", number(claim.predicted)]


def measured(claim: Claim) -> list[Piece]:
    """The number, with its interval if that is more than a point."""
    shown: list[Piece] = [number(claim.measured)]
    if spread(claim):
        shown += [" [", number(claim.low), ", ", number(claim.high), "]"]
    return shown


def strength(claim: Claim) -> list[Piece]:
    """The kind, and how near the measurement came to its limit."""
    if claim.strength is None or claim.kind == "identity":
        return [claim.kind]
    # As a person says it: a share of a bound, else multiples of the tolerance.
    share = number(float(f"{claim.strength:.2g}"))
    unit = " of it reached" if claim.kind == "bound" else " of the tolerance"
    return [f"{claim.kind}, ", share, unit]


def spread(claim: Claim) -> bool:
    return claim.low != claim.high


def mark(verdict: Verdict) -> str:
    return f"{MARKS[verdict]} {verdict}"


def signed(text: str) -> str:
    """With a minus sign in place of a hyphen."""
    return text.replace("-", "−")


# Characters alone


def plain(shown: Iterable[Piece]) -> str:
    """Numbers as programs write them, formulas in their source."""
    return "".join(map(_plain, shown))


def _plain(piece: Piece) -> str:
    if isinstance(piece, Number):
        power = "" if piece.exponent is None else f"e{piece.exponent:+03d}"
        return piece.mantissa + power
    return f"${piece.tex}$" if isinstance(piece, Formula) else piece


def terminal(text: str) -> str:
    """Text that a terminal only shows: what would move, colour or reorder it is spelt out."""
    return "".join(
        sign.encode("unicode_escape").decode()
        if unicodedata.category(sign) in _UNSEEN and sign not in ("\n", "\t", _JOINER)
        else sign
        for sign in text
    )


_UNSEEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}
_JOINER = "\u2060"


def drawn(text: str) -> str:
    """A label of a figure, in which matplotlib would read $…$ as a formula."""
    return terminal(" ".join(text.split())).replace("$", r"\$")


def spreadsheet(value: object) -> str:
    """A cell of a table: numbers with all their digits, and texts, none of them a formula.

    A text that begins with one of = + - @, a tabulator or a return has an apostrophe before it.
    """
    text = str(value)
    if isinstance(value, str) and text.startswith(_FORMULAS):
        return f"'{text}"
    return text


_FORMULAS = tuple("=+-@\t\r＝＋－＠")


def row(entry: Entry) -> tuple[str, ...]:
    """Verdict, name, predicted, measured with its interval, tolerance and provenance."""
    numbers = ["–", "–", "–"]
    if isinstance(entry, Claim):
        tolerance: list[Piece] = [number(entry.tolerance)]
        numbers = [plain(shown) for shown in (predicted(entry), measured(entry), tolerance)]
    return (entry.verdict, entry.name, *numbers, entry.provenance)


def line(entry: Entry) -> str:
    """A claim in one line of a terminal."""
    if isinstance(entry, Claim):
        share, found = plain(strength(entry)), plain(measured(entry))
        text = f"{plain(predicted(entry))} predicted, {found} measured ({share})"
    else:
        text = entry.reason if isinstance(entry, Untested) else ""
    return terminal(f"  {mark(entry.verdict)}  {entry.name}: {text}")


def shortfall(claim: Claim) -> str:
    """One sentence on why a claim does not hold."""
    low, high, goal, tolerance, floor, ceiling = (
        plain([number(value)])
        for value in (claim.low, claim.high, claim.predicted, claim.tolerance, *claim.allowed)
    )
    allowed = {
        "equals": f"{goal} ± {tolerance}",
        "at most": f"the numbers ≤ {ceiling}",
        "at least": f"the numbers ≥ {floor}",
    }[claim.relation]
    word = "is inconclusive" if claim.verdict == "inconclusive" else claim.verdict
    return f"{claim.name} {word}: [{low}, {high}] is not inside {allowed}"


def shortfalls(entries: Iterable[Entry]) -> str:
    """Why claims do not hold; empty if all do."""
    missed = (entry for entry in entries if isinstance(entry, Claim) and entry.missed)
    return "; ".join(map(shortfall, missed))


# Markdown


def section(title: str, entries: Sequence[Entry]) -> str:
    """A heading, the tally and a table of claims."""
    lines = [f"### {escaped(title)}", "", f"Claims: {tally(entries)}."]
    if entries:
        rows = [(mark(entry.verdict), *row(entry)[1:]) for entry in entries]
        lines += ["", *markdown_table(HEAD, (map(escaped, cells) for cells in rows))]
    return "\n".join(lines)


def markdown_table(head: Sequence[str], rows: Iterable[Iterable[str]]) -> list[str]:
    """Its lines; the cells are Markdown already."""
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(cells) + " |" for cells in lines]


def escaped(text: str) -> str:
    """Text that Markdown neither reads as markup nor as the end of a cell."""
    return _unmarked(" ".join(text.split()))


def formatted(text: str) -> str:
    """Text for a cell of Markdown in which $…$ is still a formula."""
    shown = pieces(" ".join(text.split()))
    return "".join(
        f"${piece.tex}$".replace("|", r"\|") if isinstance(piece, Formula) else _unmarked(piece)
        for piece in shown
        if not isinstance(piece, Number)
    )


def _unmarked(text: str) -> str:
    return _CALLS.sub(_JOINER, _MARKUP.sub(r"\\\g<0>", text))


# Signs of markup, the beginning of a link's target, and what makes a link of a bare address.
_MARKUP = re.compile(r"[\\`*_|<$&~]|(?<=\])[(\[]|:(?=//)|(?<=\bwww)\.")
# Between these a sign without width: no account is called, and no issue is linked.
_CALLS = re.compile(r"(?<=@)(?=\w)|(?<=#)(?=\d)")


# HTML

# Inside the signs by which MathJax finds formulas in plain text.
_FOUND = re.compile(r"(?<=\\)(?=[(\[$]|begin\b|(?:eq)?ref\b)|(?<=\$)(?=\$)")


def unset(text: str) -> str:
    """Plain text in which MathJax finds no formula."""
    return _FOUND.sub(_JOINER, text)


def written(text: str) -> str:
    """Plain text as HTML."""
    return escape(unset(text))


def mathjax(formula: Formula) -> str:
    return f'<span class="math notranslate nohighlight">\\({escape(formula.tex)}\\)</span>'


def html(shown: Iterable[Piece], formula: Callable[[Formula], str] = mathjax) -> str:
    """Escaped text with powers of ten raised; formulas are left to MathJax."""

    def one(piece: Piece) -> str:
        if isinstance(piece, Number):
            power = "" if piece.exponent is None else f"·10<sup>{piece.exponent}</sup>"
            return signed(piece.mantissa + power)
        return formula(piece) if isinstance(piece, Formula) else written(piece)

    return "".join(map(one, shown))


def facts(entry: Entry, anchors: str = "claim") -> Iterator[tuple[str, str]]:
    """What is to be told of a claim beside its statement, as names and HTML; ``anchors`` is how the
    ids of claims begin there."""
    if isinstance(entry, Untested):
        yield "why", written(entry.reason)
    if isinstance(entry, Claim):
        found = html(measured(entry))
        if spread(entry):
            found += f" <small>{written(entry.interval)}</small>"
        yield "predicted", html(predicted(entry))
        yield "measured", found
        yield "tolerance", html([number(entry.tolerance)])
        yield "kind", html(strength(entry))
        if entry.companion:
            yield "comes near", _companion(entry, anchors)
        if entry.loose:
            yield "loose because", html(pieces(entry.loose))


def _companion(claim: Claim, anchors: str = "claim") -> str:
    near = f"{anchors}-{claim.chapter}-{claim.companion}"
    return f'<a href="#{escape(near)}">{written(claim.companion)}</a>'


def definitions(rows: Iterable[tuple[str, str]]) -> str:
    """Names with their HTML, as they stand side by side on a card."""
    return "".join(f"<div><dt>{key}</dt><dd>{value}</dd></div>" for key, value in rows)


def card(entry: Entry) -> str:
    """The claim as the reader meets it on the page."""
    body = definitions(facts(entry))
    return (
        f'<div class="cotflow-claim cotflow-{entry.verdict.replace(" ", "-")}" '
        f'id="{escape(entry.anchor)}">'
        f'<p class="cotflow-verdict">{mark(entry.verdict)} '
        f"<span>{written(entry.provenance)}</span></p>"
        f"<p>{html(pieces(entry.statement))}</p><dl>{body}</dl></div>"
    )


def _why_loose(claim: Claim) -> str:
    """In small letters, with a link to the case that comes near."""
    found = ""
    if claim.companion:
        found += f" <small>near: {_companion(claim)}</small>"
    if claim.loose:
        found += f" <small>{html(pieces(claim.loose))}</small>"
    return found


def cases(statement: str, entries: Mapping[str, Claim]) -> str:
    """The claims of one statement as a table, a row for each case, with the anchor of its claim.

    A source and a kind of interval that all have in common stand once, above.
    """
    sources = {entry.provenance for entry in entries.values()}
    intervals = {entry.interval if spread(entry) else "" for entry in entries.values()}
    once = [*(sources if len(sources) == 1 else ()), *(intervals if len(intervals) == 1 else ())]
    shared = "".join(f"<br><small>{written(text)}</small>" for text in once if text)
    head = ("verdict", "case", "predicted", "measured", "tolerance", "kind")
    rows = []
    for case, entry in entries.items():
        found = html(measured(entry))
        if spread(entry) and len(intervals) > 1:
            found += f" <small>{written(entry.interval)}</small>"
        source = f" <small>{written(entry.provenance)}</small>" if len(sources) > 1 else ""
        cells = (
            f'<span class="cotflow-mark">{mark(entry.verdict)}</span>',
            html(pieces(case)) + source,
            html(predicted(entry)),
            found,
            html([number(entry.tolerance)]),
            html(strength(entry)) + _why_loose(entry),
        )
        rows.append(
            f'<tr class="cotflow-{entry.verdict}" id="{escape(entry.anchor)}">'
            + "".join(f"<td>{cell}</td>" for cell in cells)
            + "</tr>"
        )
    columns = "".join(f"<th>{name}</th>" for name in head)
    return (
        f'<table class="table cotflow-cases"><caption>{html(pieces(statement))}{shared}</caption>'
        f"<thead><tr>{columns}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    )


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A small table of texts with formulas."""

    def line(cells: Sequence[str], tag: str) -> str:
        shown = (f"<{tag}>{html(pieces(cell))}</{tag}>" for cell in cells)
        return f"<tr>{''.join(shown)}</tr>"

    body = "".join(line(cells, "td") for cells in rows)
    return f'<table class="table"><thead>{line(head, "th")}</thead><tbody>{body}</tbody></table>'
