// Blocked attention for every mechanism: matrix products, threads and memory. The mathematics of a mechanism comes in
// as a table of functions (table.h) that is compiled apart from this file.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/native/CPUBlas.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <dlfcn.h>
#include <torch/library.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <functional>
#include <memory>
#include <mutex>
#include <tuple>
#include <type_traits>
#include <utility>
#include <unordered_map>
#include <vector>

#include "noise.h"
#include "simd.h"
#include "table.h"

namespace {

using at::BFloat16;
using at::Tensor;
using std::optional;

constexpr int64_t KEYS = 64;        // the grain of key ranges in the forward pass
constexpr int64_t WIDE_KEYS = 256;  // keys of a large matrix product there
constexpr int64_t TILE_KEYS = 128;  // keys of a tile in the backward pass
constexpr int64_t QUERIES = 64;     // queries of a tile there, and most rows of a block in the forward pass
constexpr int64_t FEW_QUERIES = 4;  // up to which keys and values are read where they lie
constexpr int64_t GROUP_ROWS = 16;  // queries and TILE_KEYS keys of which it is kept whether they have a weight
constexpr int64_t BLOCK_SCORES = 1 << 18;  // scores of a row block, so that it stays in the second-level cache
constexpr int64_t THREAD_PRODUCTS = 1 << 18;  // below which a thread is not woken, where the work is small

int64_t round_up(int64_t size, int64_t grain) { return (size + grain - 1) / grain * grain; }

// Uninitialised memory that starts at a cache line.
template <class Element>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(int64_t size) { resize(size); }
  void resize(int64_t size) {
    if (size <= size_) return;
    memory.reset(std::aligned_alloc(64, round_up(size * sizeof(Element), 64)));
    TORCH_CHECK_WITH(OutOfMemoryError, memory, "cannot allocate ", size * sizeof(Element), " bytes");
    size_ = size;
  }
  Element* data() const { return static_cast<Element*>(memory.get()); }
  Element& operator[](int64_t place) const { return data()[place]; }
  void fill(Element value) const { std::fill(data(), data() + size_, value); }
  int64_t size() const { return size_; }

 private:
  struct Free {
    void operator()(void* memory) const { std::free(memory); }
  };
  std::unique_ptr<void, Free> memory;
  int64_t size_ = 0;
};

// ---- mechanisms by name

std::mutex loading;
std::unordered_map<std::string, const Mechanism*> loaded;

void load_mechanism(std::string name, std::string path) {
  std::lock_guard<std::mutex> guard(loading);
  if (loaded.count(name)) return;
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  TORCH_CHECK(library, "cannot load ", path, ": ", dlerror());
  auto table = reinterpret_cast<const Mechanism* (*)()>(dlsym(library, "mechanism"));
  TORCH_CHECK(table, path, " exports no mechanism");
  loaded[name] = table();
}

const Mechanism& find_mechanism(const std::string& name) {
  std::lock_guard<std::mutex> guard(loading);
  auto found = loaded.find(name);
  TORCH_CHECK(found != loaded.end(), "no compiled functions for ", name, " are loaded");
  return *found->second;
}

// ---- operands

// A strided [batch, length, heads, width] tensor, or one without width; width is contiguous.
template <class Element>
struct View {
  Element* data = nullptr;
  int64_t batch = 0, length = 0, head = 0;
  View() = default;
  explicit View(const Tensor& tensor)
      : data(static_cast<Element*>(tensor.data_ptr())),
        batch(tensor.stride(0)),
        length(tensor.stride(1)),
        head(tensor.stride(2)) {}
  Element* at(int64_t b, int64_t t, int64_t h) const { return data + b * batch + t * length + h * head; }
};

struct Shape {
  int64_t batch, queries, keys, heads, key_heads, head_dim, value_dim;
  int64_t group, padded_queries, padded_keys, padded_dim, padded_value;
  Shape(const Tensor& query, const Tensor& key, const Tensor& value)
      : batch(query.size(0)),
        queries(query.size(1)),
        keys(key.size(1)),
        heads(query.size(2)),
        key_heads(key.size(2)),
        head_dim(query.size(3)),
        value_dim(value.size(3)),
        group(heads / key_heads),
        padded_queries(round_up(queries, QUERIES)),
        padded_keys(round_up(keys, WIDE_KEYS)),
        padded_dim(round_up(head_dim, 32)),
        padded_value(round_up(value_dim, 32)) {}
};

// Everything about scores but the products of queries and keys.
struct Scoring {
  float scale;
  bool biased;
  View<const float> query_bias, key_bias;
  const float* slope = nullptr;
  Noise noise;
  const int32_t *first, *last, *position;
  int64_t mask_stride;  // 0 where all sequences share a mask
  const int32_t* first_of(int64_t b) const { return first + b * mask_stride; }
  const int32_t* last_of(int64_t b) const { return last + b * mask_stride; }
};

Tensor width_contiguous(const Tensor& tensor) { return tensor.stride(-1) == 1 ? tensor : tensor.contiguous(); }

struct Inputs {
  Tensor query, key, value, first, last, position;
  optional<Tensor> query_bias, key_bias, slope;
  Scoring scoring;

