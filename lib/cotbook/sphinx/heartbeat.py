"""A sign of life on stderr while a page takes long to execute."""

from __future__ import annotations

import sys
import threading
import time

EVERY = 10


class Heartbeat:
    """Says every ten seconds which page is still being read; silent for a quick page."""

    def __init__(self) -> None:
        self._done: threading.Event | None = None

    def start(self, app, docname: str, source: list[str]) -> None:
        self.stop()
        self._done = threading.Event()
        # A daemon, so that an interrupted build ends at once.
        threading.Thread(target=self._beat, args=(docname, self._done), daemon=True).start()

    def stop(self, *event) -> None:
        if self._done is not None:
            self._done.set()
            self._done = None

    @staticmethod
    def _beat(docname: str, done: threading.Event) -> None:
        began = time.monotonic()
        while not done.wait(EVERY):
            elapsed = time.monotonic() - began
            print(f"  … {docname} still executing, {elapsed:.0f} s", file=sys.stderr, flush=True)


def connect(app) -> None:
    heartbeat = Heartbeat()
    app.connect("source-read", heartbeat.start)
    app.connect("doctree-read", heartbeat.stop)
    app.connect("build-finished", heartbeat.stop)
