import os
from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings
from xdist.scheduler import LoadFileScheduling

from cotbook.keep import pdf

settings.register_profile("book", deadline=None, max_examples=25, derandomize=True)
settings.load_profile("book")
torch.set_num_threads(1)
# Before anybody imports Triton: where there is no card, its interpreter runs the same kernels.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
    ),
]


# They build a book, execute chapters or open a browser, and so does every test that uses one.
COSTLY = {"browser", "built", "builds", "html", "napping", "pair", "regenerated", "swept"}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if COSTLY.intersection(item.fixturenames):
            item.add_marker("slow")


class ByFile(LoadFileScheduling):
    """The tests of a file share what they built; the notebooks are executed by all workers."""

    def _split_scope(self, nodeid: str) -> str:
        return (
            nodeid if "::test_committed_notebooks_run" in nodeid else super()._split_scope(nodeid)
        )


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log) -> ByFile | None:
    return ByFile(config, log) if config.getvalue("dist") == "loadfile" else None


@pytest.fixture(params=DEVICES)
def device(request):
    return request.param


@pytest.fixture(scope="session")
def browser() -> Iterator:
    """One chromium for every test that looks at pages."""
    from playwright.sync_api import sync_playwright

    try:
        path = pdf.browser()
    except pdf.Unavailable:
        pytest.skip("no chromium or chrome on PATH: pages were not looked at")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=pdf.FLAGS)
        yield chromium
        chromium.close()
