// Adjusted: softmax, changed by the score itself and by the extremes of its row.
#pragma once
#include "rows.h"

template <class Functions>
struct Adjusted {
  static constexpr bool prepares = true, vanishes = false;
  enum { HIGHEST, LOWEST, INVERSE, THROUGH_LOWEST, THROUGH_HIGHEST };

  template <bool biased, class Element>
  static float weights(const RowBlock& block, int row, Element* out) {
    float most = largest_score<biased>(block, row, -INFINITY);
    vec least = broadcast(INFINITY), total = broadcast(0.f);
    visit_row<biased>(block, row, [&](int, vec score, auto visible) {
      least = minimum(keep_or(score, visible, INFINITY), least);
      total += keep(exp(score - most), visible);
    });
    float low = -largest(-least), mass = sum(total);
    if (low == INFINITY) low = 0.f;
    float inverse = 1.f / (mass == 0.f ? 1.f : mass);
    vec wide_low = broadcast(low), wide_most = broadcast(most);
    visit_row<biased>(block, row, [&](int column, vec score, auto visible) {
      store(out + column, keep(Functions::weight(score, exp(score - most) * inverse, wide_low, wide_most), visible));
    });
    statistic(block, HIGHEST, row) = most;
    statistic(block, LOWEST, row) = low;
    statistic(block, INVERSE, row) = inverse;
    return 1.f;
  }

  static ivec ties(vec score, vec extreme) { return abs(score - extreme) <= abs(extreme) * Functions::tied; }

  struct Row {
    vec most, low, inverse, through_low, through_most, delta;
    Row(const Tile& tile, int query)
        : most(load(tile.statistics + HIGHEST * tile.statistics_stride + query)),
          low(load(tile.statistics + LOWEST * tile.statistics_stride + query)),
          inverse(load(tile.statistics + INVERSE * tile.statistics_stride + query)),
          through_low(load(tile.statistics + THROUGH_LOWEST * tile.statistics_stride + query)),
          through_most(load(tile.statistics + THROUGH_HIGHEST * tile.statistics_stride + query)),
          delta(load(tile.delta + query)) {}
    template <class Element, class Visible>
    void gradients(vec score, vec grad_weight, Visible visible, vec& weight, vec& grad_score) const {
      ivec least = ties(score, low), largest = ties(score, most);
      score = snapped(score, least, largest);
      vec share = exp(score - most) * inverse;
      auto by = Functions::weight_derivatives(score, share, low, most);
      vec grad_explicit = by.first * grad_weight;
      grad_explicit += where(least, through_low, broadcast(0.f));
      grad_explicit += where(largest, through_most, broadcast(0.f));
      weight = keep(Functions::weight(score, share, low, most), visible);
      grad_score = keep(share * (by.second * grad_weight - delta) + grad_explicit, visible);
    }
    // Adds one key to the sums over p w_p dP, w_a dP, w_b dP and the numbers of keys that tie with the extremes.
    template <class Visible>
    void prepare(vec score, vec grad_weight, Visible visible, vec (&sums)[PREPARED]) const {
      ivec least = ties(score, low), largest = ties(score, most);
      score = snapped(score, least, largest);
      vec share = exp(score - most) * inverse;
      auto by = Functions::weight_derivatives(score, share, low, most);
      sums[0] += keep(share * (by.second * grad_weight), visible);
      sums[1] += keep(by.third * grad_weight, visible);
      sums[2] += keep(by.fourth * grad_weight, visible);
      sums[3] += keep(where(least, broadcast(1.f), broadcast(0.f)), visible);
      sums[4] += keep(where(largest, broadcast(1.f), broadcast(0.f)), visible);
    }
    // Scores differ from the forward pass's in a last bit; one that ties with an extreme is that extreme.
    vec snapped(vec score, ivec least, ivec largest) const { return where(largest, most, where(least, low, score)); }
    static void finish(const Tile& tile, int query, const vec (&sums)[PREPARED], float* delta, float* statistics) {
      vec one = broadcast(1.f);
      store(delta + query, sums[0]);
      store(statistics + THROUGH_LOWEST * tile.statistics_stride + query, sums[1] / maximum(sums[3], one));
      store(statistics + THROUGH_HIGHEST * tile.statistics_stride + query, sums[2] / maximum(sums[4], one));
    }
  };
};
