"""The benchmarks: what the machine can do, what a step asks of it, and what missed its aim."""

import pytest

from cotbook.bench import machine
from cotbook.bench.contenders import textbook
from cotbook.bench.record import PARTS, aims, load, roofline
from cotflow.adjoint import library
from cotflow.network.published import published

try:
    library.compiler()
    MISSING = None
except library.CompilerMissing as error:
    MISSING = str(error)
with_compiler = pytest.mark.skipif(MISSING is not None, reason=f"no compiled step: {MISSING}")

ROW = {
    **{"L": 64, "threads": 2, "operations": 50.0, "bytes": 10.0, "peak": 100.0, "bandwidth": 40.0},
    **{"compiled": 1.0, "textbook loop": 12.0, "jitted scan": 3.0, "torch.compile": 4.0},
}
TIMES = {"together": 0.6, "one by one": 1.0}
RECORD = {"steps": [ROW, ROW], "batching": TIMES, "batching on all cores": TIMES}


def test_the_committed_record_has_all_parts():
    assert set(PARTS) <= set(load())


def test_the_roofline_is_the_slower_of_arithmetic_and_memory():
    assert roofline(ROW) == 0.5
    assert roofline(ROW | {"bytes": 32.0}) == 0.8
    assert roofline({"compiled": 1.0}) is None


def test_a_miss_is_marked_and_what_was_not_measured_is_left_open():
    rows = {name: (aim, *reached) for name, aim, *reached in aims(RECORD)}
    loop = rows["textbook loop over compiled step"]
    assert loop == ("≥ 10, 20", "12.0", "12.0, missed")
    assert rows["jitted scan over compiled step"] == ("≥ 4", "3.0, missed", "3.0, missed")
    assert rows["torch.compile over compiled step"] == ("≥ 4", "4.0", "4.0")
    assert rows["roofline over compiled step"] == ("≥ 0.45", "50%", "50%")
    assert rows["a batch of 8 runs over one by one, all cores"] == ("≤ 0.7", "0.60", "–")
    bare = {name: ROW[name] for name in ("L", "threads", "compiled", "textbook loop")}
    rows = {name: (aim, *reached) for name, aim, *reached in aims(RECORD | {"steps": [bare, bare]})}
    for name in ("jitted scan", "torch.compile", "roofline"):
        assert rows[f"{name} over compiled step"][1:] == ("–", "–")


def test_work_of_a_step():
    """n = 50, m = 64, q = 16: products 12 n m q, activations 68 n m; weights 3 · 2 m q, states
    2 n q numbers of four bytes a layer."""
    e = published("figure 2", 3, 0)
    assert machine.operations(e) == 3 * (12 * 50 * 64 * 16 + 68 * 50 * 64)
    assert machine.traffic(e) == 3 * 4 * (6 * 64 * 16 + 2 * 50 * 16)


@with_compiler
def test_the_machine_does_what_it_is_asked_for(monkeypatch):
    monkeypatch.setattr(machine, "NUMBERS", 1 << 10)
    arrays = machine.bandwidth(1).run()
    assert [float(array.sum()) for array in arrays] == [1024, 1024, 2048]
    monkeypatch.setattr(machine, "ROUNDS", 3)
    work = machine.peak(1)
    first = [0.0, 1.0, 1.5, 1.75]  # of 0 after x ↦ x/2 + 1
    sums = int(work.amount) // 6 // (library.register_bytes() // 4)
    expected = sum(k / 8 + first[3] for k in range(sums))
    assert work.run() == pytest.approx(expected, rel=1e-6)


def test_the_textbook_loop_in_blocks_is_the_loop():
    """What torch.compile is given is what is compared without it."""
    calls = []

    def seen(layers):
        return lambda h, V, W: calls.append(len(V)) or layers(h, V, W)

    textbook(published("figure 2", 70, 0), seen)()
    assert calls == [32, 32, 6]
