import pytest
import torch
from hypothesis import settings

settings.register_profile("book", deadline=None, max_examples=25, derandomize=True)
settings.load_profile("book")
torch.set_num_threads(1)

DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
    ),
]


@pytest.fixture(params=DEVICES)
def device(request):
    return request.param
