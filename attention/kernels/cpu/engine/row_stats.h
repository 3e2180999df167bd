// Row statistics, as attention/statistics.py defines them: two sweeps over the weights of a row while they are in the
// cache. Numbers of a head are summed in one order, whatever the batch and the threads.
#pragma once
#include "engine/forward.h"
#include "engine/vectors.h"
#include "rows.h"

#include <bit>
#include <cfloat>

namespace {

// In the order of the names in attention/statistics.py.
enum { MASS, MAGNITUDE, ENTROPY, FIRST, ZEROS, SMALL, MAX_SCORE, OF_ROWS };
enum { RAW, RENORMALISED, CONTRIBUTED, OF_KEYS };

// Memory of one thread: the norms of a head's values, and what the rows of a block give the key of each column.
struct StatsSpace : RowSpace<float> {
  Buffer<float> norm, received[OF_KEYS];
  StatsSpace(const Shape& shape, const Blocks& blocks) : RowSpace<float>(shape, blocks.rows, blocks.width) {
    norm.resize(shape.padded_keys + KEYS);
    norm.fill(0.f);
    for (auto& of_key : received) of_key.resize(stride);
  }
};

// The largest |score|, by its bits: they are in the order of the numbers, and NaN is above all.
template <bool biased>
float largest_size(const RowBlock& block, int row) {
  ivec most{};
  visit_row<biased>(block, row, [&](int, vec score, auto visible) {
    ivec size = bits(keep(abs(score), visible));
    most = size > most ? size : most;
  });
  int32_t found = 0;
  for (int lane = 0; lane < LANES; lane++) found = std::max(found, most[lane]);
  return std::bit_cast<float>(found);
}

inline void add(float* to, vec x) { store(to, load(to) + x); }
inline float divisor(float x) { return x == 0.f ? 1.f : x; }

// `weights`: a block whose scores times its scale are the weights of the row. `norm`: of the values, by column.
void sum_up(const RowBlock& weights, int row, const float* norm, float small, float floor,
            const Buffer<float> (&received)[OF_KEYS], float (&found)[OF_ROWS]) {
  vec mass{}, magnitude{}, contribution{}, zeros{}, tiny{}, entropy{}, one = broadcast(1.f);
  visit_row<false>(weights, row, [&](int column, vec weight, auto visible) {
    vec size = abs(weight);
    mass += weight;
    magnitude += size;
    contribution += size * load(norm + column);
    zeros += keep(keep(one, size == 0.f), visible);
    tiny += keep(keep(one, size <= small), visible);
    add(received[RAW].data() + column, weight);
  });
  float total = sum(magnitude), whole = divisor(total), contributed = divisor(sum(contribution));
  visit_row<false>(weights, row, [&](int column, vec weight, auto) {
    vec size = abs(weight), share = size / whole;
    entropy -= share * log(maximum(share, broadcast(FLT_MIN)));
    add(received[RENORMALISED].data() + column, size / (total + floor));
    add(received[CONTRIBUTED].data() + column, size * load(norm + column) / contributed);
  });
  found[MASS] = sum(mass);
  found[MAGNITUDE] = total;
  found[ENTROPY] = total < floor ? 0.f : sum(entropy);
  found[ZEROS] = sum(zeros);
  found[SMALL] = sum(tiny);
}

// Of rows [OF_ROWS, B, H, T], and of keys [OF_KEYS, B, H, S] in float64.
std::tuple<Tensor, Tensor> row_stats(const Tensor& query, const Tensor& key, const Tensor& value,
                                     const optional<Tensor>& query_bias, const optional<Tensor>& key_bias,
                                     const optional<Tensor>& slope, const Tensor& first, const Tensor& last,
                                     const Tensor& position, double scale, const optional<Tensor>& source,
                                     double amplitude, std::string mechanism, double small, double floor) {
  const Mechanism& functions = find_mechanism(mechanism);
  Shape shape(query, key, value);
  TORCH_CHECK(!shape.half, "row statistics are those of float32");
  Inputs inputs(query, key, value, query_bias, key_bias, slope, first, last, position, scale, source, amplitude);
  Blocks blocks(inputs.scoring, shape);
  PackedKeys<float> packed(shape, inputs.key);
  View<const float> values(inputs.value);
  auto options = query.options().dtype(at::kFloat);
  Tensor statistics = at::empty({MAXIMUM_STATISTICS, shape.batch, shape.heads, shape.queries}, options);
  Tensor rows = at::zeros({OF_ROWS, shape.batch, shape.heads, shape.queries}, options);
  Tensor keys = at::zeros({OF_KEYS, shape.batch, shape.heads, shape.keys}, options.dtype(at::kDouble));
  int64_t heads = shape.batch * shape.heads;
  auto make_space = [&] { return StatsSpace(shape, blocks); };
  dynamic(heads, make_space, [&](int64_t head, StatsSpace& space) {
    Subnormals subnormals(true);
    int64_t b = head / shape.heads, h = head % shape.heads;
    for (int64_t place = 0; place < shape.keys; place++) {
      const float* mixed = values.at(b, place, h / shape.group);
      space.norm[place] = std::sqrt(dot(mixed, mixed, shape.value_dim));
    }
    for (int64_t start = 0; start < shape.queries; start += blocks.rows) {
      auto [block, low] = score_rows(shape, inputs, packed, space, blocks, b, h, start, statistics.data_ptr<float>());
      if (!block.columns) continue;
      for (auto& of_key : space.received) std::fill_n(of_key.data(), block.columns, 0.f);
      float largest[QUERIES];
      for (int row = 0; row < block.rows; row++)
        largest[row] = block.key_bias ? largest_size<true>(block, row) : largest_size<false>(block, row);
      functions.weights(block, block.score, space.row_scale.data());
      for (int row = 0; row < block.rows; row++) {
        RowBlock weights = block;
        weights.scale = space.row_scale[row];
        float found[OF_ROWS];
        sum_up(weights, row, space.norm.data() + low, small, floor, space.received, found);
        found[FIRST] = low == 0 ? block.score[row * block.stride] * weights.scale : 0.f;
        found[MAX_SCORE] = largest[row];
        for (int which = 0; which < OF_ROWS; which++)
          rows.data_ptr<float>()[(which * heads + head) * shape.queries + start + row] = found[which];
      }
      for (int which = 0; which < OF_KEYS; which++) {
        double* to = keys.data_ptr<double>() + (which * heads + head) * shape.keys + low;
        for (int64_t column = 0; column < std::min<int64_t>(block.columns, shape.keys - low); column++)
          to[column] += space.received[which][column];
      }
    }
  });
  return {rows, keys};
}

}  // namespace
