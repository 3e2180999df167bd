// As many floats at a time as a register holds, in the compiler's vector extension: one source for every instruction
// set. A wider vector would be split, and GCC splits comparisons into single numbers.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#ifdef __AVX2__
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
constexpr int LANES = 16;
#elif defined(__AVX2__)
constexpr int LANES = 8;
#else
constexpr int LANES = 4;
#endif
constexpr int BYTES = LANES * sizeof(float);
typedef float vec __attribute__((vector_size(BYTES)));
typedef int32_t ivec __attribute__((vector_size(BYTES)));
typedef uint32_t uvec __attribute__((vector_size(BYTES)));
typedef float unaligned_vec __attribute__((vector_size(BYTES), aligned(4), may_alias));
typedef int32_t unaligned_ivec __attribute__((vector_size(BYTES), aligned(4), may_alias));
typedef uint16_t half_vec __attribute__((vector_size(BYTES / 2), aligned(2), may_alias));

inline vec broadcast(float x) { return vec{} + x; }
inline vec load(const float* from) { return *reinterpret_cast<const unaligned_vec*>(from); }
inline void store(float* to, vec x) { *reinterpret_cast<unaligned_vec*>(to) = x; }
inline ivec bits(vec x) { return reinterpret_cast<ivec>(x); }
inline vec from_bits(ivec x) { return reinterpret_cast<vec>(x); }
inline ivec lanes() {
  ivec numbers;
  for (int lane = 0; lane < LANES; lane++) numbers[lane] = lane;
  return numbers;
}

inline ivec load(const int32_t* from) { return *reinterpret_cast<const unaligned_ivec*>(from); }

// bfloat16: the upper half of a float, rounded to nearest even.
#ifdef __AVX512BF16__
inline void store(uint16_t* to, vec x) {
  *reinterpret_cast<half_vec*>(to) = (half_vec)_mm512_cvtneps_pbh((__m512)x);
}
#else
inline ivec upper_half(vec x) { return ((bits(x) + 0x7fff + ((bits(x) >> 16) & 1)) >> 16) & 0xffff; }
inline void store(uint16_t* to, vec x) {
  *reinterpret_cast<half_vec*>(to) = __builtin_convertvector(upper_half(x), half_vec);
}
#endif
// What `store` leaves of a value.
template <class Element>
inline vec rounded(vec x) {
  if constexpr (sizeof(Element) == sizeof(float)) {
    return x;
  } else {
#ifdef __AVX512BF16__
    return from_bits(__builtin_convertvector((half_vec)_mm512_cvtneps_pbh((__m512)x), ivec) << 16);
#else
    return from_bits(upper_half(x) << 16);
#endif
  }
}
// Element by element side by side: even[0], odd[0], even[1], odd[1], ...
inline void store_pairs(uint16_t* to, vec even, vec odd) {
#ifdef __AVX512BF16__
  __m512i both = (__m512i)_mm512_cvtne2ps_pbh((__m512)odd, (__m512)even);
  const __m512i interleave = (__m512i)((lanes() + 16) << 16 | lanes());
  _mm512_storeu_si512(to, _mm512_permutexvar_epi16(interleave, both));
#else
  *reinterpret_cast<unaligned_ivec*>(to) = upper_half(odd) << 16 | upper_half(even);
#endif
}
inline vec load(const uint16_t* from) {
  return from_bits(__builtin_convertvector(*reinterpret_cast<const half_vec*>(from), ivec) << 16);
}

// Two rows of halves as words of one element from each.
inline void interleave(const uint16_t* even, const uint16_t* odd, uint16_t* to) {
  ivec low = __builtin_convertvector(*reinterpret_cast<const half_vec*>(even), ivec);
  ivec high = __builtin_convertvector(*reinterpret_cast<const half_vec*>(odd), ivec);
  *reinterpret_cast<unaligned_ivec*>(to) = high << 16 | low;
}

// a b + c, rounded once where the processor can. Elsewhere no product and sum are fused (-ffp-contract=off): the same
// formula shall give the same bits in forward and backward.
#ifdef __AVX512F__
inline vec fused(vec a, vec b, vec c) { return (vec)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c); }
#elif defined(__AVX2__) && defined(__FMA__)
inline vec fused(vec a, vec b, vec c) { return (vec)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c); }
#else
inline vec fused(vec a, vec b, vec c) { return a * b + c; }
#endif
inline vec fused(vec a, vec b, float c) { return fused(a, b, broadcast(c)); }
inline vec fused(vec a, float b, vec c) { return fused(a, broadcast(b), c); }
inline vec fused(float a, vec b, float c) { return fused(broadcast(a), b, broadcast(c)); }

