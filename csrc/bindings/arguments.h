// What Python passes: addresses as integers, and tuples of them with sizes and strides.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <optional>
#include <tuple>

#include "b2m/types.h"

namespace b2m {
namespace bindings {

void register_cpu(pybind11::module_& m);
/// Adds the submodule `cuda` in builds that have kernels.
void register_cuda(pybind11::module_& m);

using Address = std::uintptr_t;
/// address, dtype, rows, columns, row stride, column stride
using MatrixTuple = std::tuple<Address, int, std::int64_t, std::int64_t, std::int64_t, std::int64_t>;
using OptionalMatrix = std::optional<MatrixTuple>;

inline Matrix matrix(const MatrixTuple& from) {
  const auto& [address, dtype, rows, columns, row_stride, column_stride] = from;
  return {reinterpret_cast<void*>(address), static_cast<DType>(dtype), rows, columns, row_stride, column_stride};
}

/// A matrix that may be absent, with an address to pass on.
class MaybeMatrix {
 public:
  explicit MaybeMatrix(const OptionalMatrix& from) : present_(from.has_value()), matrix_(from ? matrix(*from) : Matrix{}) {}
  const Matrix* get() const { return present_ ? &matrix_ : nullptr; }

 private:
  bool present_;
  Matrix matrix_;
};

template <class T>
T* array(Address address) {
  return reinterpret_cast<T*>(address);
}

inline Scoring scoring(int metric, double gamma) { return {static_cast<Metric>(metric), gamma}; }

}  // namespace bindings
}  // namespace b2m
