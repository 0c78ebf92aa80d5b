"""The text of a page as Markdown that any notebook shows: boxes as quotations, proofs that open,
references as words."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

FENCE = re.compile(r"(?P<fence>:{3,}|`{3,})\{(?P<name>[\w:-]+)\}\s*(?P<argument>.*)")
ROLE = re.compile(r"\{(?P<name>[\w:]+)\}`(?P<text>[^`]*)`")
TITLED = re.compile(r"(?P<words>.*?)\s*<(?P<target>[^<>]+)>", re.DOTALL)
EQUATION = re.compile(r"^\$\$ \((?P<label>[\w-]+)\)$")
TARGET = re.compile(r"^\([\w-]+\)=$")
LINK = re.compile(r"\[(?P<words>[^\]]*)\]\((?P<page>[\w./-]+\.md)(?P<anchor>#[\w-]+)?\)")


@dataclass(frozen=True)
class Names:
    """What references are called.

    Attributes
    ----------
    labels : the words for the label of a box, an equation, a figure or a section.
    cited : the words for a key of the bibliography: authors and year.
    page : the title and the address, "" where there is none, of another page.
    """

    labels: Mapping[str, str]
    cited: Mapping[str, str]
    page: Callable[[str], tuple[str, str]]


def markdown(text: str, names: Names) -> str:
    """Text of MyST as plain Markdown.

    >>> names = Names({"thm-a": "Theorem 3"}, {"a2024": "Ada, 2024"}, lambda page: ("Page", ""))
    >>> print(markdown("By {prf:ref}`thm-a` {cite:p}`a2024`, see [](b.md).", names))
    By Theorem 3 (Ada, 2024), see Page.
    """
    return "\n".join(_blocks(text.splitlines(), names)).strip("\n")


def _blocks(lines: list[str], names: Names) -> Iterator[str]:
    position, literal = 0, ""
    while position < len(lines):
        line = lines[position]
        if not literal and (found := FENCE.fullmatch(line.strip())):
            end = _end(lines, position, found["fence"])
            yield from _directive(found, lines[position + 1 : end], names)
            position = end + 1
            continue
        if line.strip().startswith("```"):
            literal = "" if literal else "```"
        if literal or line.strip().startswith("```"):
            yield line
        elif found := EQUATION.fullmatch(line.strip()):
            number = names.labels.get(found["label"], "").strip("()")
            yield from (rf"\tag{{{number}}}", "$$") if number else ("$$",)
        elif not TARGET.fullmatch(line.strip()):
            yield _inline(line, names)
        position += 1


def _end(lines: list[str], start: int, fence: str) -> int:
    inside = range(start + 1, len(lines))
    return next((i for i in inside if lines[i].strip() == fence), len(lines))


def _directive(found: re.Match[str], body: list[str], names: Names) -> Iterator[str]:
    options = {}
    while body and (option := re.fullmatch(r":([\w-]+):\s*(.*)", body[0].strip())):
        options[option[1]] = option[2]
        body = body[1:]
    title = _inline(found["argument"], names)
    match found["name"]:
        case "dropdown":
            yield from (f"<details><summary>{title}</summary>", "")
            yield from _blocks(body, names)
            yield from ("", "</details>")
        case "list-table":
            yield from _table(body, names)
        case name if name.startswith("prf:"):
            said = names.labels.get(options.get("label", ""), name[4:].title())
            first = f"**{said}** ({title})." if title else f"**{said}.**"
            yield from _quoted([first, *_blocks(body, names)])
        case "admonition":
            yield from _quoted([f"**{title}.**", "", *_blocks(body, names)])
        case _:
            yield from _blocks(body, names)


def _quoted(lines: list[str]) -> Iterator[str]:
    return (f"> {line}".rstrip() for line in lines)


def _table(body: list[str], names: Names) -> Iterator[str]:
    """A table written as a list of lists; its first row is the head."""
    rows: list[list[str]] = []
    for line in body:
        if found := re.match(r"\s*\* -\s*(.*)", line):
            rows.append([found[1]])
        elif found := re.match(r"\s*-(?: +(.*))?$", line):
            rows[-1].append(found[1] or "")
        elif line.strip() and rows:
            rows[-1][-1] += f" {line.strip()}"
    for number, row in enumerate(rows):
        yield "| " + " | ".join(_inline(cell, names).replace("|", r"\|") for cell in row) + " |"
        if number == 0:
            yield "|" + " --- |" * len(row)


def _inline(text: str, names: Names) -> str:
    return LINK.sub(lambda found: _link(found, names), ROLE.sub(lambda f: _role(f, names), text))


def _role(found: re.Match[str], names: Names) -> str:
    text = found["text"]
    titled = TITLED.fullmatch(text)
    match found["name"]:
        case "cite:p":
            return f"({'; '.join(names.cited.get(key, key) for key in re.split(r', *', text))})"
        case "cite:t":
            authors, _, year = names.cited.get(text, text).rpartition(", ")
            return f"{authors} ({year})" if authors else year
        case _ if titled:
            return titled["words"] or names.labels.get(titled["target"], titled["target"])
        case _:
            return names.labels.get(text, text)


def _link(found: re.Match[str], names: Names) -> str:
    title, address = names.page(found["page"])
    words = found["words"] or title
    return f"[{words}]({address}{found['anchor'] or ''})" if address else words
