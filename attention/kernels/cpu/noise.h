// Gumbel noise by place, the numbers of attention/noise.py: the first word of Philox-4x32-10 (Salmon et al., SC 2011).
#pragma once
#include "simd.h"

struct Product {
  uvec high, low;
};
inline Product wide_product(uvec x, uint32_t factor) {
#ifdef __AVX512F__
  __m512i wide = _mm512_set1_epi64(factor);
  __m512i even = _mm512_mul_epu32((__m512i)x, wide), odd = _mm512_mul_epu32(_mm512_srli_epi64((__m512i)x, 32), wide);
  return {(uvec)_mm512_mask_blend_epi32(0xaaaa, _mm512_srli_epi64(even, 32), odd),
          (uvec)_mm512_mask_blend_epi32(0xaaaa, even, _mm512_slli_epi64(odd, 32))};
#else
  Product made;
  for (int lane = 0; lane < LANES; lane++) {
    uint64_t whole = uint64_t(x[lane]) * factor;
    made.high[lane] = whole >> 32;
    made.low[lane] = uint32_t(whole);
  }
  return made;
#endif
}

inline uvec philox(uvec a, uvec b, uvec c, uvec d, uint64_t key) {
  uint32_t low = uint32_t(key), high = uint32_t(key >> 32);
  for (int round = 0; round < 10; round++) {
    Product left = wide_product(a, 0xD2511F53), right = wide_product(c, 0xCD9E8D57);
    a = right.high ^ b ^ low;
    b = right.low;
    c = left.high ^ d ^ high;
    d = left.low;
    low += 0x9E3779B9;
    high += 0xBB67AE85;
  }
  return a;
}

struct Noise {
  bool drawn = false;
  uint64_t seed;
  float amplitude;
  uint32_t first_sequence;

  vec operator()(uvec key, uvec query, uint32_t head, uint32_t sequence) const {
    uvec word = philox(key, query, uvec{} + head, uvec{} + (first_sequence + sequence), seed);
    vec uniform = (__builtin_convertvector((ivec)(word >> 9), vec) + 0.5f) * 0x1p-23f;
    return -amplitude * log(-log(uniform));
  }
};
