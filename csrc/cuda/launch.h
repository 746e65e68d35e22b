// From the host: starting kernels, on the right device, and saying what went wrong.
#pragma once

#include <cstdint>
#include <string>

#include "b2m/cuda.h"
#include "cuda/device.h"

namespace b2m {
namespace cuda {

/// Makes a device the current one, and puts the old one back.
class DeviceScope {
 public:
  explicit DeviceScope(int device);
  ~DeviceScope();
  DeviceScope(const DeviceScope&) = delete;
  DeviceScope& operator=(const DeviceScope&) = delete;

 private:
  int previous_;
};

/// Throws std::runtime_error("what: ...") if a launch failed.
void check_launch(const char* what);

int multiprocessors(int device);

/// Whether bfloat16 rows are multiplied by the Hopper main loop there; see main_loop in b2m/cuda.h.
bool use_hopper(int device);

/// Lets a kernel use that much dynamic shared memory.
void allow_shared_memory(const void* kernel, int bytes, const char* what);

/// A map of a row-major bfloat16 matrix for boxes of `box_rows` x 64, swizzled over 128 bytes.
TensorMap map_rows(const void* data, std::int64_t rows, std::int64_t columns, int box_rows);

#if defined(B2M_CUDA_EMULATED)
template <class Kernel, class... Arguments>
void launch(const char* what, Kernel kernel, std::int64_t blocks, int threads, int shared_bytes, Stream,
            const Arguments&... arguments) {
  (void)what;
  emulation::run_grid(blocks, threads, shared_bytes, [&] { kernel(arguments...); });
}
#else
/// Starts a kernel of `blocks` blocks; the current device is that of the stream.
template <class Kernel, class... Arguments>
void launch(const char* what, Kernel kernel, std::int64_t blocks, int threads, int shared_bytes, Stream stream,
            const Arguments&... arguments) {
  if (blocks <= 0) return;
  if (shared_bytes > 48 * 1024) allow_shared_memory(reinterpret_cast<const void*>(kernel), shared_bytes, what);
  kernel<<<dim3(static_cast<unsigned>(blocks)), dim3(static_cast<unsigned>(threads)), static_cast<std::size_t>(shared_bytes),
           static_cast<cudaStream_t>(stream.handle)>>>(arguments...);
  check_launch(what);
}
#endif

}  // namespace cuda
}  // namespace b2m
