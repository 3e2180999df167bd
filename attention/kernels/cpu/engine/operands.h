// Operands: views of tensors, sizes, and all about scores but the products of queries and keys.
#pragma once
#include "engine/memory.h"
#include "noise.h"
#include "table.h"

#include <ATen/core/Tensor.h>

#include <optional>
#include <type_traits>

namespace {

// A strided [batch, length, heads, width] tensor, or one without width; width is contiguous.
template <class Element>
struct View {
  Element* data = nullptr;
  int64_t batch = 0, length = 0, head = 0;
  View() = default;
  explicit View(const Tensor& tensor)
      : data(static_cast<Element*>(tensor.data_ptr())),
        batch(tensor.stride(0)),
        length(tensor.stride(1)),
        head(tensor.stride(2)) {}
  Element* at(int64_t b, int64_t t, int64_t h) const { return data + b * batch + t * length + h * head; }
};

inline bool is_half(const Tensor& tensor) { return tensor.scalar_type() != at::kFloat; }

// Blocks and tiles are smaller where all keys or queries are few, in float32: short ones of half types were never tried.
struct Shape {
  int64_t batch, queries, keys, heads, key_heads, head_dim, value_dim;
  bool half;
  int64_t group, block_keys, tile_keys, tile_queries;
  int64_t padded_queries, padded_keys, padded_dim, padded_value;
  Shape(const Tensor& query, const Tensor& key, const Tensor& value)
      : batch(query.size(0)),
        queries(query.size(1)),
        keys(key.size(1)),
        heads(query.size(2)),
        key_heads(key.size(2)),
        head_dim(query.size(3)),
        value_dim(value.size(3)),
        half(is_half(query)),
        group(heads / key_heads),
        block_keys(half ? WIDE_KEYS : std::min(WIDE_KEYS, round_up(keys, KEYS))),
        tile_keys(half ? TILE_KEYS : std::min(TILE_KEYS, round_up(keys, SHORT))),
        tile_queries(half ? QUERIES : std::min(QUERIES, round_up(queries, SHORT))),
        padded_queries(round_up(queries, tile_queries)),
        padded_keys(round_up(keys, block_keys)),
        padded_dim(round_up(head_dim, half ? PAIRED : SHORT)),
        padded_value(round_up(value_dim, half ? PAIRED : SHORT)) {}
};

// Everything about scores but the products of queries and keys.
struct Scoring {
  float scale;
  bool biased;
  View<const float> query_bias, key_bias;
  const float* slope = nullptr;
  Noise noise;
  const int32_t *first, *last, *position;
  int64_t mask_stride;  // 0 where all sequences share a mask
  const int32_t* first_of(int64_t b) const { return first + b * mask_stride; }
  const int32_t* last_of(int64_t b) const { return last + b * mask_stride; }
};

Tensor width_contiguous(const Tensor& tensor) { return tensor.stride(-1) == 1 ? tensor : tensor.contiguous(); }

// Positions as the 32 bits that row functions read: too few of them, mostly, to be worth an operator.
Buffer<int32_t> narrowed(const Tensor& positions) {
  Tensor wide = positions.contiguous();
  Buffer<int32_t> narrow(wide.numel());
  std::copy_n(wide.const_data_ptr<int64_t>(), wide.numel(), narrow.data());
  return narrow;
}

struct Inputs {
  Tensor query, key, value;
  Buffer<int32_t> first, last, position;
  optional<Tensor> query_bias, key_bias, slope;
  Scoring scoring;

  Inputs(const Tensor& query_, const Tensor& key_, const Tensor& value_, const optional<Tensor>& query_bias_,
         const optional<Tensor>& key_bias_, const optional<Tensor>& slope_, const Tensor& first_, const Tensor& last_,
         const Tensor& position_, double scale, const optional<Tensor>& source, double amplitude)
      : query(width_contiguous(query_)),
        key(width_contiguous(key_)),
        value(width_contiguous(value_)),
        first(narrowed(first_)),
        last(narrowed(last_)),
        position(narrowed(position_)) {
    scoring.scale = static_cast<float>(scale);
    scoring.biased = query_bias_ || key_bias_ || slope_;
    if (query_bias_) {
      query_bias = query_bias_->to(at::kFloat);
      scoring.query_bias = View<const float>(*query_bias);
    }
    if (key_bias_) {
      key_bias = key_bias_->to(at::kFloat);
      scoring.key_bias = View<const float>(*key_bias);
    }
    if (slope_) {
      slope = slope_->to(at::kFloat).contiguous();
      scoring.slope = slope->const_data_ptr<float>();
    }
    if (source) {
      Tensor words = source->contiguous();
      const int64_t* word = words.const_data_ptr<int64_t>();
      scoring.noise = {true, uint64_t(word[0]), static_cast<float>(amplitude), uint32_t(word[1])};
    }
    scoring.first = first.data();
    scoring.last = last.data();
    scoring.position = position.data();
    scoring.mask_stride = first_.size(0) == 1 ? 0 : first_.size(1);
  }
};

// BFloat16 as the bits that simd.h works on.
template <class Element>
auto raw(Element* pointer) {
  if constexpr (std::is_same_v<std::remove_const_t<Element>, float>)
    return pointer;
  else
    return reinterpret_cast<std::conditional_t<std::is_const_v<Element>, const uint16_t*, uint16_t*>>(pointer);
}

}  // namespace
