// Row blocks: query rows against the keys that they see.
#pragma once
#include "engine/operands.h"
#include "engine/products.h"
#include "simd.h"

#include <algorithm>
#include <utility>

namespace {

// The keys that some row of a block sees, [low, high); empty as low == high.
std::pair<int64_t, int64_t> seen(const int32_t* first, const int32_t* last, int64_t rows) {
  int64_t low = INT32_MAX, high = 0;
  for (int64_t row = 0; row < rows; row++) {
    if (first[row] >= last[row]) continue;
    low = std::min<int64_t>(low, first[row]);
    high = std::max<int64_t>(high, last[row]);
  }
  return {std::min(low, high), high};
}

// Memory of one thread that computes row blocks.
template <class Element>
struct RowSpace {
  Buffer<float> score, out, bias, row_scale, row_bias, position, scratch;
  Buffer<Element> query, weight;
  Buffer<uint8_t> occupied;
  Buffer<int32_t> first, last;
  int64_t stride;

  RowSpace(const Shape& shape, int64_t rows, int64_t width)
      : stride(round_up(width, KEYS) + KEYS + LANES) {
    score.resize(rows * stride);
    if (paired<Element>) weight.resize(rows * stride);
    query.resize(rows * shape.padded_dim);
    out.resize(rows * shape.padded_value);
    bias.resize(stride);
    scratch.resize(stride);
    occupied.resize(stride / LANES);
    for (auto* per_row : {&row_scale, &row_bias, &position}) per_row->resize(rows);
    first.resize(rows);
    last.resize(rows);
  }
};

// Describes rows [start, start + rows) of head h against keys from `low` on.
template <class Element>
RowBlock describe(const Scoring& scoring, RowSpace<Element>& space, int64_t b, int64_t h, int64_t start, int64_t rows,
                  int64_t low, int64_t columns, int64_t keys, float* statistics, int64_t statistics_stride) {
  const int32_t *first = scoring.first_of(b) + start, *last = scoring.last_of(b) + start;
  for (int64_t row = 0; row < rows; row++) {
    bool empty = first[row] >= last[row];
    space.first[row] = empty ? 0 : first[row] - low;
    space.last[row] = empty ? 0 : last[row] - low;
  }
  RowBlock block{};
  block.score = space.score.data();
  block.stride = space.stride;
  block.rows = rows;
  block.columns = columns;
  block.first = space.first.data();
  block.last = space.last.data();
  block.scale = scoring.scale;
  block.scratch = space.scratch.data();
  block.occupied = space.occupied.data();
  block.statistics = statistics + start;
  block.statistics_stride = statistics_stride;
  if (scoring.biased) {
    for (int64_t row = 0; row < rows; row++) {
      space.row_bias[row] = scoring.query_bias.data ? *scoring.query_bias.at(b, start + row, h) : 0.f;
      space.position[row] = float(scoring.position[start + row] - low);
    }
    for (int64_t column = 0; column < columns; column++)
      space.bias[column] =
          scoring.key_bias.data && low + column < keys ? *scoring.key_bias.at(b, low + column, h) : 0.f;
    block.query_bias = space.row_bias.data();
    block.key_bias = space.bias.data();
    block.position = space.position.data();
    block.slope = scoring.slope ? scoring.slope[h] : 0.f;
  }
  return block;
}

// Products become scores with noise.
inline void add_noise(const Scoring& scoring, RowBlock& block, int64_t b, int64_t h, int64_t start, int64_t low) {
  for (int row = 0; row < block.rows; row++) {
    float* score = block.score + row * block.stride;
    uvec position = uvec{} + uint32_t(scoring.position[start + row]);
    for (int column = block.first[row] & ~(LANES - 1); column < block.last[row]; column += LANES)
      store(score + column, load(score + column) * block.scale +
                                scoring.noise(uvec(lanes()) + uint32_t(low + column), position, h, b));
  }
  block.scale = 1.f;
}

// Keys or values of one head as the right side of products with queries: blocks of `block` transposed rows.
template <class Element>
void products(int64_t rows, const Element* left, int64_t depth, const Element* packed, int64_t block, int64_t low,
              int64_t columns, float* out, int64_t stride) {
  for (int64_t column = 0; column < columns;) {
    int64_t key = low + column, inside = key % block;
    bool wide = inside == 0 && columns - column >= WIDE_KEYS;
    int64_t width = wide ? WIDE_KEYS : KEYS;
    const Element* right = packed + (key - inside) * depth + inside * (paired<Element> ? 2 : 1);
    multiply(rows, width, depth, left, depth, right, block, out + column, stride, false);
    column += width;
  }
}

}  // namespace
