// Row functions, one class per form of mechanism; `Functions` holds the pointwise functions of one mechanism.
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
      vec apart = distance - (__builtin_convertvector(lanes(), vec) + float(column));
      score = score + row_bias + load(block.key_bias + column) + block.slope * apart;
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

template <class Functions>
struct Pointwise {
  static constexpr bool prepares = false;

  template <bool biased, class Element>
  static float weights(const RowBlock& block, int row, Element* out) {
    visit_row<biased>(block, row, [&](int column, vec score, auto visible) {
      store(out + column, keep(Functions::weight(score), visible));
    });
    return 1.f;
  }

  template <bool biased>
  static void prepare(const RowBlock&, int, const float*, float) {}

  struct Row {
    Row(const Tile&, int) {}
    template <class Visible>
    void gradients(vec score, vec grad_weight, Visible visible, vec& weight, vec& grad_score) const {
      vec value = Functions::weight(score);
      weight = keep(value, visible);
      grad_score = keep(Functions::weight_derivative(score, value) * grad_weight, visible);
    }
  };
};

template <class Functions>
struct Ratio {
  static constexpr bool prepares = false;
  enum { PIVOT, SCALE };

  template <bool biased, class Element>
  static float weights(const RowBlock& block, int row, Element* out) {
    float pivot = 0;
    if constexpr (Functions::pivoted) {
      vec most = broadcast(Functions::pivot_floor);
      visit_row<biased>(block, row, [&](int, vec score, auto visible) {
        most = maximum(keep_or(score, visible, -INFINITY), most);
      });
      pivot = largest(most);
      if (pivot == -INFINITY) pivot = 0;
    }
    vec total = broadcast(0.f), wide_pivot = broadcast(pivot);
    visit_row<biased>(block, row, [&](int column, vec score, auto visible) {
      auto terms = Functions::terms(score, wide_pivot);
      store(out + column, keep(terms.first, visible));
      total += keep(terms.second, visible);
    });
    float mass = sum(total) + Functions::offset(wide_pivot)[0];
    statistic(block, PIVOT, row) = pivot;
    return statistic(block, SCALE, row) = 1.f / (mass == 0.f ? 1.f : mass);
  }

  template <bool biased>
  static void prepare(const RowBlock&, int, const float*, float) {}

  struct Row {
    vec pivot, scale, delta;
    Row(const Tile& tile, int query)
        : pivot(load(tile.statistics + PIVOT * tile.statistics_stride + query)),
          scale(load(tile.statistics + SCALE * tile.statistics_stride + query)),
          delta(load(tile.delta + query)) {}
    template <class Visible>
    void gradients(vec score, vec grad_weight, Visible visible, vec& weight, vec& grad_score) const {
      vec numerator = Functions::terms(score, pivot).first;
      auto derivatives = Functions::derivatives(score, pivot, numerator);
      vec slope = Functions::one_derivative ? derivatives.first * (grad_weight - delta)
                                            : derivatives.first * grad_weight - derivatives.second * delta;
      weight = keep(numerator * scale, visible);
      grad_score = keep(slope * scale, visible);
    }
  };
};

template <class Functions>
struct TwoStage {
  static constexpr bool prepares = true;
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
      vec second = keep(Functions::second(load(relative + column) * unit, wide_largest, wide_count), visible);
      store(out + column, second);
      total += second;
    }
    float mass = sum(total);
    statistic(block, UNIT, row) = unit;
    statistic(block, LARGEST, row) = largest_relative;
    return statistic(block, SCALE, row) = 1.f / (mass == 0.f ? 1.f : mass);
  }

  // mean = sum_k dU_k u_k / n
  template <bool biased>
  static void prepare(const RowBlock& block, int row, const float* grad_weight, float delta) {
    float count = float(block.last[row] - block.first[row]), unit = statistic(block, UNIT, row);
    vec wide_largest = broadcast(statistic(block, LARGEST, row)), wide_count = broadcast(count);
    vec total = broadcast(0.f);
    visit_row<biased>(block, row, [&](int column, vec score, auto visible) {
      vec relative = Functions::first(score) * unit;
      vec slope = Functions::second_derivative(relative, wide_largest, wide_count);
      total += keep(slope * (load(grad_weight + column) - delta) * relative, visible);
    });
    statistic(block, MEAN, row) = count > 0 ? sum(total) * statistic(block, SCALE, row) / count : 0.f;
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
    template <class Visible>
    void gradients(vec score, vec grad_weight, Visible visible, vec& weight, vec& grad_score) const {
      vec relative = Functions::first(score) * unit;
      vec grad_relative = Functions::second_derivative(relative, most, count) * (grad_weight - delta) * scale;
      weight = keep(Functions::second(relative, most, count) * scale, visible);
      grad_score = keep((grad_relative - mean) * Functions::first_derivative(score) * unit, visible);
    }
  };
};

