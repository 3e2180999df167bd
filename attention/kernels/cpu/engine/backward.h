// The backward pass.
#pragma once
#include "engine/blocks.h"
#include "engine/forward.h"
#include "engine/mechanisms.h"
#include "engine/threads.h"

#include <ATen/ops/empty.h>

#include <string>
#include <tuple>
#include <vector>

namespace {

// Partial sums of a row's product, as many on every machine: their rounding shows where one key has all the weight.
constexpr int SUMS = 16;

constexpr int64_t BAND_KEYS = 1024;  // keys whose vectors and gradients stay in the caches while all queries pass

template <class Element>
void add_product(const Element* x, const Element* y, int64_t width, vec (&sums)[SUMS / LANES]) {
  int64_t d = 0;
  for (; d + SUMS <= width; d += SUMS)
    for (int at = 0; at < SUMS; at += LANES) sums[at / LANES] += load(raw(x) + d + at) * load(raw(y) + d + at);
  for (; d < width; d++) sums[0][0] += float(x[d]) * float(y[d]);
}

// delta = sum of (out + rest) * grad_out, per row [B, H, T].
template <class Element>
void weigh_outputs(const Shape& shape, const Tensor& out, const Tensor& rest, const Tensor& grad_out, float* delta) {
  View<const Element> mixed(out), grad(grad_out), lost;
  if (rest.numel()) lost = View<const Element>(rest);
  dynamic(shape.batch * shape.heads, no_space, [&](int64_t head, Nothing) {
    int64_t b = head / shape.heads, h = head % shape.heads;
    for (int64_t t = 0; t < shape.queries; t++) {
      vec sums[SUMS / LANES]{};
      add_product(mixed.at(b, t, h), grad.at(b, t, h), shape.value_dim, sums);
      if (lost.data) add_product(lost.at(b, t, h), grad.at(b, t, h), shape.value_dim, sums);
      float total = 0;
      for (vec part : sums) total += sum(part);
      delta[head * shape.queries + t] = total;
    }
  });
}

// Which keys a tile of queries sees: all of it looks within [low, high), each of it sees [shared_low, shared_high).
struct Bounds {
  int64_t low, high, shared_low, shared_high;
};

// Memory of one thread that computes the gradients of a key head.
template <class Element>
struct HeadSpace {
  Buffer<Element> key, key_transposed, value, query, query_transposed, grad, grad_transposed;
  Buffer<Element> weight, grad_score, grad_score_pairs, scratch;
  Buffer<float> score, grad_weight, grad_key, grad_value, grad_query, statistics;
  Buffer<float> sums, delta, count, position, query_bias, key_bias, grad_query_bias, grad_key_bias;
  Buffer<int32_t> first, last;
  std::vector<Bounds> bounds;
  std::vector<Tile> prepared;  // of one tile of queries; the gradients find its products where they lie
  int64_t keys;

