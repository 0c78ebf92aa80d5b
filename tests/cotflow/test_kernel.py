"""The kernel itself: sizes at their borders, sanitised, under forks, threads and small stacks."""

import os
import re
import shlex
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from cotflow.adjoint import compiled, library
from cotflow.network.activations import RELU
from problems import with_compiler

TESTS = Path(__file__).resolve().parents[1]
both = pytest.mark.parametrize("backend", ["plain", pytest.param("compiled", marks=with_compiler)])

PRELUDE = """
import os, signal, sys, threading, torch
from cotflow.adjoint.gradient import gradient
from cotflow.network.activations import ACTIVATIONS
from cotflow.network.residual import ResidualNet, marion_net
from problems import ALL, random_problem

def agree(problem, **options):
    fast, plain = (gradient(NET, *problem, backend=b, **options) for b in (BACKEND, "plain"))
    for name, value in plain.velocity.items():
        scale = float(value.abs().max()) + 1e-30
        tolerance = 1e-11 if value.dtype == torch.float64 else 1e-4
        assert float((fast.velocity[name] - value).abs().max()) < tolerance * scale, name

NET, BACKEND = ResidualNet(trained=ALL), "compiled"
"""


def ends_well(script, *, limit=300, under=(), **environment):
    """The script in a process of its own, started by the command ``under``."""
    done = subprocess.run(
        [*under, sys.executable, "-c", PRELUDE + textwrap.dedent(script)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([*sys.path, str(TESTS)])} | environment,
        capture_output=True,
        text=True,
        timeout=limit,
    )
    assert done.returncode == 0, f"{done.returncode}\n{done.stdout}{done.stderr}"
    return done.stderr


BORDERS = """
torch.set_num_threads(3)
for q, m in SIZES:
    for dtype in DTYPES:
        for n in NUMBERS:
            for runs in ((), (4,)):
                sizes = {"depth": 3, "q": q, "m": m, "n": n, "d": 3, "dtype": dtype}
                problem = random_problem(q + m + n, runs, **sizes)
                agree(problem)
                agree(problem, segment=2)
"""
NUMBERS = "(1, 2, 31, 32, 33, 255, 256, 257)"


@pytest.mark.slow
@with_compiler
@pytest.mark.parametrize("size", [(1, 1), (255, 2), (256, 3), (2, 255), (2, 256), (3, 257)])
def test_sizes_at_their_borders(size):
    single = f"SIZES, DTYPES, NUMBERS = [{size}], [torch.float32, torch.float64], {NUMBERS}"
    ends_well(f"{single}\n{BORDERS}")


@pytest.mark.slow
@with_compiler
@pytest.mark.parametrize("size", [(2, 1023), (2, 1024)])
def test_widths_and_samples_at_their_borders(size):
    ends_well(f"SIZES, DTYPES, NUMBERS = [{size}], [torch.float64], (1, 1023, 1025)\n{BORDERS}")


@pytest.mark.slow
@pytest.mark.parametrize("size", [(257, 2), (2, 1025)])
def test_sizes_beyond_the_borders_are_named(size):
    q, m = size
    ends_well(
        f"""
        problem = random_problem(depth=40, q={q}, m={m}, n=50)
        gradient(NET, *problem)
        try:
            gradient(NET, *problem, backend="compiled")
        except ValueError as error:
            assert "a state of at most 256, a width of at most 1024" in str(error), error
            assert str(error).endswith("state {q}, width {m}"), error
        else:
            sys.exit("it was taken")
        """
    )


def sanitizer():
    """(CC, environment) for a kernel under both sanitizers; skips where the compiler has none."""
    runtime = subprocess.run(
        [*library.command(), "-print-file-name=libasan.so"], capture_output=True, text=True
    ).stdout.strip()
    if not Path(runtime).is_absolute():
        pytest.skip(f"{compiled.compiler()} has no AddressSanitizer")
    flags = ["-g", "-fno-omit-frame-pointer", "-fsanitize=address,undefined"]
    asked = {"CC": shlex.join([*library.command(), *flags, "-fno-sanitize-recover=all"])}
    asked |= {"LD_PRELOAD": runtime, "ASAN_OPTIONS": "detect_leaks=0:verify_asan_link_order=0"}
    return asked


