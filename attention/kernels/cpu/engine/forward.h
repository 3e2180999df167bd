// The forward pass, and decoding.
#pragma once
#include "engine/blocks.h"
#include "engine/mechanisms.h"
#include "engine/threads.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <functional>
#include <string>
#include <tuple>

namespace {

template <class Element>
void store_row(Element* to, const float* from, float factor, int64_t width) {
  int64_t column = 0;
  for (; column + LANES <= width; column += LANES) store(raw(to) + column, load(from + column) * factor);
  for (; column < width; column++) to[column] = Element(from[column] * factor);
}

// An output row, and what rounding took from it where the backward pass will want it.
template <class Element>
void write_output(const View<Element>& output, const View<Element>& lost, int64_t b, int64_t t, int64_t h,
                  const float* mixed, float factor, int64_t width) {
  Element* to = output.at(b, t, h);
  store_row(to, mixed, factor, width);
  if (!lost.data) return;
  Element* rest = lost.at(b, t, h);
  for (int64_t column = 0; column < width; column++)
    rest[column] = Element(mixed[column] * factor - float(to[column]));
}

template <class Element>
void widen(const Element* from, float* to, int64_t width) {
  int64_t column = 0;
  for (; column + LANES <= width; column += LANES) store(to + column, load(raw(from) + column));
  for (; column < width; column++) to[column] = float(from[column]);
}

// A vector as floats, padded with what `line` holds to a multiple of LANES: where it lies if it needs neither.
template <class Element>
const float* widened(const Element* from, float* line, int64_t width) {
  if constexpr (!paired<Element>)
    if (width % LANES == 0) return from;
  widen(from, line, width);
  return line;
}

int64_t block_rows(int64_t width, int64_t queries) {
  int64_t most = std::min(QUERIES, round_up(queries, 16));
  return std::clamp<int64_t>(BLOCK_SCORES / std::max<int64_t>(width, 1) / 16 * 16, 16, most);
}

// The widest key range of any block of rows.
int64_t widest(const Scoring& scoring, const Shape& shape, int64_t rows) {
  int64_t width = 0;
  for (int64_t b = 0; b < (scoring.mask_stride ? shape.batch : 1); b++)
    for (int64_t start = 0; start < shape.queries; start += rows) {
      auto [low, high] =
          seen(scoring.first_of(b) + start, scoring.last_of(b) + start, std::min(rows, shape.queries - start));
      width = std::max(width, high - low / KEYS * KEYS);
    }
  return width;
}

// How the queries of a head fall into blocks.
struct Blocks {
  int64_t rows, count, width;  // most rows of a block, how many blocks, the widest key range of one
  Blocks(const Scoring& scoring, const Shape& shape)
      : rows(block_rows(widest(scoring, shape, QUERIES), shape.queries)),
        count((shape.queries + rows - 1) / rows),
        width(widest(scoring, shape, rows)) {}
};

template <class Element>
struct PackedKeys {
  Buffer<Element> key, value;  // per head: keys transposed for scores, values for outputs where there will be any

