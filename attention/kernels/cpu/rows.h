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

template <bool biased>
inline float largest_score(const RowBlock& block, int row, float floor) {
  vec most = broadcast(floor);
  visit_row<biased>(block, row, [&](int, vec score, auto visible) {
    most = maximum(keep_or(score, visible, -INFINITY), most);
  });
  float found = largest(most);
  return found == -INFINITY ? 0.f : found;
}

template <class Functions>
struct Ratio {
  static constexpr bool prepares = Functions::steep, shifts = Functions::steep, vanishes = false;

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
    vec pivot, scale, delta, shift;
    Row(const Tile& tile, int query)
        : pivot(load(tile.statistics + PIVOT * tile.statistics_stride + query)),
          scale(load(tile.statistics + SCALE * tile.statistics_stride + query)),
          delta(load(tile.delta + query)),
          shift(load(tile.statistics + SHIFT * tile.statistics_stride + query)) {}
    template <class Element, class Visible>
    void gradients(vec score, vec grad_weight, Visible visible, vec& weight, vec& grad_score) const {
      vec numerator = rounded<Element>(Functions::terms(score, pivot).first);
      auto derivatives = Functions::derivatives(score, pivot, numerator);
      vec centred = grad_weight - delta;
      if constexpr (Functions::steep) centred += shift;
      vec slope = Functions::one_derivatives ? derivatives.first * centred
                                            : derivatives.first * grad_weight - derivatives.second * delta;
      weight = keep(numerator * scale, visible);
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

template <class Functions>
struct TwoStage {
  static constexpr bool prepares = true, shifts = false, vanishes = false;
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

template <class Functions>
struct Threshold {
  static constexpr bool prepares = true, shifts = false, vanishes = true;
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

template <class Functions>
struct Adjusted {
  static constexpr bool prepares = true, shifts = false, vanishes = false;
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

enum class Biases { none, constant, of_queries, learned };  // the last two: with gradients

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

  // visit(score, grad_weight, visible) for one key and sixteen queries.
  template <Biases biases, bool partly_hidden, class Visit>
  static void visit_entry(const Tile& tile, int key, int query, Visit visit) {
    int at = key * tile.queries + query, place = tile.first_key + key;
    vec score = load(tile.score + at) * tile.scale;
    if constexpr (biases != Biases::none) {
      score = score + load(tile.query_bias + query) + tile.key_bias[key];
      if (tile.slope != 0.f) score = score + tile.slope * (load(tile.position + query) - float(place));
    }
    if constexpr (partly_hidden)
      visit(score, load(tile.grad_weight + at), (load(tile.first + query) <= place) & (load(tile.last + query) > place));
    else
      visit(score, load(tile.grad_weight + at), Everything{});
  }

  template <class Element, Biases biases, bool partly_hidden>
  static void entry(const Tile& tile, const typename Form::Row& row, int key, int query, vec& weight, vec& grad,
                    vec& row_sum) {
    visit_entry<biases, partly_hidden>(tile, key, query, [&](vec score, vec grad_weight, auto visible) {
      row.template gradients<Element>(score, grad_weight, visible, weight, grad);
    });
    if constexpr (biases >= Biases::of_queries) row_sum += grad;
    if constexpr (biases == Biases::learned)
      store(tile.grad_key_bias + key * LANES, load(tile.grad_key_bias + key * LANES) + grad);
    grad *= tile.grad_scale;
  }

  struct Prepare {
    template <Biases biases, bool partly_hidden>
    static void run(const Tile& tile) {
      for (int query = 0; query < tile.queries; query += LANES) {
        typename Form::Row row(tile, query);
        vec sums[PREPARED];
        for (int k = 0; k < PREPARED; k++) sums[k] = load(tile.sums + k * tile.statistics_stride + query);
        for (int key = 0; key < tile.keys; key++)
          visit_entry<biases, partly_hidden>(tile, key, query, [&](vec score, vec grad_weight, auto visible) {
            row.prepare(score, grad_weight, visible, sums);
          });
        for (int k = 0; k < PREPARED; k++) store(tile.sums + k * tile.statistics_stride + query, sums[k]);
      }
    }
  };
  static void finish(const Tile& tile, float* delta, float* statistics) {
    for (int query = 0; query < tile.queries; query += LANES) {
      vec sums[PREPARED];
      for (int k = 0; k < PREPARED; k++) sums[k] = load(tile.sums + k * tile.statistics_stride + query);
      Form::Row::finish(tile, query, sums, delta, statistics);
    }
  }

  struct Gradients {
    template <Biases biases, bool partly_hidden>
    static void run(const Tile& tile) {
      for (int query = 0; query < tile.queries; query += LANES) {
        typename Form::Row row(tile, query);
        vec row_sum = broadcast(0.f);
        for (int key = 0; key < tile.keys; key++) {
          vec weight, grad;
          entry<float, biases, partly_hidden>(tile, row, key, query, weight, grad, row_sum);
          store(tile.score + key * tile.queries + query, weight);
          store(tile.grad_weight + key * tile.queries + query, grad);
        }
        if constexpr (biases >= Biases::of_queries)
          store(tile.grad_query_bias + query, load(tile.grad_query_bias + query) + row_sum);
      }
    }

    template <Biases biases, bool partly_hidden>
    static void run(const Tile& tile, uint16_t* weights, uint16_t* grads, uint16_t* pairs) {
      for (int query = 0; query < tile.queries; query += LANES) {
        typename Form::Row row(tile, query);
        vec row_sum = broadcast(0.f);
        for (int key = 0; key < tile.keys; key += 2) {
          vec weight, even, odd;
          int at = key * tile.queries + query;
          entry<uint16_t, biases, partly_hidden>(tile, row, key, query, weight, even, row_sum);
          store(weights + at, weight);
          entry<uint16_t, biases, partly_hidden>(tile, row, key + 1, query, weight, odd, row_sum);
          store(weights + at + tile.queries, weight);
          store(grads + at, even);
          store(grads + at + tile.queries, odd);
          store_pairs(pairs + key * tile.queries + 2 * query, even, odd);
        }
        if constexpr (biases >= Biases::of_queries)
          store(tile.grad_query_bias + query, load(tile.grad_query_bias + query) + row_sum);
      }
    }
  };

  template <class Run, Biases biases, class... Outputs>
  static void masked(const Tile& tile, Outputs... outputs) {
    tile.partly_hidden ? Run::template run<biases, true>(tile, outputs...)
                       : Run::template run<biases, false>(tile, outputs...);
  }
  template <class Run, class... Outputs>
  static void specialised(const Tile& tile, Outputs... outputs) {
    if (tile.grad_key_bias)
      masked<Run, Biases::learned>(tile, outputs...);
    else if (tile.grad_query_bias)
      masked<Run, Biases::of_queries>(tile, outputs...);
    else if (tile.key_bias)
      masked<Run, Biases::constant>(tile, outputs...);
    else
      masked<Run, Biases::none>(tile, outputs...);
  }

  static const Mechanism* table() {
    static const Mechanism mechanism = [] {
      Mechanism made{};
      made.vanishes = Form::vanishes;
      made.weights = weights_float;
      made.weights_bfloat16 = weights<uint16_t>;
      made.gradients = specialised<Gradients>;
      made.gradients_bfloat16 = specialised<Gradients, uint16_t*, uint16_t*, uint16_t*>;
      if constexpr (Form::prepares) {
        made.shifts = Form::shifts;
        made.prepare = specialised<Prepare>;
        made.finish = finish;
      }
      return made;
    }();
    return &mechanism;
  }
};