@pytest.mark.slow
@with_compiler
@pytest.mark.parametrize("size", [(3, 2), (16, 32)])
def test_the_sanitizers_find_nothing(size, tmp_path):
    head = f"SIZES, DTYPES = [{size}], [torch.float32, torch.float64]\nNUMBERS = (1, 33, 257)\n"
    ends_well(head + BORDERS, XDG_CACHE_HOME=str(tmp_path), **sanitizer())


@pytest.mark.slow
@with_compiler
def test_the_sanitizers_would_find_something(tmp_path):
    """A kernel that is handed one sample less than it is told of."""
    script = """
        from cotflow.adjoint import compiled
        weights, x, y = random_problem(q=16, m=32, n=5)
        h0 = torch.matmul(x, weights.A.mT)
        compiled.sweep(NET, weights, h0, y[:4].clone(), {})
    """
    with pytest.raises(AssertionError, match="AddressSanitizer: heap-buffer-overflow"):
        ends_well(script, XDG_CACHE_HOME=str(tmp_path), **sanitizer())


BEYOND = r"""
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

static void *reserved(long reals) {
  void *found = mmap(0, sizeof(REAL) * reals, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (found == MAP_FAILED) exit(77);
  return found;
}

/* The last of n samples alone, as the last member of a team of 2n: memory that is not touched is
 * not there. */
static void last_sample(long n, REAL *V, REAL *W, REAL *B) {
  double squares[3];
  struct task t = {.runs = 1, .L = 1, .n = n, .D = 1, .segment = 1, .V = V, .W = W, .B = B,
                   .scale = 1, .c_q = 1, .pull = 2, .squares = squares, .threads = 2};
  REAL *h0 = reserved(n * Q);
  for (int q = 0; q < Q; q++) h0[(n - 1) * Q + q] = q + 1;
  t.h0 = h0, t.y = reserved(n), t.error = reserved(n);
  t.last_state = reserved(n * QP), t.first_adjoint = reserved(n * QP);
  t.scratch = reserved(scratch_size(&t));
  struct buffers u = private_buffers(&t, 1);
  one_run(&t, 0, u, 2 * n - 1, 2 * n);
  printf("%ld", scratch_size(&t));
  for (int q = 0; q < Q; q++)
    printf(" %a %a", t.last_state[(n - 1) * QP + q], t.first_adjoint[(n - 1) * QP + q]);
  printf(" %a %a\n", u.features[n * MP - 1], u.slopes[n * MP - 1]);
}

int main(void) {
  REAL *V = reserved(Q * M), *W = reserved(Q * M), *B = reserved(Q);
  for (int i = 0; i < Q * M; i++) V[i] = W[i] = 0.001 * i;
  for (int q = 0; q < Q; q++) B[q] = 1;
  last_sample(1, V, W, B);
  last_sample((1L << 31) / MP + 1, V, W, B);
  return 0;
}
"""


def beyond_an_int(folder, source, monkeypatch):
    """(result, size of the scratch) for one sample, and for as many as an int cannot index."""
    defined = []

    def asked(size, *options):
        defined.extend(options)
        raise compiled.CompilerMissing("it is built here")

    monkeypatch.setattr(compiled, "loaded", asked)
    relu = compiled.COVERED.index(RELU)
    with pytest.raises(compiled.CompilerMissing):
        compiled._built.__wrapped__(3, 1024, relu, torch.float32)
    program, text = folder / "beyond", folder / "beyond.c"
    text.write_text(source + BEYOND)
    flags = ["-DLANES=8", "-DACC=8", "-O1", "-std=gnu11", "-fopenmp", f"-I{library.SOURCE.parent}"]
    flags += ["-fsanitize=signed-integer-overflow", "-fno-sanitize-recover=all"]
    flags += ["-o", str(program), str(text), "-lm"]
    made = subprocess.run(
        [*library.command(), *defined, *flags], capture_output=True, text=True, errors="replace"
    )
    assert made.returncode == 0, made.stderr
    done = subprocess.run([program], capture_output=True, text=True)
    if done.returncode == 77:
        pytest.skip("no address space of 40 GB here")
    assert done.returncode == 0, done.stderr
    lines = [line.split(" ", 1) for line in done.stdout.splitlines()]
    return [(result, int(size)) for size, result in lines]


