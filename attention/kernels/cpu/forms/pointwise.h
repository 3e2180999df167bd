// Pointwise: a weight is a function of its own score.
#pragma once
#include "rows.h"

template <class Functions>
struct Pointwise {
  static constexpr bool prepares = false, vanishes = false;

  template <bool biased, class Element>
  static float weights(const RowBlock& block, int row, Element* out) {
    visit_row<biased>(block, row, [&](int column, vec score, auto visible) {
      store(out + column, keep(Functions::weight(score), visible));
    });
    return 1.f;
  }

  struct Row {
    Row(const Tile&, int) {}
    template <class Element, class Visible>
    void gradients(vec score, vec grad_weight, Visible visible, vec& weight, vec& grad_score) const {
      vec value = Functions::weight(score);
      weight = keep(value, visible);
      grad_score = keep(Functions::weight_derivative(score, value) * grad_weight, visible);
    }
  };
};
