// TwoStage: rows are normalised, re-weighted and normalised again.
#pragma once
#include "rows.h"

template <class Functions>
struct TwoStage {
  static constexpr bool prepares = true, vanishes = false;
  enum { UNIT, LARGEST, SCALE, MEAN };

  template <bool biased, class Element>
  static float weights(const RowBlock& block, int row, Element* out) {
    float* relative = block.score + row * block.stride;
    float count = float(block.last[row] - block.first[row]);
    vec total = broadcast(0.f), most = broadcast(0.f);
    visit_row<biased>(block, row, [&](int column, vec score, auto visible) {
      vec first = keep(Functions::first(score), visible);
      store(relative + column, first);
      total += first;
      most = maximum(first, most);
    });
    float unit = count / (sum(total) + Functions::epsilon), largest_relative = largest(most) * unit;
    vec wide_largest = broadcast(largest_relative), wide_count = broadcast(count);
    total = broadcast(0.f);
    for (int column = block.first[row] & ~(LANES - 1); column < block.last[row]; column += LANES) {
      ivec place = lanes() + column;
      ivec visible = (place >= block.first[row]) & (place < block.last[row]);
      vec second = Functions::second(load(relative + column) * unit, wide_largest, wide_count);
      second = keep(rounded<Element>(second), visible);
      store(out + column, second);
      total += second;
    }
    float mass = sum(total);
    statistic(block, UNIT, row) = unit;
    statistic(block, LARGEST, row) = largest_relative;
    return statistic(block, SCALE, row) = 1.f / (mass == 0.f ? 1.f : mass);
  }

  struct Row {
    vec unit, most, scale, mean, delta, count;
    Row(const Tile& tile, int query)
        : unit(load(tile.statistics + UNIT * tile.statistics_stride + query)),
          most(load(tile.statistics + LARGEST * tile.statistics_stride + query)),
          scale(load(tile.statistics + SCALE * tile.statistics_stride + query)),
          mean(load(tile.statistics + MEAN * tile.statistics_stride + query)),
          delta(load(tile.delta + query)),
          count(load(tile.count + query)) {}
    template <class Element, class Visible>
    void gradients(vec score, vec grad_weight, Visible visible, vec& weight, vec& grad_score) const {
      vec relative = Functions::first(score) * unit;
      vec grad_relative = Functions::second_derivative(relative, most, count) * (grad_weight - delta) * scale;
      weight = keep(Functions::second(relative, most, count) * scale, visible);
      grad_score = keep((grad_relative - mean) * Functions::first_derivative(score) * unit, visible);
    }
    // Adds one key to the sums over second, second dP', second' u dP' and second' u, dP' = dP less a first guess of
    // delta, since differences are what counts.
    template <class Visible>
    void prepare(vec score, vec grad_weight, Visible visible, vec (&sums)[PREPARED]) const {
      vec relative = Functions::first(score) * unit;
      vec second = keep(Functions::second(relative, most, count), visible);
      vec slope = keep(Functions::second_derivative(relative, most, count) * relative, visible);
      sums[0] += second;
      sums[1] += keep(second * (grad_weight - delta), visible);
      sums[2] += keep(slope * (grad_weight - delta), visible);
      sums[3] += slope;
    }
    // delta = sum_k w_k dP_k and the mean over n of dU_k u_k, dU_k = second'(u_k) (dP_k - delta) / sum second. The sum
    // is taken anew, since a high power makes much of the last bit in which these scores differ from the forward pass's.
    static void finish(const Tile& tile, int query, const vec (&sums)[PREPARED], float* delta, float* statistics) {
      vec scale = 1.f / where(sums[0] == 0.f, broadcast(1.f), sums[0]), change = sums[1] * scale;
      vec mean = (sums[2] - change * sums[3]) * scale / maximum(load(tile.count + query), broadcast(1.f));
      store(delta + query, load(delta + query) + change);
      store(statistics + SCALE * tile.statistics_stride + query, scale);
      store(statistics + MEAN * tile.statistics_stride + query, mean);
    }
  };
};
