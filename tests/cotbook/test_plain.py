"""Pages as Markdown that any notebook shows."""

import re
from pathlib import Path

import pytest

from cotbook.keep.bibliography import short_names
from cotbook.sphinx.plain import Names, markdown

ROOT = Path(__file__).resolve().parents[2]
NAMES = Names(
    {"thm-a": "Theorem 3.1", "eq-b": "(7)", "fig-c": "Fig. 2"},
    {"a2024": "Ada et al., 2024", "b2023": "Bob, 2023"},
    lambda page: ("A title", f"https://e.org/{page[:-3]}.html"),
)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("By {prf:ref}`thm-a` and {eq}`eq-b`.", "By Theorem 3.1 and (7)."),
        ("{prf:ref}`the trap <thm-a>`, {claim}`it <x/y>`", "the trap, it"),
        ("{cite:p}`a2024,b2023`", "(Ada et al., 2024; Bob, 2023)"),
        ("{cite:t}`a2024`", "Ada et al. (2024)"),
        ("see [](p.md) and [it](p.md#x)", "see [A title](https://e.org/p.html) and "
         "[it](https://e.org/p.html#x)"),
        ("a\n\n(label)=\n# B", "a\n\n# B"),
        ("$$\nx\n$$ (eq-b)", "$$\nx\n\\tag{7}\n$$"),
        (
            ":::{prf:theorem} Trap, [C]\n:label: thm-a\n\nLet\n\n$$\nx\n$$ (eq-b)\n:::\nafter",
            "> **Theorem 3.1** (Trap, [C]).\n>\n> Let\n>\n> $$\n> x\n> \\tag{7}\n> $$\nafter",
        ),
        (
            "::::{dropdown} Proof\n:::{prf:lemma} L\nx\n:::\nend\n::::",
            "<details><summary>Proof</summary>\n\n> **Lemma** (L).\n> x\nend\n\n</details>",
        ),
        (
            "```{list-table}\n:header-rows: 1\n\n* - a|b\n  - c\n* - {eq}`eq-b`\n    goes on\n"
            "  - d\n```",
            "| a\\|b | c |\n| --- | --- |\n| (7) goes on | d |",
        ),
        ("```bash\n(not)=\n{eq}`eq-b`\n```", "```bash\n(not)=\n{eq}`eq-b`\n```"),
    ],
)  # fmt: skip
def test_what_only_a_book_understands_becomes_markdown(text, shown):
    assert markdown(text, NAMES) == shown


@pytest.mark.parametrize("path", sorted((ROOT / "book").glob("*.md")), ids=lambda path: path.stem)
def test_no_page_keeps_a_role_or_a_fence(path):
    text = re.sub(r"(?ms)^```\{code-cell\}.*?^```$", "", path.read_text())
    shown = markdown(text, NAMES)
    assert not re.findall(r"\{[\w:]+\}`|^:{3,}|^`{3,}\{|^\([\w-]+\)=$", shown, re.MULTILINE)
    assert shown.count("<details>") == shown.count("</details>")


def test_authors_and_years_are_short():
    names = short_names(ROOT)
    assert names["barboni2025"] == "Barboni et al., 2025"
    assert names["marion2024"] == "Marion et al., 2024"
    assert all(re.search(r", (19|20)\d\d$", said) for said in names.values()), names
