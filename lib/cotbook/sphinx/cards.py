"""The cards of claims and the tables of chapters, made from their records when a page is read.

So a change of their look asks for no execution. MyST-NB looks for renderers of outputs among the
entry points of installed packages; here one is added to those that it found.
"""

from __future__ import annotations

from typing import ClassVar

from docutils import nodes
from myst_nb.core.render import (
    MimeData,
    MimeRenderPlugin,
    NbElementRenderer,
    load_mime_renders,
)

from cotbook import render
from cotbook.claims import CASES_MIME, CLAIM_MIME, TABLE_MIME, Claim
from cotbook.records import RecordError, entry


class Cards(MimeRenderPlugin):
    """Prefers a record to the HTML beside it, which is for live notebooks."""

    mime_priority_overrides: ClassVar = [
        ("html", mime, 1) for mime in (CLAIM_MIME, CASES_MIME, TABLE_MIME)
    ]

    @staticmethod
    def handle_mime(
        renderer: NbElementRenderer, data: MimeData, inline: bool
    ) -> list[nodes.Element] | None:
        if data.mime_type == CLAIM_MIME:
            try:
                shown = render.card(entry(data.content))
            except RecordError:  # refused with a sentence when all records are read
                return None
        elif data.mime_type == CASES_MIME:
            try:
                found = {row["case"]: entry(row[CLAIM_MIME]) for row in data.content["rows"]}
            except RecordError:
                return None
            claims = {case: claim for case, claim in found.items() if isinstance(claim, Claim)}
            shown = render.cases(data.content["statement"], claims)
        elif data.mime_type == TABLE_MIME:
            shown = render.table(**data.content)
        else:
            return None
        return [nodes.raw(text=shown, format="html", classes=["output", "text_html"])]


def register() -> None:
    renderers = load_mime_renders()
    if Cards not in renderers:
        renderers.append(Cards)
