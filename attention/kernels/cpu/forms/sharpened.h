// Sharpened: softmax of scores that a function of the row's own entropy multiplies.
#pragma once
#include "rows.h"

template <class Functions>
struct Sharpened {
  static constexpr bool prepares = true, vanishes = false;
  // Of the softmax before it is sharpened: one over its sum, and its mean of s - max s. `finish` makes of the first what
  // the gradient through the entropy is multiplied by.
  enum { HIGHEST, BETA, SCALE, INVERSE, MEAN };

  template <bool biased, class Element>
  static float weights(const RowBlock& block, int row, Element* out) {
    float highest = largest_score<biased>(block, row, -INFINITY);
    vec most = broadcast(highest), total = broadcast(0.f), moment = broadcast(0.f);
    visit_row<biased>(block, row, [&](int, vec score, auto visible) {
      vec distance = keep(below(score, most), visible), exponential = keep(exp(distance), visible);
      total += exponential;
      moment += exponential * distance;
    });
    float mass = sum(total), inverse = 1.f / (mass == 0.f ? 1.f : mass), mean = sum(moment) * inverse;
    float beta = Functions::sharpness(entropy(broadcast(inverse), broadcast(mean)))[0];
    total = broadcast(0.f);
    visit_row<biased>(block, row, [&](int column, vec score, auto visible) {
      vec weight = keep(rounded<Element>(exp(below(score, most) * beta)), visible);
      store(out + column, weight);
      total += weight;
    });
    mass = sum(total);
    statistic(block, HIGHEST, row) = highest;
    statistic(block, BETA, row) = beta;
    statistic(block, INVERSE, row) = inverse;
    statistic(block, MEAN, row) = mean;
    return statistic(block, SCALE, row) = 1.f / (mass == 0.f ? 1.f : mass);
  }

  // A smaller difference has no weight, and would be infinite times nothing where scores are huge.
  static vec below(vec score, vec most) { return maximum(score - most, broadcast(Functions::least)); }
  static vec entropy(vec inverse, vec mean) { return -log(inverse) - mean; }

  struct Row {
    vec most, beta, scale, through, mean, delta;
    Row(const Tile& tile, int query)
        : most(load(tile.statistics + HIGHEST * tile.statistics_stride + query)),
          beta(load(tile.statistics + BETA * tile.statistics_stride + query)),
          scale(load(tile.statistics + SCALE * tile.statistics_stride + query)),
          through(load(tile.statistics + INVERSE * tile.statistics_stride + query)),
          mean(load(tile.statistics + MEAN * tile.statistics_stride + query)),
          delta(load(tile.delta + query)) {}
    template <class Element, class Visible>
    void gradients(vec score, vec grad_weight, Visible visible, vec& weight, vec& grad_score) const {
      vec distance = below(score, most);
      weight = keep(rounded<Element>(exp(distance * beta)) * scale, visible);
      vec slope = beta * weight * (grad_weight - delta);
      grad_score = keep(slope - through * exp(distance) * (distance - mean), visible);
    }
    // Adds one key to the sums over w, w dP', w (s - max s) and w dP' (s - max s), dP' = dP less a first guess of delta.
    template <class Visible>
    void prepare(vec score, vec grad_weight, Visible visible, vec (&sums)[PREPARED]) const {
      vec distance = keep(below(score, most), visible), weight = keep(exp(distance * beta) * scale, visible);
      vec change = keep(weight * (grad_weight - delta), visible);
      sums[0] += weight;
      sums[1] += change;
      sums[2] += weight * distance;
      sums[3] += change * distance;
    }
    // delta = sum_k w_k dP_k, and the gradient of the entropy, sharpness'(H) sum_k w_k (dP_k - delta) (s_k - max s).
    static void finish(const Tile& tile, int query, const vec (&sums)[PREPARED], float* delta, float* statistics) {
      vec change = sums[1] / where(sums[0] == 0.f, broadcast(1.f), sums[0]);
      store(delta + query, load(delta + query) + change);
      vec inverse = load(tile.statistics + INVERSE * tile.statistics_stride + query);
      vec mean = load(tile.statistics + MEAN * tile.statistics_stride + query);
      vec slope = Functions::sharpness_derivative(entropy(inverse, mean));
      store(statistics + INVERSE * tile.statistics_stride + query, slope * (sums[3] - change * sums[2]) * inverse);
    }
  };
};