@pytest.mark.slow
@with_compiler
def test_no_index_is_cut_off_at_two_to_the_thirty_one(tmp_path, monkeypatch):
    sanitizer()
    (one, _), (many, size) = beyond_an_int(tmp_path, library.SOURCE.read_text(), monkeypatch)
    assert one == many
    assert size > 2 * 2 * 2**31


@pytest.mark.slow
@with_compiler
def test_an_index_that_is_cut_off_would_be_found(tmp_path, monkeypatch):
    sanitizer()
    short = re.sub(r"\blong\b", "int", library.SOURCE.read_text())
    with pytest.raises(AssertionError, match="signed integer overflow"):
        beyond_an_int(tmp_path, short, monkeypatch)


AGAIN = """
for dtype in (torch.float32, torch.float64):
    for runs in ((), (3,)):
        problem = random_problem(1, runs, depth=9, q=3, m=5, n=33, d=3, dtype=dtype)
        for segment in (None, 2, 4, 7):
            found = []
            for threads in (1, 2, 3):
                torch.set_num_threads(threads)
                agree(problem, segment=segment)
                found.append(gradient(NET, *problem, backend="compiled", segment=segment))
            for other in found[1:]:
                for name in ("V", "W"):
                    assert torch.equal(found[0].velocity[name], other.velocity[name]), segment
"""


@pytest.mark.slow
@with_compiler
@pytest.mark.parametrize("kept", [1, 5 * 33 * 16 * 2 * 4])
@pytest.mark.parametrize("sanitized", [False, True])
def test_activations_that_are_made_again(kept, sanitized, tmp_path):
    """Room for two layers, which is the least, and for some more; teams of several sizes."""
    asked = sanitizer() if sanitized else {"CC": shlex.join(library.command())}
    asked["CC"] += f" -DKEPT_BYTES={kept}"
    ends_well(AGAIN, XDG_CACHE_HOME=str(tmp_path), **asked)


FORKED = """
torch.set_num_threads(2)
problem = random_problem(depth=16, q=16, m=32, n=200)
def both():
    return [gradient(NET, *problem, backend=BACKEND, segment=s).velocity["V"] for s in (None, 3)]
before = both()
child = os.fork()
if not child:
    signal.alarm(60)
    same = all(torch.allclose(a, b, rtol=1e-12) for a, b in zip(both(), before))
    os._exit(0 if same else 7)
assert os.waitpid(child, 0)[1] == 0
assert all(map(torch.equal, both(), before)) and torch.get_num_threads() == 2
"""


@pytest.mark.slow
@both
def test_a_forked_child_of_a_process_with_threads(backend):
    ends_well(f"BACKEND = {backend!r}\n{FORKED}")


@pytest.mark.slow
@both
def test_a_spawned_child_has_the_same_bits(backend, tmp_path):
    module = tmp_path / "spawned.py"
    module.write_text(
        "from cotflow.adjoint.gradient import gradient\n"
        "def work(arguments, backend):\n"
        "    return gradient(*arguments, backend=backend).velocity['V'].numpy()\n"
    )
    ends_well(
        f"""
        sys.path.insert(0, {str(tmp_path)!r})
        if __name__ == "__main__":
            from concurrent.futures import ProcessPoolExecutor
            import multiprocessing, spawned
            arguments = (marion_net(ACTIVATIONS["tanh"]), *random_problem(depth=16, q=16, m=32))
            here = spawned.work(arguments, {backend!r})
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                there = pool.submit(spawned.work, arguments, {backend!r}).result()
            assert (here == there).all()
        """,
        OMP_NUM_THREADS="1",
    )


