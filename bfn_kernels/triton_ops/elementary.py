"""exp, log, sine and cosine as Triton functions, the counterpart of csrc/math/elementary.h.

In float32 most of them are the polynomials of that file. The polynomials are accurate to the last bits, and give the
same results in the interpreter and on a GPU. Triton's exp and log are the hardware's approximations, which are coarse
for large arguments and near 1. Only `exp2_term`, `inverse_sqrt` and `reciprocal` use approximations of the hardware,
whose relative errors are small everywhere. In float64 this file uses Triton's functions.
"""

import triton
import triton.language as tl

_ROUND = tl.constexpr(12582912.0)  # 1.5·2²³: adding it rounds to an integer, held in the low bits
_ROUND_EXPONENT = tl.constexpr(12583039.0)  # the same plus 127, so that the low bits are the exponent of the float 2ⁿ
_UNIT = tl.constexpr(2.0**-23)  # of the last bit of a mantissa in [1, 2)
_LN2_HIGH = tl.constexpr(0.693359375)
_LN2_LOW = tl.constexpr(-2.12194440e-4)


@triton.jit
def clamp(x, low, high):
    """x clamped to [low, high]; NaN stays NaN."""
    x = tl.where(x < low, low, x)
    return tl.where(x > high, high, x)


@triton.jit
def square(x):
    return x * x


@triton.jit
def reciprocal(x):
    """1/x for x ≥ 1e-30, exact to about the last bit. In float32, an x above 1e30 counts as 1e30, a negative x gives
    NaN, and one step of Newton's method corrects the square of a GPU's own reciprocal root. Triton's division may have
    an error of two units in the last place, and takes more instructions."""
    if x.dtype == tl.float64:
        return 1.0 / x
    else:
        x = tl.where(x > 1e30, 1e30, x)
        root = tl.rsqrt(x)
        y = root * root
        return tl.fma(y, tl.fma(-x, y, 1.0), y)


@triton.jit
def inverse_sqrt(x):
    """1/√x for x above 1e-37. In float32, a GPU's error is two units in the last place."""
    return 1.0 / tl.sqrt(x) if x.dtype == tl.float64 else tl.rsqrt(x)


@triton.jit
def at_least_tiny(std):
    """In float32 a std of 0, or near 0, becomes 1e-30, so that its `reciprocal` is finite. NaN stays NaN."""
    if std.dtype == tl.float64:
        return std
    else:
        return tl.where(tl.abs(std) < 1e-30, 1e-30, std)


@triton.jit
def quotient(x, y, inverse):
    """x/y, exact to about the last bit, where inverse is `reciprocal(y)`. The product x·inverse alone would be rounded
    twice."""
    q = x * inverse
    return tl.where((tl.abs(q) < 1e30) & (y < 1e30), tl.fma(tl.fma(-q, y, x), inverse, q), q)


@triton.jit
def _power_of_two(shifted):
    """2ⁿ, where shifted is n + _ROUND_EXPONENT."""
    return (shifted.to(tl.int32, bitcast=True) << 23).to(tl.float32, bitcast=True)


@triton.jit
def _reduced_exp(x, gained):
    """2ⁿ and e^r − 1 of x − gained = n·ln 2 + r, n from −126 to 127. gained: a rounding error of x, or 0."""
    shifted = x * 1.44269504 + _ROUND_EXPONENT
    n = shifted - _ROUND_EXPONENT
    r = x - n * _LN2_HIGH - n * _LN2_LOW - gained
    q = 0.49999994 + r * (0.16666515 + r * (0.041668456 + r * (0.0083694188 + r * 0.0013813145)))
    return _power_of_two(shifted), r + r * r * q


@triton.jit
def _exp_less(x, gained):
    """e^(x − gained) for x < 88 in float32."""
    power, excess = _reduced_exp(x, gained)
    return tl.where(x < -87.33654, 0.0, power + power * excess)


@triton.jit
def exp(x):
    """e^x for x < 88. In float32, results below the range of normal numbers are 0."""
    return tl.exp(x) if x.dtype == tl.float64 else _exp_less(x, 0.0)


@triton.jit
def exp2_term(x):
    """2^x for x < 127, by the GPU's own instruction. A result below the range of normal numbers may be 0."""
    return tl.exp2(x)


@triton.jit
def exp2_less(x, less):
    """2^x − less, where less is 0 or 1. It keeps its digits where 2^x is near 1. In float32, it is NaN for x above
    127.5."""
    if x.dtype == tl.float64:
        return tl.where(less > 0.0, expm1(x * 0.69314718055994530942), tl.exp2(x))
    else:
        x = tl.maximum(x, -126.0, propagate_nan=tl.PropagateNan.ALL)
        x = tl.minimum(x, 128.0, propagate_nan=tl.PropagateNan.ALL)
        shifted = x + _ROUND_EXPONENT
        r = x - (shifted - _ROUND_EXPONENT)
        p = 0.00015353359 * r + 0.0013398875
        p = p * r + 0.009618437
        p = p * r + 0.055503324
        p = p * r + 0.24022648
        p = p * r + 0.6931472
        power = _power_of_two(shifted)
        return power * (p * r) + (power - less)


