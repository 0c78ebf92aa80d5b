"""A sign of life on stderr while chapters are executed."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

EVERY = 10


@contextmanager
def heartbeat(working: Mapping[str, float]) -> Iterator[None]:
    """Say every ten seconds what is at work, and for how long: names with the times they began."""
    done = threading.Event()
    thread = threading.Thread(target=_beat, args=(working, done), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _beat(working: Mapping[str, float], done: threading.Event) -> None:
    while not done.wait(EVERY):
        now = time.monotonic()
        names = [f"{name} {now - began:.0f} s" for name, began in dict(working).items()]
        print(f"  … executing {', '.join(names)}", file=sys.stderr, flush=True)
