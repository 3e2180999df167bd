// Sizes of blocks and tiles, and aligned memory.
#pragma once
#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <optional>

namespace {

using at::BFloat16;
using at::Tensor;
using std::optional;

constexpr int64_t KEYS = 64;        // the grain of key ranges in the forward pass
constexpr int64_t WIDE_KEYS = 256;  // keys of a large matrix product there
constexpr int64_t TILE_KEYS = 128;  // keys of a tile in the backward pass
constexpr int64_t QUERIES = 64;     // queries of a tile there, and most rows of a block in the forward pass
constexpr int64_t SHORT = 16;       // the grain of a tile where a sequence is shorter than one, and of widths, in float32
constexpr int64_t PAIRED = 32;      // the grain of widths in half types
constexpr int64_t FEW_QUERIES = 4;  // up to which keys and values are read where they lie
constexpr int64_t GROUP_ROWS = 16;  // queries and TILE_KEYS keys of which it is kept whether they have a weight
constexpr int64_t BLOCK_SCORES = 1 << 19;  // scores of a row block: with fewer rows, all keys pass by more often
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

}  // namespace
