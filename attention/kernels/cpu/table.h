// What the engine knows of a mechanism: functions on blocks of rows and on tiles, compiled from its formulas.
#pragma once
#include <cstdint>

constexpr int MAXIMUM_STATISTICS = 5;
constexpr int PREPARED = 5;
// The statistics of a Ratio: what numerators are scaled by, one over the row's mass, and what the backward pass adds to dP
// less delta.
enum { PIVOT, SCALE, SHIFT };

// Query rows against consecutive keys, each row with all the keys it sees. On entry `score` times `scale` are the products,
// with noise where there is any.
struct RowBlock {
  float* score;  // [rows, stride]
  int64_t stride;
  int rows, columns;        // columns: a multiple of LANES
  const int32_t* first;     // visible columns [first, last) of each row
  const int32_t* last;
  float scale;
  const float* query_bias;  // [rows]; null, as key_bias, where scores have no bias at all
  const float* key_bias;    // [columns]
  float slope;
  const float* position;    // [rows], query position minus that of column 0
  uint8_t* occupied;        // [columns / LANES], set where a row has weights that are not zero; null, as scratch, where the
  float* scratch;           // form does not vanish; [columns]
  float* statistics;        // [MAXIMUM_STATISTICS, statistics_stride], a column per row
  int64_t statistics_stride;
};

// One key per row, one query per column. On entry `score` times `scale` as above, and `grad_weight` value . grad_out.
struct Tile {
  float* score;  // [keys, queries]
  float* grad_weight;
  int keys, queries;     // multiples of 2 and LANES
  bool partly_hidden;
  int first_key;         // of the tile, counted as `first`, `last` and `position` count
  const int32_t* first;  // [queries], the keys [first, last) each query sees
  const int32_t* last;
  float scale, grad_scale;
  const float* query_bias;
  const float* key_bias;
  float slope;
  const float* position;
  const float* count;    // [queries], number of visible keys
  const float* delta;    // [queries], sum of weight times its gradient
  const float* statistics;
  int64_t statistics_stride;
  float* sums;             // [PREPARED, statistics_stride], of `prepare`
  float* grad_query_bias;  // [queries], added to; null where no bias has a gradient
  float* grad_key_bias;    // [keys, LANES], added to: what is left to sum over the lanes; null where keys have no bias
};

struct Mechanism {
  // Weights are often zero, and gradients are where weights are: `weights` tells where it found any.
  bool vanishes;
  // Unnormalised weights of whole rows, zero where hidden and up to `columns`, and each row's normalisation.
  void (*weights)(const RowBlock&, float* weight, float* row_scale);
  void (*weights_bfloat16)(const RowBlock&, uint16_t* weight, int64_t stride, float* row_scale);
  // Where gradients need a row statistic that depends on the gradient of the weights, else null: sums over all tiles,
  // and from them delta and the statistic.
  void (*prepare)(const Tile&);
  void (*finish)(const Tile&, float* delta, float* statistics);
  // Weights and score gradients times `grad_scale` of a tile: in place, or as bfloat16 with the gradients also in pairs of keys
  // [keys / 2, queries, 2].
  void (*gradients)(const Tile&);
  void (*gradients_bfloat16)(const Tile&, uint16_t* weight, uint16_t* grad_score, uint16_t* grad_score_pairs);
};