enum class Biases { none, constant, learned };

template <class Form>
struct Compiled {
  template <class Element>
  static void weights(const RowBlock& block, Element* out, int64_t stride, float* row_scale) {
    for (int row = 0; row < block.rows; row++) {
      Element* here = out + row * stride;
      row_scale[row] = block.key_bias ? Form::template weights<true>(block, row, here)
                                      : Form::template weights<false>(block, row, here);
      clear_hidden(block, row, here);
    }
  }
  static void weights_float(const RowBlock& block, float* out, float* row_scale) {
    weights(block, out, block.stride, row_scale);
  }

  static void prepare(const RowBlock& block, const float* grad_weight, const float* delta) {
    for (int row = 0; row < block.rows; row++) {
      const float* here = grad_weight + row * block.stride;
      block.key_bias ? Form::template prepare<true>(block, row, here, delta[row])
                     : Form::template prepare<false>(block, row, here, delta[row]);
    }
  }

  // Weight and score gradient of one key and sixteen queries.
  template <Biases biases, bool partly_hidden>
  static void entry(const Tile& tile, const typename Form::Row& row, int key, int query, vec& weight, vec& grad) {
    int at = key * tile.queries + query, place = tile.first_key + key;
    vec score = load(tile.score + at) * tile.scale;
    if constexpr (biases != Biases::none) {
      vec apart = load(tile.position + query) - float(place);
      score = score + load(tile.query_bias + query) + tile.key_bias[key] + tile.slope * apart;
    }
    vec grad_weight = load(tile.grad_weight + at);
    if constexpr (partly_hidden) {
      ivec visible = (load(tile.first + query) <= place) & (load(tile.last + query) > place);
      row.gradients(score, grad_weight, visible, weight, grad);
    } else {
      row.gradients(score, grad_weight, Everything{}, weight, grad);
    }
    if constexpr (biases == Biases::learned) {
      store(tile.grad_query_bias + query, load(tile.grad_query_bias + query) + grad);
      tile.grad_key_bias[key] += sum(grad);
    }
    grad *= tile.scale;
  }

  template <Biases biases, bool partly_hidden>
  static void tile(const Tile& tile) {
    for (int query = 0; query < tile.queries; query += LANES) {
      typename Form::Row row(tile, query);
      for (int key = 0; key < tile.keys; key++) {
        vec weight, grad;
        entry<biases, partly_hidden>(tile, row, key, query, weight, grad);
        store(tile.score + key * tile.queries + query, weight);
        store(tile.grad_weight + key * tile.queries + query, grad);
      }
    }
  }

  template <Biases biases, bool partly_hidden>
  static void tile(const Tile& tile, uint16_t* weights, uint16_t* grads, uint16_t* pairs) {
    for (int query = 0; query < tile.queries; query += LANES) {
      typename Form::Row row(tile, query);
      for (int key = 0; key < tile.keys; key += 2) {
        vec weight, even, odd;
        int at = key * tile.queries + query;
        entry<biases, partly_hidden>(tile, row, key, query, weight, even);
        store(weights + at, weight);
        entry<biases, partly_hidden>(tile, row, key + 1, query, weight, odd);
        store(weights + at + tile.queries, weight);
        store(grads + at, even);
        store(grads + at + tile.queries, odd);
        store_pairs(pairs + key * tile.queries + 2 * query, even, odd);
      }
    }
  }

  template <Biases biases, class... Outputs>
  static void masked(const Tile& of, Outputs... outputs) {
    of.partly_hidden ? tile<biases, true>(of, outputs...) : tile<biases, false>(of, outputs...);
  }
  template <class... Outputs>
  static void gradients(const Tile& of, Outputs... outputs) {
    if (of.grad_key_bias)
      masked<Biases::learned>(of, outputs...);
    else if (of.key_bias)
      masked<Biases::constant>(of, outputs...);
    else
      masked<Biases::none>(of, outputs...);
  }

  static const Mechanism* table() {
    static const Mechanism mechanism = {Form::prepares, weights_float, weights<uint16_t>, prepare, gradients<>,
                                        gradients<uint16_t*, uint16_t*, uint16_t*>};
    return &mechanism;
  }
};
