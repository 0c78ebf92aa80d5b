"""σ and σ′ from additions, multiplications and one division: exp, the normal distribution, tanh.

One table for every program that evaluates an activation: elementary.h, which the compiler reads
with the kernel, and whatever runs elsewhere. No branches and no calls: a program takes the same
steps for every entry, in a vector register or on a card. Polynomials are tuples with the highest
power first, taken as even(x²) + x · odd(x²) by Horner's rule: two chains of half the length, which
also round less. Every number is exact in the precision of its table.

Exponential. With k = round(x log₂e) and r = x − k ln 2, so that |r| ≤ ½ ln 2,

    exp(x) = 2ᵏ (1 + m),   m = expm1(r) = r + r² · series(r).

k is found by adding ``shift``, 1½ times the smallest number whose last bit is one: the sum's last
bits hold k. ln 2 = ``ln2_high`` + ``ln2_low``, and k · ln2_high is exact. 2ᵏ would leave the normal
numbers before its products do, so ``scale`` = 2ᵏ⁺ᵒ is made, with o = ``offset``: the last bits of
the shifted sum and ``scale_bits`` put where the exponent is. The factor 2⁻ᵒ is in the constants
that it meets next.

Normal distribution. Φ(z) = ½ erfc(−z/√2), the cdf of GELU. With a = min(|z|, ``tail_end``),

    Φ(−a) = exp(−a²/2) · top(a) / bottom(a),   Φ(a) = 1 − Φ(−a),

and the density is exp(−a²/2) · ``density``. The quotient falls from ½ like 1/a; all coefficients
are positive, so that nothing cancels. In the tail a rounding of the exponent would be an error of
many ulp, hence a = h + (a − h), where h has the bits of a that ``head`` keeps: h² is exact and
−a²/2 = −h²/2 − (a − h)(a + h)/2, the second part being added to r. σ(z) = z Φ(z) and
σ′(z) = Φ(z) + z exp(−a²/2) · ``density``, where z beyond ±tail_end is set to that, for a finite
product with zero.

tanh. With a = min(|z|, ``tanh_end``) and e = exp(−2a), m = e − 1 = 2ᵏ expm1(r) + (2ᵏ − 1),

    tanh(a) = −m / (2 + m),   tanh′(a) = 4e / (2 + m)²,

where nothing cancels at any a; ``unit`` is 2⁻ᵒ.

Errors at most, in units in the last place of the exact value, for all z, ±0 and ±∞ included; of a
subnormal result the unit is the smallest number. NaN gives NaN. In single and in double precision:

    exp(x), −2 tanh_end ≤ x ≤ 0: 2 and 2
    Φ(z): 5 and 6
    z exp(−z²/2)/√(2π): 3 and 3
    tanh(z): 3 and 3
    tanh′(z): 5 and 5
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """The constants of one precision; the module says what each of them is."""

    real: str  # C's names of the numbers and of unsigned words of their size
    word: str
    mantissa: int  # bits behind the leading one
    head: int  # a mask, of all bits
    shift: float
    log2e: float
    ln2_high: float
    ln2_low: float
    series: tuple[float, ...]
    offset: int
    scale_bits: int  # offset + the exponent's bias
    tail_end: float
    tail_top: tuple[float, ...]  # times 2⁻ᵒ
    tail_bottom: tuple[float, ...]
    density: float  # 2⁻ᵒ/√(2π)
    tanh_end: float

    @property
    def unit(self) -> float:
        return math.ldexp(1.0, -self.offset)

    def definitions(self) -> list[str]:
        """The table for a C compiler: macros, numbers in hexadecimal."""
        values = vars(self) | {"unit": self.unit}
        return [f"-D{name.upper()}={_literal(value)}" for name, value in values.items()]


def _literal(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(map(_literal, value))
    if isinstance(value, int):
        return hex(value)
    return value.hex() if isinstance(value, float) else str(value)


def _times(power: int, *coefficients: float) -> tuple[float, ...]:
    return tuple(math.ldexp(coefficient, power) for coefficient in coefficients)


SINGLE = Table(
    real="float",
    word="uint32_t",
    mantissa=23,
    head=0xFFFFF000,
    shift=1.5 * 2.0**23,
    log2e=1.4426950216293335,
    ln2_high=0.693145751953125,
    ln2_low=1.428606765330187e-06,
    series=(
        0.001388245145790279,
        0.008366527035832405,
        0.04166720062494278,
        0.1666654348373413,
        0.4999999701976776,
    ),
    offset=64,
    scale_bits=64 + 127,
    tail_end=15.0,
    tail_top=_times(
        -64,
        0.007708413992077112,
        0.07755685597658157,
        0.35402628779411316,
        0.8549959659576416,
        0.9862326979637146,
    ),
    tail_bottom=(
        0.019321860745549202,
        0.19442056119441986,
        0.9064050316810608,
        2.3419036865234375,
        3.2837917804718018,
        1.9724653959274292,
    ),
    density=math.ldexp(0.3989422917366028, -64),
    tanh_end=53.0,
)
DOUBLE = Table(
    real="double",
    word="uint64_t",
    mantissa=52,
    head=0xFFFFFFFFF8000000,
    shift=1.5 * 2.0**52,
    log2e=1.4426950408889634,
    ln2_high=0.6931471803691238,
    ln2_low=1.9082149292705877e-10,
    series=(
        2.087533179215079e-09,
        2.5108990103352165e-08,
        2.7557402671823414e-07,
        2.7557244344677774e-06,
        2.4801587172461967e-05,
        0.00019841269885992338,
        0.0013888888888962433,
        0.008333333333321683,
        0.04166666666666651,
        0.16666666666666677,
        0.5,
    ),
    offset=540,
    scale_bits=540 + 1023,
    tail_end=39.0,
    tail_top=_times(
        -540,
        3.8534715079269825e-07,
        1.210506851313872e-05,
        0.000186328142919526,
        0.0018293310656177378,
        0.012601244200233438,
        0.06340852030627218,
        0.23578273678904305,
        0.6406865997789403,
        1.2232080895941033,
        1.4958776989633955,
        0.9071260877501994,
    ),
    tail_bottom=(
        9.659220637251892e-07,
        3.0342907001444272e-05,
        0.0004680213134584458,
        0.004615795880176436,
        0.03205175853603622,
        0.16346635762040665,
        0.6216818432752232,
        1.756037545007815,
        3.598569043177923,
        5.081354340126879,
        4.43931919816157,
        1.8142521755003989,
    ),
    density=math.ldexp(0.3989422804014327, -540),
    tanh_end=373.0,
)
