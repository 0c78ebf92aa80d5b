"""exp, the normal distribution and tanh of the kernel, against mpmath and in double precision."""

import ctypes
import itertools
from dataclasses import replace

import mpmath
import numpy as np
import pytest
from scipy import special

from cotflow.adjoint import library
from cotflow.adjoint.elementary import DOUBLE, SINGLE

try:
    library.compiler()
    MISSING = None
except library.CompilerMissing as error:
    MISSING = str(error)
pytestmark = pytest.mark.skipif(MISSING is not None, reason=f"no compiled step: {MISSING}")

# Units in the last place, as the docstring of elementary.py states them.
SINGLE_BOUNDS = {"exp": 2, "cdf": 5, "moment": 3, "tanh": 3, "tanh_slope": 5}
BOUNDS = {"single": SINGLE_BOUNDS, "double": SINGLE_BOUNDS | {"cdf": 6}}
TABLES = {"single": SINGLE, "double": DOUBLE}
NUMBERS = {"single": np.float32, "double": np.float64}
EXACT = {
    "exp": mpmath.exp,
    "cdf": lambda z: mpmath.erfc(-z / mpmath.sqrt(2)) / 2,
    "moment": lambda z: z * mpmath.exp(-z * z / 2) / mpmath.sqrt(2 * mpmath.pi),
    "tanh": mpmath.tanh,
    "tanh_slope": lambda z: 1 / mpmath.cosh(z) ** 2,
}
EXPORTED = """
#include "elementary.h"
#define EACH(name, first, second)                                                \\
  void name(long count, const REAL *z, REAL *value, REAL *other) {               \\
    for (long i = 0; i < count; i += LANES) {                                    \\
      const vec x = *(const vec *)(z + i);                                       \\
      vec more, m;                                                               \\
      (void)m;                                                                   \\
      *(vec *)(value + i) = first;                                               \\
      *(vec *)(other + i) = second;                                              \\
    }                                                                            \\
  }
EACH(exponentials, (m = exponential(x, ALL(0), x, &more), (more + more * m) * (REAL)UNIT), more)
EACH(normals, normal(x, &more), more)
EACH(gelus, gelu(x, &more), more)
EACH(tanhs, hyperbolic_tangent(x, &more), more)
"""
PAIRS = {"exponentials": ("exp",), "normals": ("cdf", "moment"), "tanhs": ("tanh", "tanh_slope")}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("source") / "exported.c"
    path.write_text(EXPORTED)
    return path