  Inputs(const Tensor& query_, const Tensor& key_, const Tensor& value_, const optional<Tensor>& query_bias_,
         const optional<Tensor>& key_bias_, const optional<Tensor>& slope_, const Tensor& first_, const Tensor& last_,
         const Tensor& position_, double scale, const optional<Tensor>& source, double amplitude)
      : query(width_contiguous(query_)),
        key(width_contiguous(key_)),
        value(width_contiguous(value_)),
        first(first_.to(at::kInt).contiguous()),
        last(last_.to(at::kInt).contiguous()),
        position(position_.to(at::kInt).contiguous()) {
    scoring.scale = static_cast<float>(scale);
    scoring.biased = query_bias_ || key_bias_ || slope_;
    if (query_bias_) {
      query_bias = query_bias_->to(at::kFloat);
      scoring.query_bias = View<const float>(*query_bias);
    }
    if (key_bias_) {
      key_bias = key_bias_->to(at::kFloat);
      scoring.key_bias = View<const float>(*key_bias);
    }
    if (slope_) {
      slope = slope_->to(at::kFloat).contiguous();
      scoring.slope = slope->const_data_ptr<float>();
    }
    if (source) {
      Tensor words = source->contiguous();
      const int64_t* word = words.const_data_ptr<int64_t>();
      scoring.noise = {true, uint64_t(word[0]), static_cast<float>(amplitude), uint32_t(word[1])};
    }
    scoring.first = first.const_data_ptr<int32_t>();
    scoring.last = last.const_data_ptr<int32_t>();
    scoring.position = position.const_data_ptr<int32_t>();
    scoring.mask_stride = first.size(0) == 1 ? 0 : first.size(1);
  }
};

// BFloat16 as the bits that simd.h works on.
template <class Element>
auto raw(Element* pointer) {
  if constexpr (std::is_same_v<std::remove_const_t<Element>, float>)
    return pointer;
  else
    return reinterpret_cast<std::conditional_t<std::is_const_v<Element>, const uint16_t*, uint16_t*>>(pointer);
}

// ---- matrix products: out[rows, columns] (+)= left[rows, depth] right[depth, columns]

// Half types want the right side with two consecutive depths side by side: [depth / 2, columns, 2].
template <class Element>
constexpr bool paired = !std::is_same_v<Element, float>;

template <class Element>
void multiply(int64_t rows, int64_t columns, int64_t depth, const Element* left, int64_t left_stride,
              const Element* right, int64_t right_stride, float* out, int64_t out_stride, bool add) {
  at::native::cpublas::brgemm(rows, columns, depth, left_stride, right_stride, out_stride, add, left, right, out,
                              paired<Element>);
}

// Copies rows [0, count) of a matrix to a padded one; what is beyond is zero.
template <class Element>
void copy_rows(const Element* from, int64_t from_stride, int64_t count, int64_t width, Element* to, int64_t rows,
               int64_t padded_width) {
  for (int64_t row = 0; row < rows; row++, to += padded_width) {
    int64_t copied = row < count ? width : 0;
    if (copied) std::memcpy(to, from + row * from_stride, sizeof(Element) * copied);
    std::memset(static_cast<void*>(to + copied), 0, sizeof(Element) * (padded_width - copied));
  }
}

// The same as the right side of a product, depth = rows; for half types, pairs of rows become words of 32 bits.
template <class Element>
void pack_rows(const Element* from, int64_t from_stride, int64_t count, int64_t width, Element* to, int64_t rows,
               int64_t padded_width) {
  if constexpr (!paired<Element>) {
    copy_rows(from, from_stride, count, width, to, rows, padded_width);
  } else {
    Buffer<Element> two(2 * padded_width);
    for (int64_t row = 0; row < rows; row += 2, to += 2 * padded_width) {
      copy_rows(from + row * from_stride, from_stride, count - row, width, two.data(), 2, padded_width);
      for (int64_t column = 0; column < padded_width; column += LANES)
        interleave(raw(two.data()) + column, raw(two.data()) + padded_width + column, raw(to) + 2 * column);
    }
  }
}

// Rows as columns of the right side of a product, depth = width: words of 32 bits change place.
template <class Element>
void pack_columns(const Element* from, int64_t from_stride, int64_t count, int64_t width, Element* to, int64_t rows,
                  int64_t padded_width, int64_t to_stride, Buffer<Element>& scratch) {
  constexpr int64_t per_word = 4 / sizeof(Element);
  if (count < rows || width < padded_width || from_stride % per_word || reinterpret_cast<uintptr_t>(from) % 4) {
    scratch.resize(rows * padded_width);
    copy_rows(from, from_stride, count, width, scratch.data(), rows, padded_width);
    from = scratch.data();
    from_stride = padded_width;
  }
  transpose(reinterpret_cast<const int32_t*>(from), from_stride / per_word, rows, padded_width / per_word,
            reinterpret_cast<int32_t*>(to), to_stride);
}

// Rows as columns of the left side of a product: [padded_width, rows].
template <class Element>
void transpose_rows(const Element* from, int64_t from_stride, int64_t count, int64_t width, Element* to, int64_t rows,
                    int64_t padded_width, Buffer<Element>& scratch) {
  constexpr int64_t per_word = 4 / sizeof(Element);
  if (paired<Element> || count < rows || width < padded_width) {
    scratch.resize(rows * padded_width);
    pack_rows(from, from_stride, count, width, scratch.data(), rows, padded_width);
    from = scratch.data();
    from_stride = padded_width;
  }
  transpose(reinterpret_cast<const int32_t*>(from), from_stride, rows / per_word, padded_width,
            reinterpret_cast<int32_t*>(to), rows / per_word);
}

// ---- threads

