// The table of a mechanism, from the class of its form: loops over rows and tiles around the form's functions.
#pragma once
#include "rows.h"

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

  // visit(score, grad_weight, visible) for one key and LANES queries.
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
        made.prepare = specialised<Prepare>;
        made.finish = finish;
      }
      return made;
    }();
    return &mechanism;
  }
};
