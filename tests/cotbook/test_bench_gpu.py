"""The record of a card: what the page makes of it, and its way without a card."""

import json

import pytest
import torch
from click.testing import CliRunner

from cotbook.bench import record
from cotbook.cli import main

FOUND = {
    "device": "a card",
    "steps": [
        {"L": 1024, "dtype": "float32", "triton": 0.002, "textbook loop": 0.1, "jitted scan": None},
        {"L": 16384, "dtype": "float32", "triton": 0.04, "parallel": 0.01, "textbook loop": 2.0},
        {"L": 1024, "dtype": "float64", "triton": 0.004},
    ],
    "runs": {"L=64": [[1, 0.001], [64, 0.0031]]},
    "bandwidth": {"copy": 3e12, "L=16384": 6e11},
}


def test_a_table_has_a_column_a_shape_and_a_dash_for_what_was_not_measured():
    head, rows = record.gpu_steps(FOUND)
    assert head == [
        "milliseconds a step",
        "$L=1024$, float32",
        "$L=16384$, float32",
        "$L=1024$, float64",
    ]
    table = {row[0]: row[1:] for row in rows}
    assert table["triton"] == ["2", "40", "4"]
    assert table["textbook loop"] == ["100", "2e+03", "–"]
    assert table["jitted scan"] == table["torch.compile"] == ["–", "–", "–"]


def test_aims_are_reached_or_not_by_the_numbers_of_the_record():
    assert record.gpu_aims(FOUND) == [
        ["textbook loop over triton, $L=1024$", "≥ 20", "50"],
        ["textbook loop over parallel, $L=16384$", "≥ 100", "200"],
        ["64 runs over one, L=64", "≤ 4", "3.1"],
        ["depth in parallel, share of the bandwidth of a copy, L=16384", "≥ 50 %", "20%"],
    ]


def test_without_a_record_the_page_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(record, "RECORD_GPU", tmp_path / "none.json")
    assert record.load_gpu() is None
    (tmp_path / "none.json").write_text(json.dumps(FOUND), encoding="utf-8")
    assert record.load_gpu() == FOUND


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_without_a_card_there_is_one_sentence_and_nothing_written(tmp_path):
    output = tmp_path / "card.json"
    done = CliRunner().invoke(main, ["bench", "--gpu", "-o", str(output)])
    assert done.exit_code == 2 and not output.exists()
    assert "expected a CUDA device" in done.output and "Traceback" not in done.output


def test_an_unknown_part_of_a_card_s_record_is_refused(tmp_path):
    done = CliRunner().invoke(main, ["bench", "--gpu", "--only", "memory leak"])
    assert done.exit_code == 2
    assert "--only: expected some of tests, exactness, runs, memory" in done.output
