// Threshold: weights of what stands above the number at which a row sums to one.
#pragma once
#include "rows.h"

template <class Functions>
struct Threshold {
  static constexpr bool prepares = true, vanishes = true;
  enum { LARGEST, TAU, SCALE };
  static constexpr int NEWTON_STEPS = 100;  // never reached

  // weights(score - largest - tau), from the few scores above largest - 1, where tau begins.
  template <bool biased, class Element>
  static float weights(const RowBlock& block, int row, Element* out) {
    float most = largest_score<biased>(block, row, -INFINITY);
    int count = 0;
    visit_row<biased>(block, row, [&](int, vec score, auto visible) {
      vec below = keep_or(score - most, visible, -2.f);
      ivec chosen = below > -1.f;
      if (any(chosen)) count += compress(block.scratch + count, below, chosen);
    });
    float tau = threshold(block.scratch, count);
    vec total = broadcast(0.f);
    visit_row<biased>(block, row, [&](int column, vec score, auto visible) {
      vec weight = keep(rounded<Element>(Functions::weight(score - most - tau)), visible);
      store(out + column, weight);
      total += weight;
      block.occupied[column / LANES] |= any(weight != 0.f);
    });
    float mass = sum(total);
    statistic(block, LARGEST, row) = most;
    statistic(block, TAU, row) = tau;
    return statistic(block, SCALE, row) = 1.f / (mass == 0.f ? 1.f : mass);
  }

  // Newton's method from -1: sum of weight(score - tau) = 1, a sum that is convex in tau.
  static float threshold(float* score, int count) {
    store(score + count, broadcast(-2.f));
    float tau = -1.f;
    for (int step = 0; step < NEWTON_STEPS; step++) {
      vec total = broadcast(0.f), slope = broadcast(0.f);
      for (int place = 0; place < count; place += LANES) {
        vec excess = load(score + place) - tau, weight = Functions::weight(excess);
        total += weight;
        slope += Functions::weight_derivative(excess, weight);
      }
      float next = tau + (sum(total) - 1.f) / sum(slope);
      if (!(next > tau)) break;
      tau = next;
    }
    return tau;
  }

  struct Row {
    vec most, tau, scale, delta;
    Row(const Tile& tile, int query)
        : most(load(tile.statistics + LARGEST * tile.statistics_stride + query)),
          tau(load(tile.statistics + TAU * tile.statistics_stride + query)),
          scale(load(tile.statistics + SCALE * tile.statistics_stride + query)),
          delta(load(tile.delta + query)) {}
    template <class Element, class Visible>
    void gradients(vec score, vec grad_weight, Visible visible, vec& weight, vec& grad_score) const {
      vec excess = score - most - tau, value = Functions::weight(excess);
      weight = keep(rounded<Element>(value) * scale, visible);
      grad_score = keep(Functions::weight_derivative(excess, value) * (grad_weight - delta), visible);
    }
    // Adds one key to the sums over u and u dP', u = weight', dP' = dP less a first guess of delta.
    template <class Visible>
    void prepare(vec score, vec grad_weight, Visible visible, vec (&sums)[PREPARED]) const {
      vec excess = score - most - tau;
      vec slope = keep(Functions::weight_derivative(excess, Functions::weight(excess)), visible);
      sums[0] += slope;
      sums[1] += slope * (grad_weight - delta);
    }
    // delta = sum_k u_k dP_k / sum_k u_k.
    static void finish(const Tile&, int query, const vec (&sums)[PREPARED], float* delta, float*) {
      store(delta + query, load(delta + query) + sums[1] / where(sums[0] == 0.f, broadcast(1.f), sums[0]));
    }
  };
};