  PackedKeys(const Shape& shape, const Tensor& key_, const optional<Tensor>& value_ = {}) {
    View<const Element> keys(key_), values;
    key.resize(shape.batch * shape.key_heads * shape.padded_keys * shape.padded_dim);
    if (value_) {
      values = View<const Element>(*value_);
      value.resize(shape.batch * shape.key_heads * shape.padded_keys * shape.padded_value);
    }
    int64_t blocks = shape.padded_keys / shape.block_keys;
    auto make_scratch = [] { return Buffer<Element>(); };
    dynamic(shape.batch * shape.key_heads * blocks, make_scratch, [&](int64_t index, Buffer<Element>& scratch) {
      int64_t head = index / blocks, start = index % blocks * shape.block_keys;
      int64_t b = head / shape.key_heads, h = head % shape.key_heads, count = shape.keys - start;
      Element* key_block = key.data() + (head * shape.padded_keys + start) * shape.padded_dim;
      pack_columns(keys.at(b, start, h), keys.length, count, shape.head_dim, key_block, shape.block_keys,
                   shape.padded_dim, shape.block_keys, scratch);
      if (!values.data) return;
      Element* value_block = value.data() + (head * shape.padded_keys + start) * shape.padded_value;
      pack_rows(values.at(b, start, h), values.length, count, shape.value_dim, value_block,
                shape.block_keys, shape.padded_value);
    });
  }
};

// The scores of the block of rows from `start` on, and the key of its first column; no columns where it sees nothing.
template <class Element>
std::pair<RowBlock, int64_t> score_rows(const Shape& shape, const Inputs& inputs, const PackedKeys<Element>& packed,
                                        RowSpace<Element>& space, const Blocks& blocks, int64_t b, int64_t h,
                                        int64_t start, float* statistics) {
  const Scoring& scoring = inputs.scoring;
  View<const Element> query(inputs.query);
  int64_t count = std::min(blocks.rows, shape.queries - start);
  auto [low, high] = seen(scoring.first_of(b) + start, scoring.last_of(b) + start, count);
  low = low / KEYS * KEYS;
  int64_t columns = round_up(high - low, KEYS), key_head = b * shape.key_heads + h / shape.group;
  copy_rows(query.at(b, start, h), query.length, count, shape.head_dim, space.query.data(), blocks.rows,
            shape.padded_dim);
  products(blocks.rows, space.query.data(), shape.padded_dim,
           packed.key.data() + key_head * shape.padded_keys * shape.padded_dim, shape.block_keys, low, columns,
           space.score.data(), space.stride);
  RowBlock block = describe(scoring, space, b, h, start, count, low, columns, shape.keys,
                            statistics + (b * shape.heads + h) * shape.queries,
                            shape.batch * shape.heads * shape.queries);
  if (scoring.noise.drawn) add_noise(scoring, block, b, h, start, low);
  return {block, low};
}

template <class Element>
void forward_blocks(const Shape& shape, const Inputs& inputs, const Mechanism& mechanism, Tensor& out, Tensor& rest,
                    Tensor& support, float* statistics) {
  Blocks blocks(inputs.scoring, shape);
  View<Element> output(out), lost;
  if (rest.numel()) lost = View<Element>(rest);
  View<uint8_t> supported;
  if (support.numel()) supported = View<uint8_t>(support);
  int64_t widest_depth = mechanism.vanishes ? TILE_KEYS : WIDE_KEYS;
  PackedKeys<Element> packed(shape, inputs.key, inputs.value);
  auto make_space = [&] { return RowSpace<Element>(shape, blocks.rows, blocks.width); };
  dynamic(shape.batch * shape.heads * blocks.count, make_space, [&](int64_t index, RowSpace<Element>& space) {
    // Under a causal mask the last rows take longest: they come first.
    int64_t start = (blocks.count - 1 - index / (shape.batch * shape.heads)) * blocks.rows;
    int64_t head = index % (shape.batch * shape.heads), b = head / shape.heads, h = head % shape.heads;
    int64_t key_head = b * shape.key_heads + h / shape.group;
    const Element* values = packed.value.data() + key_head * shape.padded_keys * shape.padded_value;
    auto [block, low] = score_rows(shape, inputs, packed, space, blocks, b, h, start, statistics);
    int64_t columns = block.columns;
    const Element* weight;
    if (mechanism.vanishes) space.occupied.fill(0);
    if constexpr (paired<Element>) {
      mechanism.weights_bfloat16(block, raw(space.weight.data()), space.stride, space.row_scale.data());
      weight = space.weight.data();
    } else {
      mechanism.weights(block, space.score.data(), space.row_scale.data());
      weight = space.score.data();
    }
    bool mixed = false;
    for (int64_t column = 0, depth; column < columns; column += depth) {
      depth = columns - column >= widest_depth ? widest_depth : KEYS;
      const uint8_t* here = space.occupied.data() + column / LANES;
      if (mechanism.vanishes && std::none_of(here, here + depth / LANES, std::identity())) continue;
      multiply(blocks.rows, shape.padded_value, depth, weight + column, space.stride,
               values + (low + column) * shape.padded_value, shape.padded_value, space.out.data(),
               shape.padded_value, mixed);
      mixed = true;
    }
    if (!mixed) space.out.fill(0.f);
    for (int64_t row = start; supported.data && row < start + block.rows; row += GROUP_ROWS)
      for (int64_t column = 0; column < columns; column += LANES)
        supported.at(b, row / GROUP_ROWS, h)[(low + column) / TILE_KEYS] |= space.occupied[column / LANES];
    for (int64_t row = 0; row < block.rows; row++)
      write_output(output, lost, b, start + row, h, space.out.data() + row * shape.padded_value,
                   columns ? space.row_scale[row] : 0.f, shape.value_dim);
  });
}

constexpr int AT_ONCE = 4;  // keys, or values, whose sums run side by side

// Memory of one thread that computes rows of a few queries; `lines` holds keys or values that are widened.
struct FewSpace : RowSpace<float> {
  Buffer<float> lines;
  int64_t width;
  FewSpace(const Shape& shape, int64_t rows, int64_t columns)
      : RowSpace<float>(shape, rows, columns), width(std::max(shape.padded_dim, shape.padded_value)) {
    lines.resize(AT_ONCE * width);
    query.fill(0.f);
  }
  // Vector `column` of a head and those after it, the last one again where there are no more.
  template <class Element>
  void gather(const View<const Element>& view, int64_t b, int64_t column, int64_t high, int64_t h, int64_t size,
              const float* (&found)[AT_ONCE]) const {
    for (int k = 0; k < AT_ONCE; k++)
      found[k] = widened(view.at(b, std::min(column + k, high - 1), h), lines.data() + k * width, size);
  }
};

// A few queries against many keys: memory bound, so keys and values are read once, where they lie.
template <class Element>
void forward_few(const Shape& shape, const Inputs& inputs, const Mechanism& mechanism, Tensor& out, Tensor& rest,
                 float* statistics) {
  const Scoring& scoring = inputs.scoring;
  View<const Element> query(inputs.query), key(inputs.key), value(inputs.value);
  View<Element> output(out), lost;
  if (rest.numel()) lost = View<Element>(rest);
  int64_t queries = shape.queries, rows = queries * shape.group, width = widest(scoring, shape, queries);
  auto make_space = [&] { return FewSpace(shape, rows, width); };
  dynamic(shape.batch * shape.key_heads, make_space, [&](int64_t index, FewSpace& space) {
    int64_t b = index / shape.key_heads, key_head = index % shape.key_heads;
    auto [low, high] = seen(scoring.first_of(b), scoring.last_of(b), queries);
    low = low / KEYS * KEYS;
    int64_t columns = round_up(high - low, LANES);
    const float* found[AT_ONCE];
    space.lines.fill(0.f);
    for (int64_t row = 0; row < rows; row++) {
      const Element* source = query.at(b, row % queries, key_head * shape.group + row / queries);
      widen(source, space.query.data() + row * shape.padded_dim, shape.head_dim);
    }
    for (int64_t column = 0; column < high - low; column += AT_ONCE) {
      space.gather(key, b, low + column, high, key_head, shape.head_dim, found);
      for (int64_t row = 0; row < rows; row++) {
        const float* asked = space.query.data() + row * shape.padded_dim;
        vec total[AT_ONCE] = {};
        for (int64_t d = 0; d < shape.head_dim; d += LANES)
          for (int k = 0; k < AT_ONCE; k++) total[k] = fused(load(found[k] + d), load(asked + d), total[k]);
        for (int k = 0; k < AT_ONCE; k++) space.score[row * space.stride + column + k] = sum(total[k]);
      }
    }
    for (int64_t g = 0; g < shape.group; g++) {
      int64_t h = key_head * shape.group + g;
      RowBlock block = describe(scoring, space, b, h, 0, queries, low, columns, shape.keys,
                                statistics + (b * shape.heads + h) * queries, shape.batch * shape.heads * queries);
      block.score += g * queries * space.stride;
      if (scoring.noise.drawn) add_noise(scoring, block, b, h, 0, low);
      mechanism.weights(block, block.score, space.row_scale.data() + g * queries);
    }
    space.out.fill(0.f);
    for (int64_t column = 0; column < high - low; column += AT_ONCE) {
      space.gather(value, b, low + column, high, key_head, shape.value_dim, found);
      for (int64_t row = 0; row < rows; row++) {
        float weight[AT_ONCE], *to = space.out.data() + row * shape.padded_value;
        for (int k = 0; k < AT_ONCE; k++)
          weight[k] = column + k < high - low ? space.score[row * space.stride + column + k] : 0.f;
        if (std::all_of(weight, weight + AT_ONCE, [](float w) { return w == 0.f; })) continue;
        for (int64_t d = 0; d < shape.value_dim; d += LANES) {
          vec mixed = load(to + d);
          for (int k = 0; k < AT_ONCE; k++) mixed = fused(load(found[k] + d), weight[k], mixed);
          store(to + d, mixed);
        }
      }
    }
    for (int64_t row = 0; row < rows; row++)
      write_output(output, lost, b, row % queries, key_head * shape.group + row / queries,
                   space.out.data() + row * shape.padded_value, space.row_scale[row], shape.value_dim);
  }, shape.batch * shape.heads * queries * width * (shape.head_dim + shape.value_dim));
}

// Outputs, log masses of a Ratio (where asked for, else empty), what the outputs' rounding lost (where a backward pass
// will want it, else empty), which tiles have weights (where those vanish, else empty) and row statistics.
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> forward(const Tensor& query, const Tensor& key, const Tensor& value,
                                           const optional<Tensor>& query_bias, const optional<Tensor>& key_bias,
                                           const optional<Tensor>& slope, const Tensor& first, const Tensor& last,
                                           const Tensor& position, double scale, const optional<Tensor>& source,
                                           double amplitude, std::string mechanism, bool trains,
                                           bool keeps_support, bool with_mass) {
  const Mechanism& functions = find_mechanism(mechanism);
  Shape shape(query, key, value);
  Inputs inputs(query, key, value, query_bias, key_bias, slope, first, last, position, scale, source, amplitude);
  // Where a backward pass reads statistics of rows it meets the same scores: one sum, in one order, serves both passes.
  bool few = shape.queries <= FEW_QUERIES && !trains;
  Tensor out = at::empty({shape.batch, shape.queries, shape.heads, shape.value_dim}, query.options());
  Tensor rest = shape.half && trains ? at::empty(out.sizes(), out.options()) : at::empty({0}, query.options());
  Tensor support = at::empty({0}, query.options().dtype(at::kByte));
  if (keeps_support) {
    int64_t groups = (shape.queries + GROUP_ROWS - 1) / GROUP_ROWS, tiles = (shape.keys + TILE_KEYS - 1) / TILE_KEYS;
    support = at::zeros({shape.batch, groups, shape.heads, tiles}, support.options());
  }
  Tensor statistics = at::zeros({MAXIMUM_STATISTICS, shape.batch, shape.heads, shape.queries},
                                query.options().dtype(at::kFloat));
  float* rows = statistics.data_ptr<float>();
  if (shape.half)
    few ? forward_few<BFloat16>(shape, inputs, functions, out, rest, rows)
        : forward_blocks<BFloat16>(shape, inputs, functions, out, rest, support, rows);
  else
    few ? forward_few<float>(shape, inputs, functions, out, rest, rows)
        : forward_blocks<float>(shape, inputs, functions, out, rest, support, rows);
  // pivot + ln(mass), from the pivot and one over the mass.
  Tensor log_mass = with_mass ? statistics.select(0, PIVOT).sub(statistics.select(0, SCALE).log()).transpose(1, 2).contiguous()
                              : at::empty({0}, statistics.options());
  return {out, log_mass, rest, support, statistics};
}

}  // namespace
