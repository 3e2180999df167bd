// Blocked attention for every mechanism: matrix products, threads and memory. The mathematics of a mechanism comes in
// as a table of functions (table.h) that is compiled apart from this file. One translation unit, of the parts in engine/.
#include <torch/library.h>

#include "engine/backward.h"
#include "engine/forward.h"
#include "engine/mechanisms.h"
#include "engine/row_stats.h"
#include "engine/vectors.h"

namespace {

// Whether the engine and this processor's matrix products serve a type; raises where they do not.
void probe(at::ScalarType type) {
  TORCH_CHECK(type == at::kFloat || type == at::kBFloat16, "the engine knows float32 and bfloat16, not ", type);
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
  library.def(
      "row_stats(Tensor query, Tensor key, Tensor value, Tensor? query_bias, Tensor? key_bias, Tensor? slope, "
      "Tensor first, Tensor last, Tensor position, float scale, Tensor? source, float amplitude, "
      "str mechanism, float small, float floor) -> (Tensor rows, Tensor keys)");
}

TORCH_LIBRARY_IMPL(attention_zoo_cpu, CPU, library) {
  library.impl("forward", forward);
  library.impl("backward", backward);
  library.impl("row_stats", row_stats);
  library.impl("unit", unit);
  library.impl("unit_backward", unit_backward);
}
