// For tests of the CUDA engine: memory on the device, arrays on both sides, and prepared rows with their values.
//
// With B2M_CUDA_EMULATED the device is the host.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

#include "b2m/cuda.h"
#include "pair/elements.h"
#include "tests/check.h"
#if !defined(B2M_CUDA_EMULATED)
#include <cuda_runtime.h>
#endif

namespace device_arrays {

// ---------------------------------------------------------------------------------------------------------------------
// Memory
// ---------------------------------------------------------------------------------------------------------------------
struct Settings {
  bool raw_workspaces = false;  // leave them as allocated, for compute-sanitizer's initcheck; else they are NaN
  b2m::cuda::Stream stream{0, nullptr};
};
inline Settings& settings() {
  static Settings all;
  return all;
}

#if defined(B2M_CUDA_EMULATED)
inline bool open_device() { return true; }
inline void* allocate(std::size_t bytes) { return std::aligned_alloc(256, (bytes + 255) / 256 * 256); }
inline void release(void* memory) { std::free(memory); }
inline void fill(void* memory, std::size_t bytes) { std::memset(memory, 0xff, bytes); }
inline void copy_in(void* to, const void* from, std::size_t bytes) { std::memcpy(to, from, bytes); }
inline void copy_out(void* to, const void* from, std::size_t bytes) { std::memcpy(to, from, bytes); }
#else
inline void succeed(cudaError_t status, const char* what) {
  if (status != cudaSuccess) throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(status));
}
/// Makes a stream that waits for nothing by itself; false where there is no device.
inline bool open_device() {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess || count == 0) return false;
  cudaStream_t made;
  succeed(cudaStreamCreateWithFlags(&made, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
  settings().stream.handle = made;
  return true;
}
inline void* allocate(std::size_t bytes) {
  void* memory = nullptr;
  succeed(cudaMalloc(&memory, bytes), "cudaMalloc");
  return memory;
}
inline void release(void* memory) { (void)cudaFree(memory); }
inline void fill(void* memory, std::size_t bytes) {
  succeed(cudaMemset(memory, 0xff, bytes), "cudaMemset");
  succeed(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
}
inline void copy_in(void* to, const void* from, std::size_t bytes) {
  succeed(cudaMemcpy(to, from, bytes, cudaMemcpyHostToDevice), "copy to the device");
  succeed(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
}
inline void copy_out(void* to, const void* from, std::size_t bytes) {
  succeed(cudaStreamSynchronize(static_cast<cudaStream_t>(settings().stream.handle)), "cudaStreamSynchronize");
  succeed(cudaMemcpy(to, from, bytes, cudaMemcpyDeviceToHost), "copy from the device");
}
#endif

/// What kernels write, for the host to read or for other kernels.
enum class Purpose { result, workspace };

/// Bytes on the device, NaN to begin with.
class Memory {
 public:
  explicit Memory(std::int64_t bytes, Purpose purpose = Purpose::result)
      : data_(allocate(static_cast<std::size_t>(bytes > 0 ? bytes : 1))) {
    const bool raw = purpose == Purpose::workspace && settings().raw_workspaces;
    if (bytes > 0 && !raw) fill(data_, static_cast<std::size_t>(bytes));
  }
  template <class T>
  explicit Memory(const std::vector<T>& values) : data_(allocate(values.size() * sizeof(T) + 1)) {
    copy_in(data_, values.data(), values.size() * sizeof(T));
  }
  ~Memory() { release(data_); }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  void* get() const { return data_; }
  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }
  template <class T>
  std::vector<T> host(std::int64_t count) const {
    std::vector<T> values(static_cast<std::size_t>(count));
    if (count > 0) copy_out(values.data(), data_, values.size() * sizeof(T));
    return values;
  }

 private:
  void* data_;
};

// ---------------------------------------------------------------------------------------------------------------------
// Arrays
// ---------------------------------------------------------------------------------------------------------------------
/// Doubles on the host, row-major.
struct Array {
  std::int64_t rows, columns;
  std::vector<double> values;
  Array(std::int64_t row_count, std::int64_t column_count, double value = 0)
      : rows(row_count), columns(column_count), values(static_cast<std::size_t>(row_count * column_count), value) {}
  double* row(std::int64_t i) { return values.data() + i * columns; }
  const double* row(std::int64_t i) const { return values.data() + i * columns; }
  double& at(std::int64_t i, std::int64_t j) { return row(i)[j]; }
  double at(std::int64_t i, std::int64_t j) const { return row(i)[j]; }
};

inline std::int64_t size_of(b2m::DType dtype) {
  return dtype == b2m::DType::float64 ? 8 : dtype == b2m::DType::float32 ? 4 : 2;
}

/// plain: row-major without gaps; strange: columns next to each other, every second element unused.
enum class Layout { plain, strange };

/// A matrix on the device, of any dtype.
class DeviceMatrix {
 public:
  DeviceMatrix(std::int64_t rows, std::int64_t columns, b2m::DType dtype, Layout layout = Layout::plain)
      : bytes_((layout == Layout::plain ? 1 : 2) * rows * columns * size_of(dtype)),
        memory_(bytes_),
        view_{memory_.get(),
              dtype,
              rows,
              columns,
              layout == Layout::plain ? columns : 2,
              layout == Layout::plain ? 1 : 2 * rows} {}
  DeviceMatrix(const Array& from, b2m::DType dtype, Layout layout = Layout::plain)
      : DeviceMatrix(from.rows, from.columns, dtype, layout) {
    std::vector<unsigned char> bytes(static_cast<std::size_t>(bytes_), 0xff);
    b2m::Matrix here = view_;
    here.data = bytes.data();
    for (std::int64_t i = 0; i < from.rows; ++i) b2m::write_row(here, i, 0, from.columns, from.row(i));
    if (bytes_ > 0) copy_in(memory_.get(), bytes.data(), bytes.size());
  }
  const b2m::Matrix& view() const { return view_; }
  void* get() const { return memory_.get(); }
  Array host() const {
    std::vector<unsigned char> bytes = memory_.host<unsigned char>(bytes_);
    b2m::Matrix here = view_;
    here.data = bytes.data();
    Array to(view_.rows, view_.columns);
    for (std::int64_t i = 0; i < to.rows; ++i) b2m::read_row(here, i, 0, to.columns, to.row(i));
    return to;
  }

 private:
  std::int64_t bytes_;
  Memory memory_;
  b2m::Matrix view_;
};

// ---------------------------------------------------------------------------------------------------------------------
// Prepared rows
// ---------------------------------------------------------------------------------------------------------------------
/// What scores are computed in, and how far from exact they may be.
struct Precision {
  const char* name;
  b2m::cuda::Arithmetic arithmetic;
  int parts;
  b2m::cuda::Products products;
  double rounding;   // of a prepared element of size 1
  double tolerance;  // of everything computed from the rounded elements

  bool is(b2m::cuda::Arithmetic other) const { return arithmetic == other; }
  bool is_double() const { return is(b2m::cuda::Arithmetic::float64); }
  std::int64_t element_size() const { return is_double() ? 8 : is(b2m::cuda::Arithmetic::float32) ? 4 : 2; }
  /// What sides, row weights and partial sums of the contrastive losses are stored in.
  b2m::DType working() const { return is_double() ? b2m::DType::float64 : b2m::DType::float32; }
};
inline const Precision kBFloat16{"bfloat16", b2m::cuda::Arithmetic::bfloat16, 1, 1, 0x1p-8, 2e-5};
inline const Precision kTwoParts{"2 parts", b2m::cuda::Arithmetic::bfloat16, 2, 3, 0x1p-16, 1e-4};
inline const Precision kThreeParts{"3 parts", b2m::cuda::Arithmetic::bfloat16, 3, 6, 0x1p-22, 2e-5};
inline const Precision kFloat32{"float32", b2m::cuda::Arithmetic::float32, 1, 1, 0x1p-22, 2e-5};
inline const Precision kFloat64{"float64", b2m::cuda::Arithmetic::float64, 1, 1, 0x1p-50, 1e-12};

class Prepared {
 public:
  Prepared(const b2m::Matrix& x, b2m::Metric metric, const double* center, const Precision& with)
      : depth_(with.is(b2m::cuda::Arithmetic::bfloat16)
                   ? (x.columns + b2m::cuda::kDepthStep - 1) / b2m::cuda::kDepthStep * b2m::cuda::kDepthStep
                   : x.columns),
        bytes_(x.rows * with.parts * depth_ * with.element_size()),
        memory_(bytes_, Purpose::workspace),
        inverse_norm_(x.rows * 8, Purpose::workspace),
        rows{memory_.get(), with.arithmetic, x.rows, depth_, with.parts},
        elements(x.rows, depth_) {
    b2m::cuda::prepare_rows(x, metric, center, rows, inverse_norm(), settings().stream);
    const std::vector<unsigned char> bytes = memory_.host<unsigned char>(bytes_);
    for (std::int64_t i = 0; i < x.rows; ++i) {
      for (std::int64_t part = 0; part < with.parts; ++part) {
        for (std::int64_t k = 0; k < depth_; ++k) {
          elements.at(i, k) += element(bytes.data(), (i * with.parts + part) * depth_ + k);
        }
      }
    }
  }
  double* inverse_norm() const { return inverse_norm_.as<double>(); }

 private:
  double element(const unsigned char* bytes, std::int64_t at) const {
    const void* data = bytes;
    switch (rows.arithmetic) {
      case b2m::cuda::Arithmetic::float64:
        return static_cast<const double*>(data)[at];
      case b2m::cuda::Arithmetic::float32:
        return static_cast<double>(static_cast<const float*>(data)[at]);
      default:
        return static_cast<double>(b2m::widen(static_cast<const b2m::BFloat16*>(data)[at]));
    }
  }

  std::int64_t depth_, bytes_;
  Memory memory_;
  Memory inverse_norm_;

 public:
  b2m::cuda::Rows rows;
  Array elements;  // as rounded, padding included
};

// ---------------------------------------------------------------------------------------------------------------------
// What the kernels should compute
// ---------------------------------------------------------------------------------------------------------------------
inline Array random_array(std::int64_t rows, std::int64_t columns, unsigned seed) {
  Array made(rows, columns);
  made.values = check::normal(made.values.size(), seed);
  return made;
}

inline double dot(const double* x, const double* y, std::int64_t count) {
  double sum = 0;
  for (std::int64_t k = 0; k < count; ++k) sum += x[k] * y[k];
  return sum;
}

/// The dot product, or the squared distance.
inline double raw(const Array& x, std::int64_t i, const Array& y, std::int64_t j, b2m::Metric metric) {
  if (b2m::is_bilinear(metric)) return dot(x.row(i), y.row(j), x.columns);
  double sum = 0;
  for (std::int64_t k = 0; k < x.columns; ++k) sum += (x.at(i, k) - y.at(j, k)) * (x.at(i, k) - y.at(j, k));
  return sum;
}

inline double score(const b2m::Scoring& scoring, double value) {
  if (scoring.metric == b2m::Metric::euclidean) return std::sqrt(value);
  return scoring.metric == b2m::Metric::rbf ? std::exp(-scoring.gamma * value) : value;
}

inline double score_derivative(const b2m::Scoring& scoring, double value) {
  if (scoring.metric == b2m::Metric::euclidean) return value > 0 ? 0.5 / std::sqrt(value) : 0;
  return scoring.metric == b2m::Metric::rbf ? -scoring.gamma * score(scoring, value) : 1;
}

inline std::int64_t condensed_index(std::int64_t i, std::int64_t j, std::int64_t n) {
  return i * (2 * n - i - 1) / 2 + (j - i - 1);
}

// ---------------------------------------------------------------------------------------------------------------------
// Bands and tiles
// ---------------------------------------------------------------------------------------------------------------------
inline std::int64_t tiles(std::int64_t count) { return (count + b2m::cuda::kTile - 1) / b2m::cuda::kTile; }

/// Calls run(band, weights) for bands of `height` rows and gathers what they wrote: (rows, columns), 0 where tiles are left out.
inline Array gather_weights(std::int64_t rows, std::int64_t columns, std::int64_t height, bool upper, b2m::DType dtype,
                            const std::function<void(b2m::cuda::Band, const b2m::cuda::Weights&)>& run) {
  Array all(rows, columns);
  for (std::int64_t begin = 0; begin < rows; begin += height) {
    const b2m::cuda::Band band{begin, std::min(begin + height, rows)};
    const std::int64_t first = upper ? begin : 0;
    const std::int64_t stride = tiles(columns - first) * b2m::cuda::kTile;
    const DeviceMatrix part(tiles(band.end - begin) * b2m::cuda::kTile, stride, dtype);
    run(band, {part.get(), dtype, stride});
    const Array got = part.host();
    for (std::int64_t i = begin; i < band.end; ++i) {
      for (std::int64_t j = first; j < columns; ++j) {
        if (!upper || j / b2m::cuda::kTile >= i / b2m::cuda::kTile) all.at(i, j) = got.at(i - begin, j - first);
      }
    }
  }
  return all;
}

/// Sum of a band's array of one double per tile, without the tiles below the diagonal.
inline double add_tiles(const double* partials, b2m::cuda::Band band, std::int64_t columns, bool upper) {
  double sum = 0;
  const std::int64_t across = tiles(columns - (upper ? band.begin : 0));
  for (std::int64_t row = 0; row < tiles(band.end - band.begin); ++row) {
    for (std::int64_t column = upper ? row : 0; column < across; ++column) sum += partials[row * across + column];
  }
  return sum;
}

}  // namespace device_arrays
