"""Functions of the standard normal, the counterpart of csrc/math/normal.h. They are precise relative to their values,
also far into both tails."""

import triton
import triton.language as tl

from bfn_kernels.triton_ops.elementary import exp, exp2_term, log, log1p, quotient, reciprocal

SCALE = tl.constexpr(0.3989422804014327)  # 1/√(2π)
_EXPONENT = tl.constexpr(-0.7213475204444817)  # −½/ln 2
# Φ(z) − ½ for |z| ≤ 1.15: z times this polynomial in z². The absolute error is 2e-9.
_NEAR_ZERO = 0.398942262, -0.0664900318, 0.00997168291, -0.00118299352, 0.000110514469, -6.6877551e-06


@triton.jit
def mills(z):
    """Φ(−z)·exp(z²/2) for z ≥ 0."""
    if z.dtype == tl.float64:
        return _mills64(z)
    else:
        u = reciprocal(z + 3.3333333)
        p = -6074.4106 * u + 6572.0854
        p = p * u - 1534.8726
        p = p * u - 502.09073
        p = p * u + 107.75681
        p = p * u + 21.274502
        p = p * u + 24.995481
        p = p * u + 10.739564
        p = p * u + 4.0346827
        p = p * u + 1.3298006
        p = p * u + 0.39894226
        return p * u


@triton.jit
def _mills64(z):
    """Cody's rational approximations of exp(x²)·erfc(x), x = z/√2 (1969)."""
    x = z * 0.70710678118654752440
    y = tl.where(x < 0.46875, x * x, 0.0)
    n = (1.85777706184603153e-1 * y + 3.16112374387056560) * y + 1.13864154151050156e2
    n = (n * y + 3.77485237685302021e2) * y + 3.20937758913846947e3
    d = (((y + 2.36012909523441209e1) * y + 2.44024637934444173e2) * y + 1.28261652607737228e3) * y
    near = (1.0 - x * n / (d + 2.84423683343917062e3)) * tl.exp(y)
    y = tl.where(x < 4.0, x, 4.0)
    n = (2.15311535474403846e-8 * y + 5.64188496988670089e-1) * y + 8.88314979438837594
    n = ((n * y + 6.61191906371416295e1) * y + 2.98635138197400131e2) * y + 8.81952221241769090e2
    n = ((n * y + 1.71204761263407058e3) * y + 2.05107837782607147e3) * y + 1.23033935479799725e3
    d = ((y + 1.57449261107098347e1) * y + 1.17693950891312499e2) * y + 5.37181101862009858e2
    d = (d * y + 1.62138957456669019e3) * y + 3.29079923573345963e3
    d = ((d * y + 4.36261909014324716e3) * y + 3.43936767414372164e3) * y + 1.23033935480374942e3
    middle = n / d
    x = tl.where(x < 4.0, 4.0, x)
    w = 1.0 / (x * x)
    n = (1.63153871373020978e-2 * w + 3.05326634961232344e-1) * w + 3.60344899949804439e-1
    n = ((n * w + 1.25781726111229246e-1) * w + 1.60837851487422766e-2) * w + 6.58749161529837803e-4
    d = ((w + 2.56852019228982242) * w + 1.87295284992346725) * w + 5.27905102951428412e-1
    d = (d * w + 6.05183413124413191e-2) * w + 2.33520497626869185e-3
    far = (0.56418958354775628695 - w * n / d) / x
    x = z * 0.70710678118654752440
    return 0.5 * tl.where(x < 0.46875, near, tl.where(x < 4.0, middle, far))


@triton.jit
def tail(z):
    """φ(z), Φ(−z) and the integral of Φ from −∞ to −z, for z ≥ 0."""
    e, ratio = exp2_term(z * z * _EXPONENT), mills(z)
    return e * SCALE, e * ratio, e * (SCALE - z * ratio)


@triton.constexpr_function
def _near_zero(k):
    return _NEAR_ZERO[k]


@triton.jit
def mass_near_zero(z):
    """Φ(z) − ½ for |z| ≤ 1.15."""
    p = z * 0.0 + _near_zero(5)
    for k in tl.static_range(4, -1, -1):
        p = p * (z * z) + _near_zero(k)
    return z * p


@triton.jit
def integral_slope(y, z):
    """(G(y) − G(z))/(y² − z²) for |y| and |z| ≤ 1.15, where G(z) is the integral of Φ − ½ from 0 to z. Nothing cancels
    (Horner's scheme twice)."""
    p = z * 0.0 + _near_zero(5) / 12
    slope = p
    for k in tl.static_range(4, -1, -1):
        p = p * (z * z) + _near_zero(k) / (2 * k + 2)
        slope = slope * (y * y) + p
    return slope


@triton.jit
def within(z, mass):
    """Φ(z) − ½ for z ≥ 0, where mass = Φ(−z). For z < 1, where the mass has an error of 1e-7, it is a polynomial."""
    if z.dtype == tl.float64:
        return 0.5 - mass
    else:
        return tl.where(z < 1.0, mass_near_zero(z), 0.5 - mass)


@triton.jit
def log_cdf(z):
    """ln Φ(z) and its derivative."""
    ratio, exponent = mills(tl.abs(z)), -0.5 * z * z
    e = exp(exponent)
    mass = tl.where(z < 0.0, 0.0, e * ratio)
    value = tl.where(z < 0.0, exponent + log(ratio), log1p(-mass))
    return value, SCALE * tl.where(z < 0.0, 1.0, e) * reciprocal(tl.where(z < 0.0, ratio, 1.0 - mass))


@triton.jit
def scaled_interval(left, right, middle, width):
    """Φ(right) − Φ(left) as exp(−z²/2)·(front − lost): returns z, front, lost, and the densities at left and right
    divided by exp(−z²/2). If left and right are on one side of 0, it is computed from the tail beyond the one nearer to
    0, so that nothing cancels. middle, width: (left + right)/2 and right − left."""
    astride, above = (left <= 0.0) & (right >= 0.0), left > 0.0
    near = tl.where(astride, -left, tl.where(above, left, -right))
    far = tl.where(astride, right, tl.where(above, right, -left))
    near_mills, far_mills = mills(near), mills(far)
    at_near = tl.where(astride, exp(-0.5 * near * near), 1.0)
    at_far = exp(tl.where(astride, -0.5 * far * far, -width * tl.abs(middle)))
    lost = at_far * far_mills + tl.where(astride, at_near * near_mills, 0.0)
    in_order = astride | above
    of_left, of_right = tl.where(in_order, at_near, at_far), tl.where(in_order, at_far, at_near)
    return tl.where(astride, 0.0, near), tl.where(astride, 1.0, near_mills), lost, SCALE * of_left, SCALE * of_right


@triton.jit
def log_interval(left, right, middle, width):
    """ln(Φ(right) − Φ(left)) and its derivatives by left and by right."""
    z, front, lost, of_left, of_right = scaled_interval(left, right, middle, width)
    missing = quotient(lost, front, reciprocal(front))
    inverse = reciprocal(front * (1.0 - missing))
    return log1p(-missing) + (-0.5 * z * z + log(front)), -of_left * inverse, of_right * inverse
