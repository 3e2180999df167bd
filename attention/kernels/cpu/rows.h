// What the row functions of all forms share. A form is one class in forms/; its `Functions` are the pointwise functions of
// one mechanism.
#pragma once
#include "simd.h"
#include "table.h"

struct Everything {};  // no entry of a vector is hidden
inline vec keep(vec x, Everything) { return x; }
inline vec keep(vec x, ivec visible) { return from_bits(bits(x) & visible); }
inline vec keep_or(vec x, Everything, float) { return x; }
inline vec keep_or(vec x, ivec visible, float hidden) { return visible ? x : broadcast(hidden); }

inline float& statistic(const RowBlock& block, int which, int row) {
  return block.statistics[which * block.statistics_stride + row];
}

// visit(column, score, visible) for each vector of row `row` that has a visible entry.
template <bool biased, class Visit>
inline void visit_row(const RowBlock& block, int row, Visit visit) {
  const float* product = block.score + row * block.stride;
  int first = block.first[row], last = block.last[row];
  vec row_bias = broadcast(biased ? block.query_bias[row] : 0.f);
  vec distance = broadcast(biased ? block.position[row] : 0.f);
  for (int column = first & ~(LANES - 1); column < last; column += LANES) {
    vec score = load(product + column) * block.scale;
    if constexpr (biased) {
      score = score + row_bias + load(block.key_bias + column);
      if (block.slope != 0.f)
        score = score + block.slope * (distance - (__builtin_convertvector(lanes(), vec) + float(column)));
    }
    if (column >= first && column + LANES <= last) {
      visit(column, score, Everything{});
    } else {
      ivec place = lanes() + column;
      visit(column, score, (place >= first) & (place < last));
    }
  }
}

// Stores of weights: float in place, or bfloat16.
template <class Element>
inline void clear_hidden(const RowBlock& block, int row, Element* weight) {
  int first = block.first[row] & ~(LANES - 1), last = (block.last[row] + LANES - 1) & ~(LANES - 1);
  if (block.first[row] >= block.last[row]) first = last = 0;
  std::memset(weight, 0, sizeof(Element) * first);
  std::memset(weight + last, 0, sizeof(Element) * (block.columns - last));
}

template <bool biased>
inline float largest_score(const RowBlock& block, int row, float floor) {
  vec most = broadcast(floor);
  visit_row<biased>(block, row, [&](int, vec score, auto visible) {
    most = maximum(keep_or(score, visible, -INFINITY), most);
  });
  float found = largest(most);
  return found == -INFINITY ? 0.f : found;
}
