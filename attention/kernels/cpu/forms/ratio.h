// Ratio: numerators over a sum of denominators.
#pragma once
#include "rows.h"

#include <type_traits>

template <class Functions>
struct Ratio {
  static constexpr bool prepares = Functions::steep, vanishes = false;

  template <bool biased, class Element>
  static float weights(const RowBlock& block, int row, Element* out) {
    float pivot = 0;
    if constexpr (Functions::pivoted) pivot = largest_score<biased>(block, row, Functions::pivot_floor);
    vec total = broadcast(0.f), wide_pivot = broadcast(pivot);
    visit_row<biased>(block, row, [&](int column, vec score, auto visible) {
      auto terms = Functions::terms(score, wide_pivot);
      vec numerator = rounded<Element>(terms.first);
      store(out + column, keep(numerator, visible));
      // The sum follows the numerators' rounding, so that rows keep their mass: gradients live on it.
      total += keep(terms.second + (numerator - terms.first), visible);
    });
    float mass = sum(total) + Functions::offset(wide_pivot)[0];
    statistic(block, PIVOT, row) = pivot;
    return statistic(block, SCALE, row) = 1.f / (mass == 0.f ? 1.f : mass);
  }

  struct Row {
    vec pivot, scale, delta, shift, mean;
    ivec alone;  // of one key: dP less its mean is nothing but rounding, unless both have the same digits
    Row(const Tile& tile, int query)
        : pivot(load(tile.statistics + PIVOT * tile.statistics_stride + query)),
          scale(load(tile.statistics + SCALE * tile.statistics_stride + query)),
          delta(load(tile.delta + query)),
          shift(load(tile.statistics + SHIFT * tile.statistics_stride + query)),
          mean(delta - shift),
          alone(load(tile.count + query) == 1.f) {}
    template <class Element, class Visible>
    void gradients(vec score, vec grad_weight, Visible visible, vec& weight, vec& grad_score) const {
      vec numerator = rounded<Element>(Functions::terms(score, pivot).first);
      auto derivatives = Functions::derivatives(score, pivot, numerator);
      weight = keep(numerator * scale, visible);
      vec slope;
      if constexpr (Functions::steep) {
        slope = derivatives.first * (grad_weight - delta + shift);
      } else {
        vec centre = mean;
        if constexpr (!std::is_same_v<Visible, Everything>) centre = where(alone, weight * grad_weight - shift, mean);
        if constexpr (Functions::one_derivatives)
          slope = derivatives.first * (grad_weight - centre);
        else
          slope = derivatives.first * grad_weight - derivatives.second * centre;
      }
      grad_score = keep(slope * scale, visible);
    }
    // Where terms are steep: adds one key to the sums over w and w dP', dP' = dP less a first guess of delta.
    template <class Visible>
    void prepare(vec score, vec grad_weight, Visible visible, vec (&sums)[PREPARED]) const {
      vec numerator = keep(Functions::terms(score, pivot).first, visible);
      sums[0] += numerator;
      sums[1] += numerator * (grad_weight - delta);
    }
    // delta is the mean of dP. Where few keys have all the weight nothing is left of dP less delta; what the gradient
    // then lives on comes apart: the offset takes its share of the mean, and there may be a gradient of the log mass.
    static void finish(const Tile& tile, int query, const vec (&sums)[PREPARED], float* delta, float* statistics) {
      vec pivot = load(tile.statistics + PIVOT * tile.statistics_stride + query);
      vec taken = Functions::offset(pivot) * load(tile.statistics + SCALE * tile.statistics_stride + query);
      vec change = sums[1] / where(sums[0] == 0.f, broadcast(1.f), sums[0]), mean = load(delta + query) + change;
      store(delta + query, mean);
      store(statistics + SHIFT * tile.statistics_stride + query, taken * mean);
    }
  };
};