SMALL = """
torch.set_num_threads(2)
problems = [random_problem(depth=4, q=q, m=1024, n=50) for q in (2,)]
def work():
    for problem in problems:
        gradient(NET, *problem, backend=BACKEND)
        gradient(NET, *problem, backend=BACKEND, segment=2)
    print("done")
"""


@pytest.mark.slow
@both
@pytest.mark.parametrize("size", ["16k", "256k"])
def test_a_small_stack_of_openmp(backend, size):
    ends_well(f"BACKEND = {backend!r}\n{SMALL}\nwork()", OMP_STACKSIZE=size)


@pytest.mark.slow
@both
def test_a_small_stack_of_the_process(backend):
    """That of the first thread, and of those of OpenMP, which was told nothing."""
    wide = SMALL.replace("(2,)", "(2, 256)")
    small = ("sh", "-c", 'ulimit -s 128; exec "$0" "$@"')
    script = f"BACKEND = {backend!r}\n{wide}\nwork()"
    ends_well(script)  # a compiler needs more
    ends_well(script, under=small)


@pytest.mark.slow
@both
def test_a_thread_with_a_small_stack(backend):
    ends_well(
        f"BACKEND = {backend!r}\n{SMALL}"
        "work()\n"
        "threading.stack_size(1 << 16)\n"
        "threads = [threading.Thread(target=work) for _ in range(3)]\n"
        "[thread.start() for thread in threads]\n"
        "[thread.join() for thread in threads]\n"
    )


@pytest.mark.slow
@with_compiler
def test_several_threads_at_once_give_the_same_bits():
    ends_well(
        """
        from concurrent.futures import ThreadPoolExecutor
        torch.set_num_threads(2)
        problems = [random_problem(k, (3,), depth=6, q=16, m=32, n=50) for k in range(8)]
        def work(problem):
            return gradient(NET, *problem, backend="compiled").velocity["V"]
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(work, 5 * problems))
        expected = [work(problem) for problem in problems]
        assert all(map(torch.equal, found, 5 * expected))
        """
    )


@pytest.mark.parametrize(
    ("asked", "enough"),
    [("16k", False), ("64", False), ("1 M", True), ("65536 B", False), ("2g", True), ("x", True)],
)
def test_the_stack_that_openmp_was_asked_for(monkeypatch, asked, enough):
    monkeypatch.delenv("GOMP_STACKSIZE", raising=False)
    for name in ("OMP_STACKSIZE", "GOMP_STACKSIZE"):
        monkeypatch.setenv(name, asked)
        compiled.roomy.cache_clear()
        assert compiled.roomy() is enough
        monkeypatch.delenv(name)
    compiled.roomy.cache_clear()


COUNTED = """
from cotflow.adjoint import compiled

class Counted(Exception):
    pass

def counted(size, like):
    raise Counted(size)

compiled.scratch = counted
compiled.empty = lambda shape, like: like.new_empty(1).expand(shape)
net = ResidualNet(ACTIVATIONS["relu"], trained=("V", "W"))
for dtype in (torch.float32, torch.float64):
    weights, _, _ = random_problem(depth=2, q=1, m=1024, d=1, dy=1, bias=False, dtype=dtype)
    for segment in (None, 1):
        for threads in (1, 2):
            torch.set_num_threads(threads)
            sizes = []
            for n in (many * ((1 << 31) // 1024 + 1) for many in (1, 2, 3)):
                data = torch.zeros(2, n, 1, dtype=dtype)
                try:
                    compiled.sweep(net, weights, *data, {"V": 1.0}, segment=segment)
                except Counted as found:
                    sizes.append(found.args[0])
            first, second, third = sizes
            assert 0 < first <= second and third - second == second - first, sizes
"""


@pytest.mark.slow
@with_compiler
def test_room_for_more_features_than_an_int_can_count(tmp_path):
    sanitizer()
    flags = ["-fsanitize=signed-integer-overflow", "-fno-sanitize-recover=all"]
    asked = {"CC": shlex.join([*library.command(), *flags]), "XDG_CACHE_HOME": str(tmp_path)}
    ends_well(COUNTED, **asked)