// Numbers below 1e-38 cost a hundred times as much as others and no sum of weights feels them: they become zero.
struct FlushSubnormals {
#ifdef __SSE__
  unsigned before = _mm_getcsr();
  FlushSubnormals() { _mm_setcsr(before | 0x8040); }
  ~FlushSubnormals() { _mm_setcsr(before); }
#endif
};

// Runs task(index, space) for all indices, each taken by the next free thread with the space it made for itself.
// `products`, of numbers: how much work it is in all; waking a thread for less than THREAD_PRODUCTS takes longer.
template <class MakeSpace, class Task>
void dynamic(int64_t count, MakeSpace make_space, Task task, int64_t products = INT64_MAX) {
  std::atomic<int64_t> next{0};
  int64_t worth = std::max<int64_t>(1, products / THREAD_PRODUCTS);
  int64_t threads = std::min({int64_t(at::get_num_threads()), count, worth});
  at::parallel_for(0, threads, 1, [&](int64_t, int64_t) {
    FlushSubnormals flush;
    auto space = make_space();
    for (int64_t index; (index = next.fetch_add(1)) < count;) task(index, space);
    at::native::cpublas::brgemm_release();
  });
}

struct Nothing {};
Nothing no_space() { return {}; }

// ---- row blocks

// The keys that some row of a block sees, [low, high); empty as low == high.
std::pair<int64_t, int64_t> seen(const int32_t* first, const int32_t* last, int64_t rows) {
  int64_t low = INT32_MAX, high = 0;
  for (int64_t row = 0; row < rows; row++) {
    if (first[row] >= last[row]) continue;
    low = std::min<int64_t>(low, first[row]);
    high = std::max<int64_t>(high, last[row]);
  }
  return {std::min(low, high), high};
}

// Memory of one thread that computes row blocks.
template <class Element>
struct RowSpace {
  Buffer<float> score, out, bias, row_scale, row_bias, position, scratch;
  Buffer<Element> query, weight;
  Buffer<uint8_t> occupied;
  Buffer<int32_t> first, last;
  int64_t stride;

  RowSpace(const Shape& shape, int64_t rows, int64_t width)
      : stride(round_up(width, KEYS) + KEYS + LANES) {
    score.resize(rows * stride);
    if (paired<Element>) weight.resize(rows * stride);
    query.resize(rows * shape.padded_dim);
    out.resize(rows * shape.padded_value);
    bias.resize(stride);
    scratch.resize(stride);
    occupied.resize(stride / LANES);
    for (auto* per_row : {&row_scale, &row_bias, &position}) per_row->resize(rows);
    first.resize(rows);
    last.resize(rows);
  }
};

// Describes rows [start, start + rows) of head h against keys from `low` on.
template <class Element>
RowBlock describe(const Scoring& scoring, RowSpace<Element>& space, int64_t b, int64_t h, int64_t start, int64_t rows,
                  int64_t low, int64_t columns, int64_t keys, float* statistics, int64_t statistics_stride) {
  const int32_t *first = scoring.first_of(b) + start, *last = scoring.last_of(b) + start;
  for (int64_t row = 0; row < rows; row++) {
    bool empty = first[row] >= last[row];
    space.first[row] = empty ? 0 : first[row] - low;
    space.last[row] = empty ? 0 : last[row] - low;
  }
  RowBlock block{};
  block.score = space.score.data();
  block.stride = space.stride;
  block.rows = rows;
  block.columns = columns;
  block.first = space.first.data();
  block.last = space.last.data();
  block.scale = scoring.scale;
  block.scratch = space.scratch.data();
  block.occupied = space.occupied.data();
  block.statistics = statistics + start;
  block.statistics_stride = statistics_stride;
  if (scoring.biased) {
    for (int64_t row = 0; row < rows; row++) {
      space.row_bias[row] = scoring.query_bias.data ? *scoring.query_bias.at(b, start + row, h) : 0.f;
      space.position[row] = float(scoring.position[start + row] - low);
    }
    for (int64_t column = 0; column < columns; column++)
      space.bias[column] =
          scoring.key_bias.data && low + column < keys ? *scoring.key_bias.at(b, low + column, h) : 0.f;
    block.query_bias = space.row_bias.data();
    block.key_bias = space.bias.data();
    block.position = space.position.data();
    block.slope = scoring.slope ? scoring.slope[h] : 0.f;
  }
  return block;
}

// Products become scores with noise.
inline void add_noise(const Scoring& scoring, RowBlock& block, int64_t b, int64_t h, int64_t start, int64_t low) {
  for (int row = 0; row < block.rows; row++) {
    float* score = block.score + row * block.stride;
    uvec position = uvec{} + uint32_t(scoring.position[start + row]);
    for (int column = block.first[row] & ~(LANES - 1); column < block.last[row]; column += LANES)
      store(score + column, load(score + column) * block.scale +
                                scoring.noise(uvec(lanes()) + uint32_t(low + column), position, h, b));
  }
  block.scale = 1.f;
}

// Keys or values of one head as the right side of products with queries: blocks of WIDE_KEYS transposed rows.
template <class Element>
void products(int64_t rows, const Element* left, int64_t depth, const Element* packed, int64_t low, int64_t columns,
              float* out, int64_t stride) {
  for (int64_t column = 0; column < columns;) {
    int64_t key = low + column, inside = key % WIDE_KEYS;
    bool wide = inside == 0 && columns - column >= WIDE_KEYS;
    int64_t width = wide ? WIDE_KEYS : KEYS;
    const Element* right = packed + (key - inside) * depth + inside * (paired<Element> ? 2 : 1);
    multiply(rows, width, depth, left, depth, right, WIDE_KEYS, out + column, stride, false);
    column += width;
  }
}

