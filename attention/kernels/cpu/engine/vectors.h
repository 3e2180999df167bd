// Vectors brought to a length: y = factor x / max(|x|, SHORTEST).
#pragma once
#include "engine/operands.h"
#include "engine/products.h"
#include "simd.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <cmath>
#include <tuple>

namespace {

constexpr float SHORTEST = 1e-12f;

// visit(row, b, t, h) for all vectors, row counting them.
template <class Visit>
void each_vector(const Tensor& vectors, Visit visit) {
  int64_t length = vectors.size(1), heads = vectors.size(2), grain = std::max<int64_t>(1, (1 << 14) / vectors.size(3));
  at::parallel_for(0, vectors.size(0) * length * heads, grain, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; row++)
      visit(row, row / heads / length, row / heads % length, row % heads);
  });
}

// The sum of products of two vectors; what is beyond the last whole vector register comes one by one.
template <class Element>
float dot(const Element* x, const Element* y, int64_t width) {
  vec total = broadcast(0.f);
  int64_t d = 0;
  for (; d + LANES <= width; d += LANES) total = fused(load(raw(x) + d), load(raw(y) + d), total);
  for (; d < width; d++) total[0] += float(x[d]) * float(y[d]);
  return sum(total);
}

template <class Element>
void unit_of(const Tensor& vectors, const Tensor& factor, Tensor& out) {
  View<const Element> from(vectors);
  View<Element> to(out);
  const float* factors = factor.const_data_ptr<float>();
  int64_t width = vectors.size(3);
  each_vector(vectors, [&](int64_t, int64_t b, int64_t t, int64_t h) {
    const Element* x = from.at(b, t, h);
    Element* y = to.at(b, t, h);
    float length = std::max(std::sqrt(dot(x, x, width)), SHORTEST);
    float times = factors[b * factor.stride(0) + t * factor.stride(1) + h * factor.stride(2)] / length;
    int64_t d = 0;
    for (; d + LANES <= width; d += LANES) store(raw(y) + d, load(raw(x) + d) * times);
    for (; d < width; d++) y[d] = Element(float(x[d]) * times);
  });
}

// dx = factor (dy - u (u . dy)) / |x|,  dfactor = u . dy,  u = x / |x|.
template <class Element>
void unit_backward_of(const Tensor& grad, const Tensor& vectors, const Tensor& factor, Tensor& grad_vectors,
                      Tensor& grad_factor) {
  View<const Element> from(vectors), from_grad(grad);
  View<Element> to(grad_vectors);
  const float* factors = factor.const_data_ptr<float>();
  float* to_factor = grad_factor.data_ptr<float>();
  int64_t width = vectors.size(3);
  each_vector(vectors, [&](int64_t row, int64_t b, int64_t t, int64_t h) {
    const Element *x = from.at(b, t, h), *dy = from_grad.at(b, t, h);
    Element* dx = to.at(b, t, h);
    float length = std::sqrt(dot(x, x, width)), divisor = std::max(length, SHORTEST);
    float along = dot(x, dy, width) / divisor, turned = length < SHORTEST ? 0.f : along / divisor;
    float times = factors[b * factor.stride(0) + t * factor.stride(1) + h * factor.stride(2)] / divisor;
    int64_t d = 0;
    for (; d + LANES <= width; d += LANES)
      store(raw(dx) + d, (load(raw(dy) + d) - load(raw(x) + d) * turned) * times);
    for (; d < width; d++) dx[d] = Element((float(dy[d]) - float(x[d]) * turned) * times);
    to_factor[row] = along;
  });
}

Tensor unit(const Tensor& vectors, const Tensor& factor) {
  Tensor from = width_contiguous(vectors), out = at::empty(vectors.sizes(), vectors.options());
  is_half(from) ? unit_of<BFloat16>(from, factor, out) : unit_of<float>(from, factor, out);
  return out;
}

std::tuple<Tensor, Tensor> unit_backward(const Tensor& grad, const Tensor& vectors, const Tensor& factor) {
  Tensor from = width_contiguous(vectors), from_grad = width_contiguous(grad.to(vectors.scalar_type()));
  Tensor grad_vectors = at::empty(vectors.sizes(), vectors.options());
  Tensor grad_factor = at::empty(factor.sizes(), factor.options());
  is_half(from) ? unit_backward_of<BFloat16>(from_grad, from, factor, grad_vectors, grad_factor)
                : unit_backward_of<float>(from_grad, from, factor, grad_vectors, grad_factor);
  return {grad_vectors, grad_factor};
}

}  // namespace
