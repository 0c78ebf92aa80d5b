"""The record of a card: what the page makes of it, and its way without a card."""

import inspect
import json

import pytest
import torch
from click.testing import CliRunner

from cotbook.bench import gpu, record
from cotbook.cli import main

FOUND = {
    "date": "2026-11-27",
    "device": "a card",
    "versions": {"torch": "2.0"},
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
    assert table["textbook loop"] == ["100", "2000", "–"]
    assert table["jitted scan"] == table["torch.compile"] == ["–", "–", "–"]


def test_aims_are_reached_or_not_by_the_numbers_of_the_record():
    assert record.gpu_aims(FOUND) == [
        ["textbook loop over triton, $L=1024$", "≥ 20", "50"],
        ["textbook loop over parallel, $L=16384$", "≥ 100", "200"],
        ["64 runs over one, $L=64$", "≤ 4", "3.1"],
        ["depth in parallel, share of the bandwidth of a copy, $L=16384$", "≥ 50 %", "20%, missed"],
    ]


def test_where_depth_in_parallel_was_given_up_the_page_says_so_and_why():
    row = {"L": 65536, "dtype": "float32", "parallel": 0.1, "textbook loop": 20.0}
    gave_up = FOUND | {
        "steps": [*FOUND["steps"], row | {"depth": {"forward": 0}}],
        "bandwidth": {"copy": 3e12, "L=65536": 3e10},
    }
    _, rows = record.gpu_steps(gave_up)
    assert {row[0]: row[-1] for row in rows}["parallel"] == "100 (sequential)"
    marked = [reached for *_, reached in record.gpu_aims(gave_up) if "sequential" in reached]
    assert marked == ["200, missed (sequential)", "1%, missed (sequential)"]
    said = record.gpu_gave_up(gave_up)
    assert said.startswith("For L = 65,536 ") and "mended since" in said
    assert "mended" not in record.gpu_gave_up(gave_up | {"date": "2027-01-01"})

    went = FOUND | {"steps": [row | {"depth": {"forward": 4}}]}
    for fine in (FOUND, went, FOUND | {"steps": [row | {"depth": None}]}):
        assert record.gpu_gave_up(fine) == ""
        assert "sequential" not in str(record.gpu_steps(fine)) + str(record.gpu_aims(fine))


def test_the_sentence_tells_what_the_record_holds_and_no_more():
    assert record.gpu_sentence({**FOUND, "runs": {}}) == (
        "Recorded 2026-11-27 on a card, torch 2.0."
    )
    full = FOUND | {
        "exactness": {
            **{"triton, float64": 3e-16, "parallel, float64": 4e-16},
            **{"triton, float32": 5e-7, "parallel, float32": 6e-7},
        },
        "memory": {"textbook loop": 0.75, "triton": 0.5, "triton, every 7th state": 0.25},
        "whole run": {"iterations": 90000, "seconds": 12.3, "loss": 8e-9},
    }
    said = record.gpu_sentence(full)
    assert "by a relative 4·10⁻¹⁶ at most in float64 and 6·10⁻⁷ in float32" in said
    assert "takes 0.5 GiB beyond weights and data, and 0.25 GiB if only every 7th" in said
    assert "90,000 iterations of Fig. 2 took 12 seconds, down to a loss of 8·10⁻⁹" in said
    assert said.endswith("64 runs at L = 64 cost 3.10 times as much as one.")


def test_the_sentence_tells_the_depth_whose_memory_is_measured():
    depth = inspect.signature(gpu.memory).parameters["depth"].default
    assert depth == record.MEMORY_DEPTH


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