// ---- forward

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
const float* widened(const Element* from, const Buffer<float>& line, int64_t width) {
  if constexpr (!paired<Element>)
    if (width % LANES == 0) return from;
  widen(from, line.data(), width);
  return line.data();
}

int64_t block_rows(int64_t width) {
  return std::clamp<int64_t>(BLOCK_SCORES / std::max<int64_t>(width, 1) / 16 * 16, 16, QUERIES);
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

template <class Element>
struct PackedKeys {
  Buffer<Element> key, value;  // per head: keys transposed for scores, values for outputs

  PackedKeys(const Shape& shape, const Tensor& key_, const Tensor& value_) {
    View<const Element> keys(key_), values(value_);
    key.resize(shape.batch * shape.key_heads * shape.padded_keys * shape.padded_dim);
    value.resize(shape.batch * shape.key_heads * shape.padded_keys * shape.padded_value);
    int64_t blocks = shape.padded_keys / WIDE_KEYS;
    auto make_scratch = [] { return Buffer<Element>(); };
    dynamic(shape.batch * shape.key_heads * blocks, make_scratch, [&](int64_t index, Buffer<Element>& scratch) {
      int64_t head = index / blocks, start = index % blocks * WIDE_KEYS;
      int64_t b = head / shape.key_heads, h = head % shape.key_heads, count = shape.keys - start;
      Element* key_block = key.data() + (head * shape.padded_keys + start) * shape.padded_dim;
      Element* value_block = value.data() + (head * shape.padded_keys + start) * shape.padded_value;
      pack_columns(keys.at(b, start, h), keys.length, count, shape.head_dim, key_block, WIDE_KEYS, shape.padded_dim,
                   WIDE_KEYS, scratch);
      pack_rows(values.at(b, start, h), values.length, count, shape.value_dim, value_block, WIDE_KEYS,
                shape.padded_value);
    });
  }
};

template <class Element>
void forward_blocks(const Shape& shape, const Inputs& inputs, const Mechanism& mechanism, Tensor& out, Tensor& rest,
                    Tensor& support, float* statistics) {
  const Scoring& scoring = inputs.scoring;
  int64_t rows = block_rows(widest(scoring, shape, QUERIES)), width = widest(scoring, shape, rows);
  int64_t blocks = (shape.queries + rows - 1) / rows;
  View<const Element> query(inputs.query);
  View<Element> output(out), lost;
  if (rest.numel()) lost = View<Element>(rest);
  View<uint8_t> supported;
  if (support.numel()) supported = View<uint8_t>(support);
  int64_t widest_depth = mechanism.vanishes ? TILE_KEYS : WIDE_KEYS;
  PackedKeys<Element> packed(shape, inputs.key, inputs.value);
  auto make_space = [&] { return RowSpace<Element>(shape, rows, width); };
  dynamic(shape.batch * shape.heads * blocks, make_space, [&](int64_t index, RowSpace<Element>& space) {
    // Under a causal mask the last rows take longest: they come first.
    int64_t start = (blocks - 1 - index / (shape.batch * shape.heads)) * rows;
    int64_t head = index % (shape.batch * shape.heads), b = head / shape.heads, h = head % shape.heads;
    int64_t count = std::min(rows, shape.queries - start);
    auto [low, high] = seen(scoring.first_of(b) + start, scoring.last_of(b) + start, count);
    low = low / KEYS * KEYS;
    int64_t columns = round_up(high - low, KEYS);
    int64_t key_head = b * shape.key_heads + h / shape.group;
    const Element* keys = packed.key.data() + key_head * shape.padded_keys * shape.padded_dim;
    const Element* values = packed.value.data() + key_head * shape.padded_keys * shape.padded_value;
    copy_rows(query.at(b, start, h), query.length, count, shape.head_dim, space.query.data(), rows,
              shape.padded_dim);
    products(rows, space.query.data(), shape.padded_dim, keys, low, columns, space.score.data(), space.stride);
    float* row_statistics = statistics + head * shape.queries;
    RowBlock block = describe(scoring, space, b, h, start, count, low, columns, shape.keys, row_statistics,
                              shape.batch * shape.heads * shape.queries);
    if (scoring.noise.drawn) add_noise(scoring, block, b, h, start, low);
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
      multiply(rows, shape.padded_value, depth, weight + column, space.stride,
               values + (low + column) * shape.padded_value, shape.padded_value, space.out.data(),
               shape.padded_value, mixed);
      mixed = true;
    }
    if (!mixed) space.out.fill(0.f);
    for (int64_t row = start; supported.data && row < start + count; row += GROUP_ROWS)
      for (int64_t column = 0; column < columns; column += LANES)
        supported.at(b, row / GROUP_ROWS, h)[(low + column) / TILE_KEYS] |= space.occupied[column / LANES];
    for (int64_t row = 0; row < count; row++)
      write_output(output, lost, b, start + row, h, space.out.data() + row * shape.padded_value,
                   columns ? space.row_scale[row] : 0.f, shape.value_dim);
  });
}