  HeadSpace(const Shape& shape, bool prepares) : keys(round_up(shape.keys, shape.tile_keys)) {
    for (auto* of_keys : {&key, &key_transposed}) of_keys->resize(keys * shape.padded_dim);
    value.resize(keys * shape.padded_value);
    for (auto* of_queries : {&query, &query_transposed}) of_queries->resize(shape.padded_queries * shape.padded_dim);
    for (auto* of_grads : {&grad, &grad_transposed}) of_grads->resize(shape.padded_queries * shape.padded_value);
    int64_t tiles = prepares ? keys / shape.tile_keys : 1;
    prepared.resize(tiles);
    for (auto* products : {&score, &grad_weight}) products->resize(tiles * shape.tile_keys * shape.tile_queries);
    if (paired<Element>)
      for (auto* tile : {&weight, &grad_score, &grad_score_pairs}) tile->resize(shape.tile_keys * shape.tile_queries);
    grad_key.resize(keys * shape.padded_dim);
    grad_value.resize(keys * shape.padded_value);
    grad_query.resize(shape.group * shape.padded_queries * shape.padded_dim);
    grad_query_bias.resize(shape.group * shape.padded_queries);
    key_bias.resize(keys);
    grad_key_bias.resize(shape.group * keys * LANES);
    statistics.resize(MAXIMUM_STATISTICS * shape.padded_queries);
    sums.resize(PREPARED * shape.padded_queries);
    for (auto* per_query : {&delta, &count, &position, &query_bias}) per_query->resize(shape.padded_queries);
    for (auto* per_query : {&first, &last}) per_query->resize(shape.padded_queries);
    bounds.resize(shape.padded_queries / shape.tile_queries);
  }
};

template <class Element>
void read_keys(const Shape& shape, const Inputs& inputs, int64_t b, int64_t h, HeadSpace<Element>& space) {
  View<const Element> key(inputs.key), value(inputs.value);
  copy_rows(key.at(b, 0, h), key.length, shape.keys, shape.head_dim, space.key.data(), space.keys, shape.padded_dim);
  copy_rows(value.at(b, 0, h), value.length, shape.keys, shape.value_dim, space.value.data(), space.keys,
            shape.padded_value);
  for (int64_t start = 0; start < space.keys; start += shape.tile_keys)
    transpose_rows(key.at(b, start, h), key.length, shape.keys - start, shape.head_dim,
                   space.key_transposed.data() + start * shape.padded_dim, shape.tile_keys, shape.padded_dim,
                   space.scratch);
}

template <class Element>
void read_queries(const Shape& shape, const Inputs& inputs, const Tensor& grad_out, const float* delta,
                  const float* statistics, int64_t b, int64_t h, HeadSpace<Element>& space) {
  View<const Element> query(inputs.query), grad(grad_out);
  const Scoring& scoring = inputs.scoring;
  int64_t height = shape.tile_queries;
  for (int64_t start = 0; start < shape.padded_queries; start += height) {
    int64_t count = std::min(height, shape.queries - start);
    const Element *queries = query.at(b, start, h), *grads = grad.at(b, start, h);
    int64_t at_query = start * shape.padded_dim, at_grad = start * shape.padded_value;
    pack_rows(queries, query.length, count, shape.head_dim, space.query.data() + at_query, height, shape.padded_dim);
    pack_rows(grads, grad.length, count, shape.value_dim, space.grad.data() + at_grad, height, shape.padded_value);
    pack_columns(queries, query.length, count, shape.head_dim, space.query_transposed.data() + at_query, height,
                 shape.padded_dim, height, space.scratch);
    pack_columns(grads, grad.length, count, shape.value_dim, space.grad_transposed.data() + at_grad, height,
                 shape.padded_value, height, space.scratch);
  }
  int64_t head = b * shape.heads + h, all = shape.batch * shape.heads * shape.queries;
  for (int64_t t = 0; t < shape.padded_queries; t++) {
    bool exists = t < shape.queries;
    space.first[t] = exists ? scoring.first_of(b)[t] : 0;
    space.last[t] = exists ? scoring.last_of(b)[t] : 0;
    space.count[t] = float(std::max(space.last[t] - space.first[t], 0));
    space.position[t] = exists ? float(scoring.position[t]) : 0.f;
    space.delta[t] = exists ? delta[head * shape.queries + t] : 0.f;
    space.query_bias[t] = exists && scoring.query_bias.data ? *scoring.query_bias.at(b, t, h) : 0.f;
    for (int64_t k = 0; k < MAXIMUM_STATISTICS; k++)
      space.statistics[k * shape.padded_queries + t] = exists ? statistics[k * all + head * shape.queries + t] : 0.f;
  }
  for (size_t tile = 0; tile < space.bounds.size(); tile++) {
    const int32_t *first = space.first.data() + tile * height, *last = space.last.data() + tile * height;
    auto [low, high] = seen(first, last, height);
    space.bounds[tile] = {low, high, *std::max_element(first, first + height), *std::min_element(last, last + height)};
  }
}

template <class Element>
Tile describe_tile(const Shape& shape, const Scoring& scoring, const HeadSpace<Element>& space, Bounds bounds,
                   int64_t g, int64_t h, int64_t start_key, int64_t start_query, int64_t place, bool learned_biases) {
  Tile tile{};
  tile.score = space.score.data() + place * shape.tile_keys * shape.tile_queries;
  tile.grad_weight = space.grad_weight.data() + place * shape.tile_keys * shape.tile_queries;
  tile.keys = std::min(shape.tile_keys, round_up(bounds.high - start_key, TILE_KEYS / 2));
  tile.queries = shape.tile_queries;
  tile.partly_hidden = bounds.shared_low > start_key || bounds.shared_high < start_key + tile.keys;
  tile.first_key = start_key;
  tile.first = space.first.data() + start_query;
  tile.last = space.last.data() + start_query;
  tile.scale = tile.grad_scale = scoring.scale;
  tile.count = space.count.data() + start_query;
  tile.delta = space.delta.data() + start_query;
  tile.sums = space.sums.data() + start_query;
  tile.statistics = space.statistics.data() + start_query;
  tile.statistics_stride = shape.padded_queries;
  if (scoring.biased) {
    tile.query_bias = space.query_bias.data() + start_query;
    tile.key_bias = space.key_bias.data() + start_key;
    tile.slope = scoring.slope ? scoring.slope[h] : 0.f;
    tile.position = space.position.data() + start_query;
  }
  if (learned_biases) {
    tile.grad_query_bias = space.grad_query_bias.data() + g * shape.padded_queries + start_query;
    if (scoring.key_bias.data)
      tile.grad_key_bias = space.grad_key_bias.data() + (g * space.keys + start_key) * LANES;
  }
  return tile;
}

// The same noise as in the forward pass, on a tile.
inline void add_noise(const Scoring& scoring, Tile& tile, int64_t b, int64_t h, const float* position) {
  for (int query = 0; query < tile.queries; query += LANES) {
    uvec places = uvec(__builtin_convertvector(load(position + query), ivec));
    ivec first = load(tile.first + query), last = load(tile.last + query);
    for (int key = 0; key < tile.keys; key++) {
      int place = tile.first_key + key;
      if (!any((first <= place) & (last > place))) continue;
      float* score = tile.score + key * tile.queries + query;
      store(score, load(score) * tile.scale + scoring.noise(uvec{} + uint32_t(place), places, h, b));
    }
  }
  tile.scale = 1.f;
}

// Scores and weight gradients of a tile.
template <class Element>
void tile_products(const Shape& shape, const Tile& tile, const HeadSpace<Element>& space, int64_t start_key,
                   int64_t start_query) {
  int64_t dim = shape.padded_dim, value_dim = shape.padded_value, queries = shape.tile_queries;
  multiply(tile.keys, queries, dim, space.key.data() + start_key * dim, dim,
           space.query_transposed.data() + start_query * dim, queries, tile.score, queries, false);
  multiply(tile.keys, queries, value_dim, space.value.data() + start_key * value_dim, value_dim,
           space.grad_transposed.data() + start_query * value_dim, queries, tile.grad_weight, queries, false);
}

template <class Element>
void add_gradients(const Shape& shape, const Mechanism& mechanism, const Tile& tile, const HeadSpace<Element>& space,
                   int64_t start_key, int64_t start_query, float* grad_query) {
  int64_t dim = shape.padded_dim, value_dim = shape.padded_value, queries = shape.tile_queries;
  const Element *weight, *grad_score, *grad_score_right;
  if constexpr (paired<Element>) {
    mechanism.gradients_bfloat16(tile, raw(space.weight.data()), raw(space.grad_score.data()),
                                 raw(space.grad_score_pairs.data()));
    weight = space.weight.data();
    grad_score = space.grad_score.data();
    grad_score_right = space.grad_score_pairs.data();
  } else {
    mechanism.gradients(tile);
    weight = tile.score;
    grad_score = grad_score_right = tile.grad_weight;
  }
  multiply(tile.keys, value_dim, queries, weight, queries, space.grad.data() + start_query * value_dim, value_dim,
           space.grad_value.data() + start_key * value_dim, value_dim, true);
  multiply(tile.keys, dim, queries, grad_score, queries, space.query.data() + start_query * dim, dim,
           space.grad_key.data() + start_key * dim, dim, true);
  multiply(dim, queries, tile.keys, space.key_transposed.data() + start_key * dim, shape.tile_keys, grad_score_right,
           queries, grad_query + start_query * dim, queries, true);
}

struct Gradients {
  Tensor query, key, value;
  optional<Tensor> query_bias, key_bias;
};

// What several threads found for the queries of one key head, summed in a fixed order.
template <class Element>
void write_query_gradients(const Shape& shape, int64_t b, int64_t key_head, const std::vector<float*>& parts,
                           const std::vector<float*>& bias_parts, Gradients& gradients) {
  View<Element> query(gradients.query);
  int64_t dim = shape.padded_dim, height = shape.tile_queries;
  Buffer<float> rows(height * dim);
  for (int64_t g = 0; g < shape.group; g++) {
    int64_t h = key_head * shape.group + g;
    for (int64_t start = 0; start < shape.queries; start += height) {
      float* first = parts[0] + (g * shape.padded_queries + start) * dim;
      for (size_t part = 1; part < parts.size(); part++)
        for (int64_t place = 0; place < height * dim; place++)
          first[place] += parts[part][(g * shape.padded_queries + start) * dim + place];
      transpose(reinterpret_cast<const int32_t*>(first), height, dim, height, reinterpret_cast<int32_t*>(rows.data()),
                dim);
      for (int64_t t = start; t < std::min(start + height, shape.queries); t++)
        store_row(query.at(b, t, h), rows.data() + (t - start) * dim, 1.f, shape.head_dim);
    }
    for (int64_t t = 0; gradients.query_bias && t < shape.queries; t++) {
      float total = 0;
      for (float* part : bias_parts) total += part[g * shape.padded_queries + t];
      *View<float>(*gradients.query_bias).at(b, t, h) = total;
    }
  }
}

template <class Element>
void backward_heads(const Shape& shape, const Inputs& inputs, const Mechanism& mechanism, const Tensor& grad_out,
                    const Tensor& support, const float* delta, const float* grad_log_mass, const float* statistics,
                    Gradients& gradients) {
  const Scoring& scoring = inputs.scoring;
  int64_t heads = shape.batch * shape.key_heads, key_tiles = (shape.keys + shape.tile_keys - 1) / shape.tile_keys;
  // Fewer heads than threads: several threads share a head, each with every n-th tile of its keys.
  int64_t shares = std::clamp<int64_t>((at::get_num_threads() + heads - 1) / heads, 1, key_tiles);
  View<const uint8_t> supported;
  if (support.numel()) supported = View<const uint8_t>(support);
  // Whether a tile of queries of a head has a weight among a tile of keys.
  auto has_weights = [&](int64_t b, int64_t h, int64_t start_query, int64_t start_key) {
    int64_t row = start_query, end = std::min(start_query + shape.tile_queries, shape.queries);
    while (row < end && !supported.at(b, row / GROUP_ROWS, h)[start_key / TILE_KEYS]) row += GROUP_ROWS;
    return row < end;
  };
  bool learned = gradients.query_bias || gradients.key_bias;
  std::vector<Buffer<float>> parts(shares > 1 ? heads * shares : 0), bias_parts(parts.size());
  auto make_space = [&] { return HeadSpace<Element>(shape, mechanism.prepare); };
  dynamic(heads * shares, make_space, [&](int64_t index, HeadSpace<Element>& space) {
    int64_t head = index / shares, share = index % shares, b = head / shape.key_heads, key_head = head % shape.key_heads;
    read_keys(shape, inputs, b, key_head, space);
    for (auto* sums : {&space.grad_key, &space.grad_value, &space.grad_query}) sums->fill(0.f);
    if (learned)
      for (auto* sums : {&space.grad_query_bias, &space.grad_key_bias}) sums->fill(0.f);
    for (int64_t g = 0; g < shape.group; g++) {
      int64_t h = key_head * shape.group + g;
      read_queries(shape, inputs, grad_out, delta, statistics, b, h, space);
      if (scoring.biased) space.key_bias.fill(0.f);
      for (int64_t s = 0; scoring.key_bias.data && s < shape.keys; s++) space.key_bias[s] = *scoring.key_bias.at(b, s, h);
      space.sums.fill(0.f);
      float* shift = space.statistics.data() + SHIFT * shape.padded_queries;
      // A form that prepares meets all keys of a query at once; the others a band of them, which the caches hold.
      int64_t band_tiles = mechanism.prepare ? key_tiles : BAND_KEYS / shape.tile_keys;
      for (int64_t band = 0; band < key_tiles; band += band_tiles) {
        for (int64_t start_query = 0; start_query < shape.padded_queries; start_query += shape.tile_queries) {
          Bounds bounds = space.bounds[start_query / shape.tile_queries];
          int64_t first_tile = std::max(bounds.low / shape.tile_keys, band);
          int64_t end_tile = std::min((bounds.high + shape.tile_keys - 1) / shape.tile_keys, band + band_tiles);
          auto visit_tiles = [&](auto visit) {
            for (int64_t at = first_tile; at < end_tile; at++)
              if (!supported.data || has_weights(b, h, start_query, at * shape.tile_keys)) visit(at);
          };
          auto products_of = [&](int64_t at, int64_t place) {
            int64_t start_key = at * shape.tile_keys;
            Tile tile = describe_tile(shape, scoring, space, bounds, g, h, start_key, start_query, place, learned);
            tile_products(shape, tile, space, start_key, start_query);
            if (scoring.noise.drawn) add_noise(scoring, tile, b, h, space.position.data() + start_query);
            return tile;
          };
          if (mechanism.prepare) {
            visit_tiles([&](int64_t at) {
              mechanism.prepare(space.prepared[at - first_tile] = products_of(at, at - first_tile));
            });
            Tile tile = describe_tile(shape, scoring, space, Bounds{}, g, h, 0, start_query, 0, learned);
            mechanism.finish(tile, space.delta.data() + start_query, space.statistics.data() + start_query);
          }
          int64_t end_query = std::min(start_query + shape.tile_queries, shape.queries);
          for (int64_t t = start_query; grad_log_mass && band == 0 && t < end_query; t++)
            shift[t] += grad_log_mass[(b * shape.heads + h) * shape.queries + t];
          visit_tiles([&](int64_t at) {
            if (at % shares != share) return;
            Tile tile = mechanism.prepare ? space.prepared[at - first_tile] : products_of(at, 0);
            add_gradients(shape, mechanism, tile, space, at * shape.tile_keys, start_query,
                          space.grad_query.data() + g * shape.padded_queries * shape.padded_dim);
          });
        }
      }
    }
    View<Element> grad_key(gradients.key), grad_value(gradients.value);
    for (int64_t s = 0; s < shape.keys; s++) {
      if (s / shape.tile_keys % shares != share) continue;
      store_row(grad_key.at(b, s, key_head), space.grad_key.data() + s * shape.padded_dim, 1.f, shape.head_dim);
      store_row(grad_value.at(b, s, key_head), space.grad_value.data() + s * shape.padded_value, 1.f, shape.value_dim);
      for (int64_t g = 0; gradients.key_bias && g < shape.group; g++)
        *View<float>(*gradients.key_bias).at(b, s, key_head * shape.group + g) =
            sum(load(space.grad_key_bias.data() + (g * space.keys + s) * LANES));
    }
    if (shares == 1) {
      write_query_gradients<Element>(shape, b, key_head, {space.grad_query.data()}, {space.grad_query_bias.data()},
                                     gradients);
    } else {
      parts[index] = std::exchange(space.grad_query, Buffer<float>(space.grad_query.size()));
      bias_parts[index] = std::exchange(space.grad_query_bias, Buffer<float>(space.grad_query_bias.size()));
    }
  });
  if (shares == 1) return;
  dynamic(heads, no_space, [&](int64_t head, Nothing) {
    std::vector<float*> of_head, bias_of_head;
    for (int64_t share = 0; share < shares; share++) {
      of_head.push_back(parts[head * shares + share].data());
      bias_of_head.push_back(bias_parts[head * shares + share].data());
    }
    write_query_gradients<Element>(shape, head / shape.key_heads, head % shape.key_heads, of_head, bias_of_head,
                                   gradients);
  });
}

template <class Element>
void backward_of(const Shape& shape, const Inputs& inputs, const Mechanism& mechanism, const Tensor& grad_out,
                 const optional<Tensor>& grad_log_mass, const Tensor& out, const Tensor& rest, const Tensor& support,
                 const Tensor& statistics, Gradients& gradients) {
  Tensor delta = at::empty({shape.batch, shape.heads, shape.queries}, statistics.options());
  weigh_outputs<Element>(shape, out, rest, grad_out, delta.data_ptr<float>());
  Tensor of_mass = grad_log_mass ? grad_log_mass->transpose(1, 2).contiguous() : Tensor();
  backward_heads<Element>(shape, inputs, mechanism, grad_out, support, delta.const_data_ptr<float>(),
                          grad_log_mass ? of_mass.const_data_ptr<float>() : nullptr,
                          statistics.const_data_ptr<float>(), gradients);
}

// Gradients of query, key, value, query_bias and key_bias; the last two are empty where there is no such bias.
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> backward(
    const Tensor& grad_out, const optional<Tensor>& grad_log_mass, const Tensor& out, const Tensor& rest,
    const Tensor& support, const Tensor& statistics, const Tensor& query, const Tensor& key, const Tensor& value,
    const optional<Tensor>& query_bias, const optional<Tensor>& key_bias,
    const optional<Tensor>& slope, const Tensor& first, const Tensor& last, const Tensor& position, double scale,
    const optional<Tensor>& source, double amplitude, std::string mechanism) {
  const Mechanism& functions = find_mechanism(mechanism);
  Shape shape(query, key, value);
  Inputs inputs(query, key, value, query_bias, key_bias, slope, first, last, position, scale, source, amplitude);
  auto fresh = [](const Tensor& like) { return at::empty(like.sizes(), like.options()); };
  auto of_bias = [&](const optional<Tensor>& bias) {
    return bias ? optional<Tensor>(at::empty(bias->sizes(), bias->options().dtype(at::kFloat))) : std::nullopt;
  };
  Gradients gradients{fresh(query), fresh(key), fresh(value), of_bias(query_bias), of_bias(key_bias)};
  Tensor grad = width_contiguous(grad_out.to(query.scalar_type())), mixed = width_contiguous(out);
  if (shape.half)
    backward_of<BFloat16>(shape, inputs, functions, grad, grad_log_mass, mixed, rest, support, statistics, gradients);
  else
    backward_of<float>(shape, inputs, functions, grad, grad_log_mass, mixed, rest, support, statistics, gradients);
  auto as_output = [&](const optional<Tensor>& grad, const optional<Tensor>& bias) {
    return grad ? grad->to(bias->scalar_type()) : at::empty({0}, query.options().dtype(at::kFloat));
  };
  return {gradients.query, gradients.key, gradients.value, as_output(gradients.query_bias, query_bias),
          as_output(gradients.key_bias, key_bias)};
}

}  // namespace