@triton.jit
def expm1(x):
    """e^x − 1 for x < 88."""
    if x.dtype == tl.float64:
        e = tl.exp(x)
        # Kahan: e − 1 and ln e have the same rounding error, which cancels in their ratio
        near = tl.where((e == 1.0) | (e < 0.5) | (e > 2.0), 2.0, e)
        return tl.where(e == 1.0, x, tl.where(near == e, (e - 1.0) * x / tl.log(near), e - 1.0))
    else:
        power, excess = _reduced_exp(tl.where(x < -80.0, -80.0, x), 0.0)
        return power * excess + (power - 1.0)


@triton.jit
def log_normal(x):
    """ln x of a positive, normal, finite x."""
    if x.dtype == tl.float64:
        return tl.log(x)
    else:
        bits = x.to(tl.int32, bitcast=True)
        exponent = (bits - 0x3F3504F3) & -0x800000  # in units of 2⁻²³
        f = (bits - exponent).to(tl.float32, bitcast=True) - 1.0  # mantissa in [√½, √2), less 1
        e = exponent.to(tl.float32)
        q = 0.067466386 * f - 0.11675651
        q = q * f + 0.11888163
        q = q * f - 0.12405589
        q = q * f + 0.14219552
        q = q * f - 0.16667996
        q = q * f + 0.20002119
        q = q * f - 0.25000009
        q = q * f + 0.33333313
        return f + (e * (_LN2_LOW * _UNIT) + f * f * (f * q - 0.5)) + e * (_LN2_HIGH * _UNIT)


@triton.jit
def log(x):
    """ln x: NaN below 0, and −∞ at 0 and for subnormal x."""
    least: tl.constexpr = 2.2250738585072014e-308 if x.dtype == tl.float64 else 1.17549435e-38
    usual = (x >= least) & (x < float("inf"))
    edge = tl.where(x > 1.0, x, tl.where(x >= 0.0, float("-inf"), float("nan")))
    return tl.where(usual, log_normal(tl.where(usual, x, 1.0)), edge)


@triton.jit
def log1p(x):
    """ln(1 + x) for x ≥ −1, corrected for the rounding of 1 + x (Kahan)."""
    one_plus = 1.0 + x
    rounding = one_plus - 1.0
    exact = rounding == 0.0
    correction = tl.where(exact | (x > 1e8), 1.0, x / tl.where(exact, 1.0, rounding))
    return tl.where(exact, x, log(one_plus) * correction)


@triton.jit
def sincospi(v):
    """sin(πv) and cos(πv) for v in [−1, 1]."""
    if v.dtype == tl.float64:
        return tl.sin(v * 3.14159265358979323846), tl.cos(v * 3.14159265358979323846)
    else:
        shifted = 2.0 * v + _ROUND
        x = v - 0.5 * (shifted - _ROUND)
        z = x * x
        s = x * (3.1415926439 + z * (-5.1677078291 + z * (2.5497672981 - z * 0.5890786556)))
        c = -4.9348021734 + z * (4.0587079045 + z * (-1.3350584645 + z * 0.2314295473))
        c = tl.fma(z, c, 1.0)  # without fma, the number of roundings would depend on the kernel
        quadrant = shifted.to(tl.int32, bitcast=True)
        swap = (quadrant & 1) != 0
        sine, cosine = tl.where(swap, c, s), tl.where(swap, -s, c)
        negative = (quadrant & 2) != 0
        return tl.where(negative, -sine, sine), tl.where(negative, -cosine, cosine)


@triton.jit
def softplus(x):
    """ln(1 + e^x)"""
    return tl.where(x > 0.0, x, 0.0) + log1p(exp(-tl.abs(x)))


@triton.jit
def softplus_fall(before, after, drift):
    """softplus(before) − softplus(after), where after = before + drift. It is exact also where `before` is so large
    that the sum rounds to it, or infinite."""
    fall = softplus(before) - softplus(after)
    return tl.where((before > 0.0) & (after > 0.0), softplus(-before) - softplus(-after) - drift, fall)


@triton.jit
def sigmoid(x):
    e = exp(-tl.abs(x))
    return tl.where(x > 0.0, 1.0, e) * reciprocal(1.0 + e)


@triton.jit
def exp_difference(a, b):
    """exp(a − b) for a ≤ b, corrected for the rounding of a − b, which is most of the error if logits are far apart."""
    difference = a - b
    back = difference - a
    gained = (b + back) - (a - (difference - back))
    if difference.dtype == tl.float64:
        e = tl.exp(difference)
        return tl.where(gained - gained == 0.0, e - e * gained, e)
    else:
        return _exp_less(difference, gained)
