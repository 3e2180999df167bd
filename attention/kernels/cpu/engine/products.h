// Matrix products: out[rows, columns] (+)= left[rows, depth] right[depth, columns], and what packs their operands.
#pragma once
#include "engine/operands.h"
#include "simd.h"

#include <ATen/native/CPUBlas.h>

#include <cstring>
#include <utility>

namespace {

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

}  // namespace
