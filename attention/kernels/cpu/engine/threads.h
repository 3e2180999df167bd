// Threads: tasks taken by whoever is free.
#pragma once
#include "engine/memory.h"

#include <ATen/Parallel.h>
#include <ATen/native/CPUBlas.h>

#include <algorithm>
#include <atomic>
#ifdef __SSE__
#include <xmmintrin.h>
#endif

namespace {

// Numbers below 1e-38 cost a hundred times as much as others and no sum of weights feels them: they become zero, but where
// zeros are counted.
struct Subnormals {
#ifdef __SSE__
  unsigned before = _mm_getcsr();
  explicit Subnormals(bool kept) { _mm_setcsr(kept ? before & ~0x8040 : before | 0x8040); }
  ~Subnormals() { _mm_setcsr(before); }
#else
  explicit Subnormals(bool) {}
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
    Subnormals subnormals(false);
    auto space = make_space();
    for (int64_t index; (index = next.fetch_add(1)) < count;) task(index, space);
    at::native::cpublas::brgemm_release();
  });
}

struct Nothing {};
Nothing no_space() { return {}; }

}  // namespace