inline vec where(ivec mask, vec a, vec b) { return mask ? a : b; }
// A NaN in the first operand survives, as in PyTorch.
#ifdef __AVX512F__
inline vec maximum(vec a, vec b) { return (vec)_mm512_max_ps((__m512)b, (__m512)a); }
inline vec minimum(vec a, vec b) { return (vec)_mm512_min_ps((__m512)b, (__m512)a); }
inline vec nearest_integer(vec x) { return (vec)_mm512_roundscale_ps((__m512)x, _MM_FROUND_TO_NEAREST_INT); }
inline vec sqrt(vec x) { return (vec)_mm512_sqrt_ps((__m512)x); }
inline vec times_power_of_two(vec x, vec n) { return (vec)_mm512_scalef_ps((__m512)x, (__m512)n); }
inline float sum(vec x) { return _mm512_reduce_add_ps((__m512)x); }
inline float largest(vec x) { return _mm512_reduce_max_ps((__m512)x); }
// One Newton step on the 14-bit estimate; x must be finite and not subnormal.
inline vec reciprocal(vec x) {
  vec estimate = (vec)_mm512_rcp14_ps((__m512)x);
  return estimate * (2.f - x * estimate);
}
#else
#ifdef __AVX2__
inline vec maximum(vec a, vec b) { return (vec)_mm256_max_ps((__m256)b, (__m256)a); }
inline vec minimum(vec a, vec b) { return (vec)_mm256_min_ps((__m256)b, (__m256)a); }
inline vec nearest_integer(vec x) { return (vec)_mm256_round_ps((__m256)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline vec sqrt(vec x) { return (vec)_mm256_sqrt_ps((__m256)x); }
#else
inline vec maximum(vec a, vec b) { return a < b ? b : a; }
inline vec minimum(vec a, vec b) { return a > b ? b : a; }
inline vec nearest_integer(vec x) { return (x + 12582912.f) - 12582912.f; }
inline vec sqrt(vec x) {
  for (int lane = 0; lane < LANES; lane++) x[lane] = std::sqrt(x[lane]);
  return x;
}
#endif
inline vec power_of_two(ivec n) { return from_bits((n + 127) << 23); }
inline vec times_power_of_two(vec x, vec n) {
  ivec whole = __builtin_convertvector(n, ivec), half = whole >> 1;
  return x * power_of_two(half) * power_of_two(whole - half);
}
inline float sum(vec x) {
  float total = 0;
  for (int lane = 0; lane < LANES; lane++) total += x[lane];
  return total;
}
inline float largest(vec x) {
  float most = x[0];
  for (int lane = 1; lane < LANES; lane++) most = x[lane] > most ? x[lane] : most;
  return most;
}
inline vec reciprocal(vec x) { return 1.f / x; }
#endif

// Writes the chosen lanes one after the other, and anything behind them up to LANES; returns how many were chosen.
inline int compress(float* to, vec x, ivec chosen) {
#ifdef __AVX512DQ__
  __mmask16 mask = _mm512_movepi32_mask((__m512i)chosen);
  store(to, (vec)_mm512_maskz_compress_ps(mask, (__m512)x));
  return __builtin_popcount(mask);
#else
  int count = 0;
  for (int lane = 0; lane < LANES; lane++)
    if (chosen[lane]) to[count++] = x[lane];
  return count;
#endif
}
#ifdef __AVX512DQ__
inline bool any(ivec mask) { return _mm512_movepi32_mask((__m512i)mask); }
#elif defined(__AVX2__)
inline bool any(ivec mask) { return !_mm256_testz_si256((__m256i)mask, (__m256i)mask); }
#else
inline bool any(ivec mask) {
  int32_t found = 0;
  for (int lane = 0; lane < LANES; lane++) found |= mask[lane];
  return found;
}
#endif

inline vec neg(vec x) { return -x; }
inline vec abs(vec x) { return from_bits(bits(x) & 0x7fffffff); }
inline vec copysign(vec x, vec sign) {
  return from_bits((bits(x) & 0x7fffffff) | (bits(sign) & static_cast<int32_t>(0x80000000)));
}

// e^x - 1 = 2^n (e^r - 1) + (2^n - 1) with |r| <= ln(2)/2; the polynomial is e^r - 1 - r over r^2.
struct Reduced {
  vec power, remainder, polynomial;
};
inline Reduced reduce(vec x) {
  vec power = nearest_integer(x * 1.44269504088896341f);
  vec r = fused(power, -0.693359375f, x);
  r = fused(power, 2.12194440e-4f, r);
  vec p = fused(1.9875691500e-4f, r, 1.3981999507e-3f);
  p = fused(p, r, 8.3334519073e-3f);
  p = fused(p, r, 4.1665795894e-2f);
  p = fused(p, r, 1.6666665459e-1f);
  p = fused(p, r, 5.0000001201e-1f);
  return {power, r, fused(p, r * r, r)};
}
inline vec clamped(vec x) { return minimum(maximum(x, broadcast(-104.f)), broadcast(89.f)); }
inline vec exp(vec x) {
  Reduced e = reduce(clamped(x));
  return times_power_of_two(e.polynomial + 1.f, e.power);
}
inline vec expm1(vec x) {
  Reduced e = reduce(clamped(x));
  // Half of 2^n, since 2^128 alone does not fit.
  vec half = times_power_of_two(broadcast(0.5f), e.power);
  return (half * e.polynomial + (half - 0.5f)) * 2.f;
}
inline vec log(vec x) {
  ivec offset = bits(x) - 0x3f3504f3;
  vec exponent = __builtin_convertvector(offset >> 23, vec);
  vec m = from_bits((offset & 0x007fffff) + 0x3f3504f3) - 1.f;
  vec p = fused(7.0376836292e-2f, m, -1.1514610310e-1f);
  p = fused(p, m, 1.1676998740e-1f);
  p = fused(p, m, -1.2420140846e-1f);
  p = fused(p, m, 1.4249322787e-1f);
  p = fused(p, m, -1.6668057665e-1f);
  p = fused(p, m, 2.0000714765e-1f);
  p = fused(p, m, -2.4999993993e-1f);
  p = fused(p, m, 3.3333331174e-1f);
  vec square = m * m;
  vec value = m * square * p + exponent * -2.12194440e-4f - 0.5f * square + m + exponent * 0.693359375f;
  value = x == 0.f ? broadcast(-INFINITY) : value;
  value = x < 0.f ? broadcast(NAN) : value;
  return (x == INFINITY) | (x != x) ? x : value;
}
// ln(1 + y) for 0 <= y <= 1.
inline vec log1p_unit(vec y) {
  vec p = fused(2.037690487e-03f, y, -1.344483066e-02f);
  p = fused(p, y, 4.155762121e-02f);
  p = fused(p, y, -8.253533393e-02f);
  p = fused(p, y, 1.242510304e-01f);
  p = fused(p, y, -1.610863209e-01f);
  p = fused(p, y, 1.989153773e-01f);
  p = fused(p, y, -2.498739213e-01f);
  p = fused(p, y, 3.333256841e-01f);
  p = fused(p, y, -4.999998212e-01f);
  return fused(p, y * y, y);
}
// The rounding of 1 + x is undone to first order.
inline vec log1p(vec x) {
  vec u = x + 1.f;
  vec correction = (x - (u - 1.f)) / u;
  return (u == INFINITY) ? x : log(u) + correction;
}
inline vec softplus(vec x) { return maximum(x, broadcast(0.f)) + log1p_unit(exp(-abs(x))); }
inline vec sigmoid(vec x) {
  vec e = exp(-abs(x)), other = e * reciprocal(1.f + e);
  return x < 0.f ? other : 1.f - other;
}
inline vec tanh(vec x) {
  vec e = expm1(-2.f * abs(x));
  return copysign(-e / (e + 2.f), x);
}
template <int exponent>
inline vec whole_power(vec x) {
  if constexpr (exponent == 1) {
    return x;
  } else {
    vec root = whole_power<exponent / 2>(x);
    return exponent % 2 ? root * root * x : root * root;
  }
}
inline vec power(vec x, float exponent) {
  vec value = exp(log(x) * exponent);
  return x == 0.f ? broadcast(exponent > 0 ? 0.f : INFINITY) : value;
}

// A square of 32-bit words: rows become columns.
inline void transpose(ivec (&block)[LANES]) {
#ifdef __AVX512F__
  for (int step = 1; step < LANES; step *= 2) {
    // Lane l of the first of two rows keeps what has bit `step` clear and takes its partner's lanes for the rest.
    ivec taken = lanes() & step, low = (taken ? lanes() - step + LANES : lanes());
    ivec high = low + step;
    for (int row = 0; row < LANES; row++) {
      if (row & step) continue;
      __m512i first = (__m512i)block[row], second = (__m512i)block[row + step];
      block[row] = (ivec)_mm512_permutex2var_epi32(first, (__m512i)low, second);
      block[row + step] = (ivec)_mm512_permutex2var_epi32(first, (__m512i)high, second);
    }
  }
#else
  for (int row = 0; row < LANES; row++)
    for (int column = 0; column < row; column++) {
      int32_t upper = block[column][row];
      block[column][row] = block[row][column];
      block[row][column] = upper;
    }
#endif
}
// to[column][row] = from[row][column] of 32-bit words; both sizes are multiples of LANES.
inline void transpose(const int32_t* from, int64_t from_stride, int64_t rows, int64_t columns, int32_t* to,
                      int64_t to_stride) {
  for (int64_t row = 0; row < rows; row += LANES)
    for (int64_t column = 0; column < columns; column += LANES) {
      ivec block[LANES];
      for (int k = 0; k < LANES; k++) block[k] = load(from + (row + k) * from_stride + column);
      transpose(block);
      for (int k = 0; k < LANES; k++)
        *reinterpret_cast<unaligned_ivec*>(to + (column + k) * to_stride + row) = block[k];
    }
}