// A few queries against many keys: memory bound, so keys and values are read once, where they lie.
template <class Element>
void forward_few(const Shape& shape, const Inputs& inputs, const Mechanism& mechanism, Tensor& out, Tensor& rest,
                 float* statistics) {
  const Scoring& scoring = inputs.scoring;
  View<const Element> query(inputs.query), key(inputs.key), value(inputs.value);
  View<Element> output(out), lost;
  if (rest.numel()) lost = View<Element>(rest);
  int64_t rows = shape.queries, width = widest(scoring, shape, rows);
  dynamic(shape.batch * shape.key_heads, no_space, [&](int64_t index, Nothing) {
    int64_t b = index / shape.key_heads, key_head = index % shape.key_heads;
    RowSpace<float> space(shape, rows * shape.group, width);
    auto [low, high] = seen(scoring.first_of(b), scoring.last_of(b), rows);
    low = low / KEYS * KEYS;
    int64_t columns = round_up(high - low, LANES), wide = shape.padded_dim;
    space.query.fill(0.f);
    for (int64_t row = 0; row < rows * shape.group; row++) {
      const Element* source = query.at(b, row % rows, key_head * shape.group + row / rows);
      widen(source, space.query.data() + row * wide, shape.head_dim);
    }
    Buffer<float> line(std::max(shape.padded_dim, shape.padded_value));
    line.fill(0.f);
    for (int64_t column = 0; column < high - low; column++) {
      const float* keys = widened(key.at(b, low + column, key_head), line, shape.head_dim);
      for (int64_t row = 0; row < rows * shape.group; row++) {
        vec total = broadcast(0.f);
        for (int64_t d = 0; d < shape.head_dim; d += LANES)
          total = fused(load(keys + d), load(space.query.data() + row * wide + d), total);
        space.score[row * space.stride + column] = sum(total);
      }
    }
    Buffer<float> mixed(rows * shape.group * shape.padded_value);
    mixed.fill(0.f);
    for (int64_t g = 0; g < shape.group; g++) {
      int64_t h = key_head * shape.group + g;
      RowBlock block = describe(scoring, space, b, h, 0, rows, low, columns, shape.keys,
                                statistics + (b * shape.heads + h) * shape.queries,
                                shape.batch * shape.heads * shape.queries);
      block.score += g * rows * space.stride;
      if (scoring.noise.drawn) add_noise(scoring, block, b, h, 0, low);
      mechanism.weights(block, block.score, space.row_scale.data() + g * rows);
    }
    line.fill(0.f);
    for (int64_t column = 0; column < high - low; column++) {
      const float* values = widened(value.at(b, low + column, key_head), line, shape.value_dim);
      for (int64_t row = 0; row < rows * shape.group; row++) {
        float weight = space.score[row * space.stride + column];
        if (weight == 0.f) continue;
        float* to = mixed.data() + row * shape.padded_value;
        for (int64_t d = 0; d < shape.value_dim; d += LANES) store(to + d, fused(load(values + d), weight, load(to + d)));
      }
    }
    for (int64_t row = 0; row < rows * shape.group; row++)
      write_output(output, lost, b, row % rows, key_head * shape.group + row / rows,
                   mixed.data() + row * shape.padded_value, space.row_scale[row], shape.value_dim);
  }, shape.batch * shape.heads * rows * width * (shape.head_dim + shape.value_dim));
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
  bool half = query.scalar_type() != at::kFloat, few = shape.queries <= FEW_QUERIES && !trains;
  Tensor out = at::empty({shape.batch, shape.queries, shape.heads, shape.value_dim}, query.options());
  Tensor rest = half && trains ? at::empty(out.sizes(), out.options()) : at::empty({0}, query.options());
  Tensor support = at::zeros({0}, query.options().dtype(at::kByte));
  if (keeps_support) {
    int64_t groups = (shape.queries + GROUP_ROWS - 1) / GROUP_ROWS, tiles = (shape.keys + TILE_KEYS - 1) / TILE_KEYS;
    support = at::zeros({shape.batch, groups, shape.heads, tiles}, support.options());
  }
  Tensor statistics = at::zeros({MAXIMUM_STATISTICS, shape.batch, shape.heads, shape.queries},
                                query.options().dtype(at::kFloat));
  float* rows = statistics.data_ptr<float>();
  if (half)
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

// ---- backward

// delta = sum of (out + rest) * grad_out, per row [B, H, T].
template <class Element>
void weigh_outputs(const Shape& shape, const Tensor& out, const Tensor& rest, const Tensor& grad_out, float* delta) {
  View<const Element> mixed(out), grad(grad_out), lost;
  if (rest.numel()) lost = View<const Element>(rest);
  dynamic(shape.batch * shape.heads, no_space, [&](int64_t head, Nothing) {
    int64_t b = head / shape.heads, h = head % shape.heads;
    for (int64_t t = 0; t < shape.queries; t++) {
      const Element *x = mixed.at(b, t, h), *y = grad.at(b, t, h);
      vec total = broadcast(0.f);
      int64_t d = 0;
      for (; d + LANES <= shape.value_dim; d += LANES) total += load(raw(x) + d) * load(raw(y) + d);
      for (; d < shape.value_dim; d++) total[0] += float(x[d]) * float(y[d]);
      if (lost.data) {
        const Element* z = lost.at(b, t, h);
        for (d = 0; d + LANES <= shape.value_dim; d += LANES) total += load(raw(z) + d) * load(raw(y) + d);
        for (; d < shape.value_dim; d++) total[0] += float(z[d]) * float(y[d]);
      }
      delta[head * shape.queries + t] = sum(total);
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
  int64_t keys;

  explicit HeadSpace(const Shape& shape) : keys(round_up(shape.keys, TILE_KEYS)) {
    for (auto* of_keys : {&key, &key_transposed}) of_keys->resize(keys * shape.padded_dim);
    value.resize(keys * shape.padded_value);
    for (auto* of_queries : {&query, &query_transposed}) of_queries->resize(shape.padded_queries * shape.padded_dim);
    for (auto* of_grads : {&grad, &grad_transposed}) of_grads->resize(shape.padded_queries * shape.padded_value);
    for (auto* tile : {&score, &grad_weight}) tile->resize(TILE_KEYS * QUERIES);
    if (paired<Element>)
      for (auto* tile : {&weight, &grad_score, &grad_score_pairs}) tile->resize(TILE_KEYS * QUERIES);
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
    bounds.resize(shape.padded_queries / QUERIES);
  }
};

template <class Element>
void read_keys(const Shape& shape, const Inputs& inputs, int64_t b, int64_t h, HeadSpace<Element>& space) {
  View<const Element> key(inputs.key), value(inputs.value);
  copy_rows(key.at(b, 0, h), key.length, shape.keys, shape.head_dim, space.key.data(), space.keys, shape.padded_dim);
  copy_rows(value.at(b, 0, h), value.length, shape.keys, shape.value_dim, space.value.data(), space.keys,
            shape.padded_value);
  for (int64_t start = 0; start < space.keys; start += TILE_KEYS)
    transpose_rows(key.at(b, start, h), key.length, shape.keys - start, shape.head_dim,
                   space.key_transposed.data() + start * shape.padded_dim, TILE_KEYS, shape.padded_dim, space.scratch);
}

template <class Element>
void read_queries(const Shape& shape, const Inputs& inputs, const Tensor& grad_out, const float* delta,
                  const float* statistics, int64_t b, int64_t h, HeadSpace<Element>& space) {
  View<const Element> query(inputs.query), grad(grad_out);
  const Scoring& scoring = inputs.scoring;
  for (int64_t start = 0; start < shape.padded_queries; start += QUERIES) {
    int64_t count = std::min(QUERIES, shape.queries - start);
    const Element *queries = query.at(b, start, h), *grads = grad.at(b, start, h);
    int64_t at_query = start * shape.padded_dim, at_grad = start * shape.padded_value;
    pack_rows(queries, query.length, count, shape.head_dim, space.query.data() + at_query, QUERIES, shape.padded_dim);
    pack_rows(grads, grad.length, count, shape.value_dim, space.grad.data() + at_grad, QUERIES, shape.padded_value);
    pack_columns(queries, query.length, count, shape.head_dim, space.query_transposed.data() + at_query, QUERIES,
                 shape.padded_dim, QUERIES, space.scratch);
    pack_columns(grads, grad.length, count, shape.value_dim, space.grad_transposed.data() + at_grad, QUERIES,
                 shape.padded_value, QUERIES, space.scratch);
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
    const int32_t *first = space.first.data() + tile * QUERIES, *last = space.last.data() + tile * QUERIES;
    auto [low, high] = seen(first, last, QUERIES);
    space.bounds[tile] = {low, high, *std::max_element(first, first + QUERIES), *std::min_element(last, last + QUERIES)};
  }
}

template <class Element>
Tile describe_tile(const Shape& shape, const Scoring& scoring, const HeadSpace<Element>& space, Bounds bounds,
                   int64_t g, int64_t h, int64_t start_key, int64_t start_query, bool learned_biases) {
  Tile tile{};
  tile.score = space.score.data();
  tile.grad_weight = space.grad_weight.data();
  tile.keys = std::min(TILE_KEYS, round_up(bounds.high - start_key, TILE_KEYS / 2));
  tile.queries = QUERIES;
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
  int64_t dim = shape.padded_dim, value_dim = shape.padded_value;
  multiply(tile.keys, QUERIES, dim, space.key.data() + start_key * dim, dim,
           space.query_transposed.data() + start_query * dim, QUERIES, space.score.data(), QUERIES, false);
  multiply(tile.keys, QUERIES, value_dim, space.value.data() + start_key * value_dim, value_dim,
           space.grad_transposed.data() + start_query * value_dim, QUERIES, space.grad_weight.data(), QUERIES, false);
}

template <class Element>
void add_gradients(const Shape& shape, const Mechanism& mechanism, const Tile& tile, const HeadSpace<Element>& space,
                   int64_t start_key, int64_t start_query, float* grad_query) {
  int64_t dim = shape.padded_dim, value_dim = shape.padded_value;
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
  multiply(tile.keys, value_dim, QUERIES, weight, QUERIES, space.grad.data() + start_query * value_dim, value_dim,
           space.grad_value.data() + start_key * value_dim, value_dim, true);
  multiply(tile.keys, dim, QUERIES, grad_score, QUERIES, space.query.data() + start_query * dim, dim,
           space.grad_key.data() + start_key * dim, dim, true);
  multiply(dim, QUERIES, tile.keys, space.key_transposed.data() + start_key * dim, TILE_KEYS, grad_score_right, QUERIES,
           grad_query + start_query * dim, QUERIES, true);
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
  int64_t dim = shape.padded_dim;
  Buffer<float> rows(QUERIES * dim);
  for (int64_t g = 0; g < shape.group; g++) {
    int64_t h = key_head * shape.group + g;
    for (int64_t start = 0; start < shape.queries; start += QUERIES) {
      float* first = parts[0] + (g * shape.padded_queries + start) * dim;
      for (size_t part = 1; part < parts.size(); part++)
        for (int64_t place = 0; place < QUERIES * dim; place++)
          first[place] += parts[part][(g * shape.padded_queries + start) * dim + place];
      transpose(reinterpret_cast<const int32_t*>(first), QUERIES, dim, QUERIES, reinterpret_cast<int32_t*>(rows.data()),
                dim);
      for (int64_t t = start; t < std::min(start + QUERIES, shape.queries); t++)
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
  int64_t heads = shape.batch * shape.key_heads, key_tiles = (shape.keys + TILE_KEYS - 1) / TILE_KEYS;
  // Fewer heads than threads: several threads share a head, each with every n-th tile of its keys.
  int64_t shares = std::clamp<int64_t>((at::get_num_threads() + heads - 1) / heads, 1, key_tiles);
  View<const uint8_t> supported;
  if (support.numel()) supported = View<const uint8_t>(support);
  // Whether a tile of queries of a head has a weight among a tile of keys.
  auto has_weights = [&](int64_t b, int64_t h, int64_t start_query, int64_t start_key) {
    int64_t row = start_query, end = std::min(start_query + QUERIES, shape.queries);
    while (row < end && !supported.at(b, row / GROUP_ROWS, h)[start_key / TILE_KEYS]) row += GROUP_ROWS;
    return row < end;
  };
  bool learned = gradients.query_bias || gradients.key_bias;
  std::vector<Buffer<float>> parts(shares > 1 ? heads * shares : 0), bias_parts(parts.size());
  auto make_space = [&] { return HeadSpace<Element>(shape); };
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
      auto visit_tile = [&](int64_t start_key, int64_t start_query, auto visit) {
        Bounds bounds = space.bounds[start_query / QUERIES];
        if (bounds.low >= bounds.high || bounds.low >= start_key + TILE_KEYS || bounds.high <= start_key) return;
        if (supported.data && !has_weights(b, h, start_query, start_key)) return;
        Tile tile = describe_tile(shape, scoring, space, bounds, g, h, start_key, start_query, learned);
        tile_products(shape, tile, space, start_key, start_query);
        if (scoring.noise.drawn) add_noise(scoring, tile, b, h, space.position.data() + start_query);
        visit(tile);
      };
      if (mechanism.prepare) {
        space.sums.fill(0.f);
        for (int64_t start_query = 0; start_query < shape.padded_queries; start_query += QUERIES) {
          for (int64_t start_key = 0; start_key < space.keys; start_key += TILE_KEYS)
            visit_tile(start_key, start_query, mechanism.prepare);
          Tile tile = describe_tile(shape, scoring, space, Bounds{}, g, h, 0, start_query, learned);
          mechanism.finish(tile, space.delta.data() + start_query, space.statistics.data() + start_query);
        }
      }
      float* shift = space.statistics.data() + SHIFT * shape.padded_queries;
      for (int64_t t = 0; grad_log_mass && t < shape.queries; t++) {
        float of_mass = grad_log_mass[(b * shape.heads + h) * shape.queries + t];
        mechanism.shifts ? shift[t] += of_mass : space.delta[t] -= of_mass;
      }
      for (int64_t start_key = share * TILE_KEYS; start_key < space.keys; start_key += shares * TILE_KEYS)
        for (int64_t start_query = 0; start_query < shape.padded_queries; start_query += QUERIES)
          visit_tile(start_key, start_query, [&](const Tile& tile) {
            add_gradients(shape, mechanism, tile, space, start_key, start_query,
                          space.grad_query.data() + g * shape.padded_queries * shape.padded_dim);
          });
    }
    View<Element> grad_key(gradients.key), grad_value(gradients.value);
    for (int64_t s = 0; s < shape.keys; s++) {
      if (s / TILE_KEYS % shares != share) continue;
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
  if (query.scalar_type() == at::kFloat)
    backward_of<float>(shape, inputs, functions, grad, grad_log_mass, mixed, rest, support, statistics, gradients);
  else
    backward_of<BFloat16>(shape, inputs, functions, grad, grad_log_mass, mixed, rest, support, statistics, gradients);
  auto as_output = [&](const optional<Tensor>& grad, const optional<Tensor>& bias) {
    return grad ? grad->to(bias->scalar_type()) : at::empty({0}, query.options().dtype(at::kFloat));
  };
  return {gradients.query, gradients.key, gradients.value, as_output(gradients.query_bias, query_bias),
          as_output(gradients.key_bias, key_bias)};
}

// ---- vectors brought to a length: y = factor x / max(|x|, SHORTEST)

constexpr float SHORTEST = 1e-12f;

// visit(row, b, t, h) for all vectors, row counting them.
template <class Visit>
void each_vector(const Tensor& vectors, Visit visit) {
  int64_t length = vectors.size(1), heads = vectors.size(2), grain = std::max<int64_t>(1, (1 << 14) / vectors.size(3));
  at::parallel_for(0, vectors.size(0) * length * heads, grain, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; row++)
      visit(row, row / heads / length, row / heads % length, row % heads);
  });
}

// The sum of products of two vectors; what is beyond the last whole vector register comes one by one.
template <class Element>
float dot(const Element* x, const Element* y, int64_t width) {
  vec total = broadcast(0.f);
  int64_t d = 0;
  for (; d + LANES <= width; d += LANES) total = fused(load(raw(x) + d), load(raw(y) + d), total);
  for (; d < width; d++) total[0] += float(x[d]) * float(y[d]);
  return sum(total);
}

template <class Element>
void unit_of(const Tensor& vectors, const Tensor& factor, Tensor& out) {
  View<const Element> from(vectors);
  View<Element> to(out);
  const float* factors = factor.const_data_ptr<float>();
  int64_t width = vectors.size(3);
  each_vector(vectors, [&](int64_t, int64_t b, int64_t t, int64_t h) {
    const Element* x = from.at(b, t, h);
    Element* y = to.at(b, t, h);
    float length = std::max(std::sqrt(dot(x, x, width)), SHORTEST);
    float times = factors[b * factor.stride(0) + t * factor.stride(1) + h * factor.stride(2)] / length;
    int64_t d = 0;
    for (; d + LANES <= width; d += LANES) store(raw(y) + d, load(raw(x) + d) * times);
    for (; d < width; d++) y[d] = Element(float(x[d]) * times);
  });
}

// dx = factor (dy - u (u . dy)) / |x|,  dfactor = u . dy,  u = x / |x|.
template <class Element>
void unit_backward_of(const Tensor& grad, const Tensor& vectors, const Tensor& factor, Tensor& grad_vectors,
                      Tensor& grad_factor) {
  View<const Element> from(vectors), from_grad(grad);
  View<Element> to(grad_vectors);
  const float* factors = factor.const_data_ptr<float>();
  float* to_factor = grad_factor.data_ptr<float>();
  int64_t width = vectors.size(3);
  each_vector(vectors, [&](int64_t row, int64_t b, int64_t t, int64_t h) {
    const Element *x = from.at(b, t, h), *dy = from_grad.at(b, t, h);
    Element* dx = to.at(b, t, h);
    float length = std::sqrt(dot(x, x, width)), divisor = std::max(length, SHORTEST);
    float along = dot(x, dy, width) / divisor, turned = length < SHORTEST ? 0.f : along / divisor;
    float times = factors[b * factor.stride(0) + t * factor.stride(1) + h * factor.stride(2)] / divisor;
    int64_t d = 0;
    for (; d + LANES <= width; d += LANES)
      store(raw(dx) + d, (load(raw(dy) + d) - load(raw(x) + d) * turned) * times);
    for (; d < width; d++) dx[d] = Element((float(dy[d]) - float(x[d]) * turned) * times);
    to_factor[row] = along;
  });
}

Tensor unit(const Tensor& vectors, const Tensor& factor) {
  Tensor from = width_contiguous(vectors), out = at::empty(vectors.sizes(), vectors.options());
  from.scalar_type() == at::kFloat ? unit_of<float>(from, factor, out) : unit_of<BFloat16>(from, factor, out);
  return out;
}

std::tuple<Tensor, Tensor> unit_backward(const Tensor& grad, const Tensor& vectors, const Tensor& factor) {
  Tensor from = width_contiguous(vectors), from_grad = width_contiguous(grad.to(vectors.scalar_type()));
  Tensor grad_vectors = at::empty(vectors.sizes(), vectors.options());
  Tensor grad_factor = at::empty(factor.sizes(), factor.options());
  from.scalar_type() == at::kFloat
      ? unit_backward_of<float>(from_grad, from, factor, grad_vectors, grad_factor)
      : unit_backward_of<BFloat16>(from_grad, from, factor, grad_vectors, grad_factor);
  return {grad_vectors, grad_factor};
}

// Whether this processor's matrix products serve a type; raises where they do not.
void probe(at::ScalarType type) {
  auto run = [](auto element) {
    using Element = decltype(element);
    Buffer<Element> left(16 * 32), right(32 * 32);
    Buffer<float> out(16 * 32);
    left.fill(Element(1));
    right.fill(Element(1));
    multiply(16, 32, 32, left.data(), 32, right.data(), 32, out.data(), 32, false);
    at::native::cpublas::brgemm_release();
    TORCH_CHECK(out[0] == 32.f, "the matrix product of ones is ", out[0], " and not 32");
  };
  type == at::kFloat ? run(0.f) : run(BFloat16(0));
}

}  // namespace

TORCH_LIBRARY(attention_zoo_cpu, library) {
  library.def("load(str mechanism, str path) -> ()", load_mechanism);
  library.def("probe(ScalarType type) -> ()", probe);
  library.def("unit(Tensor vectors, Tensor factor) -> Tensor");
  library.def("unit_backward(Tensor grad, Tensor vectors, Tensor factor) -> (Tensor, Tensor)");
  library.def(
      "forward(Tensor query, Tensor key, Tensor value, Tensor? query_bias, Tensor? key_bias, Tensor? slope, "
      "Tensor first, Tensor last, Tensor position, float scale, Tensor? source, float amplitude, "
      "str mechanism, bool trains, bool keeps_support, bool with_mass) "
      "-> (Tensor out, Tensor log_mass, Tensor rest, Tensor support, Tensor statistics)");
  library.def(
      "backward(Tensor grad_out, Tensor? grad_log_mass, Tensor out, Tensor rest, Tensor support, Tensor statistics, Tensor query, "
      "Tensor key, Tensor value, "
      "Tensor? query_bias, Tensor? key_bias, Tensor? slope, Tensor first, Tensor last, Tensor position, "
      "float scale, Tensor? source, float amplitude, str mechanism) -> (Tensor, Tensor, Tensor, Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(attention_zoo_cpu, CPU, library) {
  library.impl("forward", forward);
  library.impl("backward", backward);
  library.impl("unit", unit);
  library.impl("unit_backward", unit_backward);
}