def evaluated(source, table, name, z, *options):
    """Both results of one of the exported functions."""
    code = library.loaded(z.itemsize, *table.definitions(), *options, source=source)
    padded = np.zeros(-(-len(z) // 64) * 64, z.dtype)
    padded[: len(z)] = z
    results = np.empty_like(padded), np.empty_like(padded)
    addresses = (ctypes.c_void_p(array.ctypes.data) for array in (padded, *results))
    code[name](ctypes.c_long(len(padded)), *addresses)
    return [result[: len(z)] for result in results]


def units(found, exact, dtype):
    """Largest error in units in the last place; exact values in a wider type."""
    info, worst = np.finfo(dtype), 0.0
    for got, value in zip(found.tolist(), exact, strict=True):
        power = max(int(mpmath.frexp(value)[1]) - 1, int(info.minexp)) if value else info.minexp
        unit = mpmath.ldexp(1, int(power) - info.nmant)
        error = abs(mpmath.mpf(got) - value) / unit if np.isfinite(got) else mpmath.inf
        worst = max(worst, error)
    return float(worst)


def arguments(dtype, name, count):
    """Every exponent twice, and where something happens many; zero and the borders."""
    info, g = np.finfo(dtype), np.random.default_rng(0)
    end = 16 if dtype is np.float32 else 40
    powers = np.arange(info.minexp - info.nmant, info.maxexp)
    small = np.ldexp(g.uniform(1, 2, len(powers)), powers)
    near = np.concatenate([g.uniform(-end, end, count), g.normal(size=count)])
    z = np.concatenate([small, -small, near, [0.0, -0.0, info.max, -info.max]]).astype(dtype)
    if name == "exponentials":
        lowest = 2 * (SINGLE if dtype is np.float32 else DOUBLE).tanh_end
        z = -np.abs(np.concatenate([z[np.abs(z) < lowest], g.uniform(0, lowest, count)]))
    return z.astype(dtype)


@pytest.mark.slow
@pytest.mark.parametrize("contraction", ["fast", "off"])
@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("precision", TABLES)
def test_errors_are_as_stated(source, precision, name, contraction):
    """With fused multiply-adds and without, as on a processor that has none."""
    dtype = NUMBERS[precision]
    z = arguments(dtype, name, 3000)
    option = f"-ffp-contract={contraction}"
    found = evaluated(source, TABLES[precision], name, z, option)
    with mpmath.workprec(160):
        for quantity, values in zip(PAIRS[name], found, strict=False):
            # Beyond, all of them are 0 or ±1, and mpmath overflows.
            exact = [EXACT[quantity](mpmath.mpf(t)) for t in z.clip(-1000, 1000).tolist()]
            assert units(values, exact, dtype) <= BOUNDS[precision][quantity], quantity


@pytest.mark.slow
@pytest.mark.parametrize("name", PAIRS)
def test_a_dense_sweep_in_single_precision(source, name):
    """Every 997th of all numbers, against double precision."""
    words = np.arange(0, 2**32, 997, dtype=np.uint32)
    z = words.view(np.float32)
    z = z[np.isfinite(z)]
    if name == "exponentials":
        z = z[(z <= 0) & (z >= -2 * SINGLE.tanh_end)]
    wide, info = z.astype(np.float64), np.finfo(np.float32)
    with np.errstate(over="ignore", under="ignore"):
        exact = {
            "exp": lambda: np.exp(wide),
            "cdf": lambda: special.ndtr(wide),
            "moment": lambda: wide * np.exp(-wide * wide / 2) / np.sqrt(2 * np.pi),
            "tanh": lambda: np.tanh(wide),
            "tanh_slope": lambda: 1 / np.cosh(np.clip(wide, -300, 300)) ** 2,
        }
        found = evaluated(source, SINGLE, name, z)
        for quantity, values in zip(PAIRS[name], found, strict=False):
            value = exact[quantity]()
            unit = np.ldexp(1.0, np.frexp(value)[1] - 1 - info.nmant)
            error = np.abs(values - value) / np.maximum(unit, float(info.smallest_subnormal))
            assert error.max() <= SINGLE_BOUNDS[quantity], (quantity, z[error.argmax()])


@pytest.mark.parametrize("precision", TABLES)
def test_gelu_is_the_normal_distribution_times_its_argument(source, precision):
    dtype = NUMBERS[precision]
    z = arguments(dtype, "gelus", 500)
    cdf, moment = evaluated(source, TABLES[precision], "normals", z)
    value, slope = evaluated(source, TABLES[precision], "gelus", z)
    assert np.array_equal(value, z * cdf)
    # A fused multiply-add does not round the moment.
    assert np.abs(slope - (cdf + moment)).max() <= np.finfo(dtype).eps


@pytest.mark.parametrize("precision", TABLES)
def test_zeros_infinities_and_what_is_no_number(source, precision):
    dtype = NUMBERS[precision]
    tiny = np.finfo(dtype).smallest_subnormal
    z = np.array([0.0, -0.0, tiny, -tiny, np.inf, -np.inf, np.nan], dtype)
    tanh, slope = evaluated(source, TABLES[precision], "tanhs", z)
    assert np.array_equal(tanh[:6], np.array([0.0, -0.0, tiny, -tiny, 1, -1], dtype))
    assert np.signbit(tanh[:6]).tolist() == 3 * [False, True]
    assert np.array_equal(slope[:6], [1, 1, 1, 1, 0, 0])
    cdf, moment = evaluated(source, TABLES[precision], "normals", z)
    assert np.array_equal(cdf[:6], [0.5, 0.5, 0.5, 0.5, 1, 0])
    assert np.array_equal(moment[4:6], [0, 0])
    for result in (tanh, slope, cdf, moment):
        assert np.isnan(result[6])


COEFFICIENTS = [
    (name, place)
    for name in ("series", "tail_top", "tail_bottom")
    for place in range(len(getattr(SINGLE, name)))
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "place"), COEFFICIENTS)
def test_a_coefficient_that_is_wrong_is_found(source, name, place):
    """Each coefficient of the table, changed by as much as moves its polynomial by 2⁻²⁰."""
    values = list(getattr(SINGLE, name))
    power = len(values) - 1 - place
    at = 0.3 if name == "series" else 3.0
    size = sum(abs(c) * at ** (len(values) - 1 - k) for k, c in enumerate(values))
    values[place] += 2.0**-20 * (8 if name == "series" else 1) * size / at**power
    wrong = replace(SINGLE, **{name: tuple(values)})
    z = np.linspace(-8, 8, 20001, dtype=np.float32)
    cdf, _ = evaluated(source, wrong, "normals", z)
    exact = special.ndtr(z.astype(np.float64))
    error = np.abs(cdf - exact) / np.ldexp(1.0, np.frexp(exact)[1] - 1 - 23)
    assert error.max() > SINGLE_BOUNDS["cdf"]


def test_tables_are_exact_in_their_precision():
    """A program that reads a number as a single one reads the same number."""
    numbers = itertools.chain.from_iterable(
        value if isinstance(value, tuple) else [value]
        for value in (*vars(SINGLE).values(), SINGLE.unit)
        if isinstance(value, tuple | float)
    )
    for number in numbers:
        assert float(np.float32(number)) == number
    for table, digits in ((SINGLE, 9), (DOUBLE, 12)):
        scaled = table.ln2_high * 2.0 ** (table.mantissa + 1 - digits)
        assert scaled == int(scaled)
