// The host's side of the device: what it is, how kernels start on it, what went wrong.
#include "cuda/launch.h"

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <set>
#include <stdexcept>
#include <string>
#include <utility>

#if !defined(B2M_CUDA_EMULATED)
#include <cuda.h>
#endif

namespace b2m {
namespace cuda {

const char* main_loop(int device) { return use_hopper(device) ? "hopper" : "ampere"; }

#if !defined(B2M_CUDA_EMULATED)

namespace {

void check(cudaError_t status, const char* what) {
  if (status != cudaSuccess) throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(status));
}

constexpr int kMostDevices = 64;

int attribute(cudaDeviceAttr which, int device) {
  int value = 0;
  check(cudaDeviceGetAttribute(&value, which, device), "cudaDeviceGetAttribute");
  return value;
}

bool is_hopper(int device) {
  return attribute(cudaDevAttrComputeCapabilityMajor, device) == 9 && attribute(cudaDevAttrComputeCapabilityMinor, device) == 0;
}

}  // namespace

DeviceScope::DeviceScope(int device) : previous_(device) {
  check(cudaGetDevice(&previous_), "cudaGetDevice");
  if (previous_ != device) check(cudaSetDevice(device), "cudaSetDevice");
}
DeviceScope::~DeviceScope() {
  int current = 0;
  if (cudaGetDevice(&current) == cudaSuccess && current != previous_) cudaSetDevice(previous_);
}

void check_launch(const char* what) { check(cudaGetLastError(), what); }

int multiprocessors(int device) {
  static std::atomic<int> known[kMostDevices];
  if (device < 0 || device >= kMostDevices) return attribute(cudaDevAttrMultiProcessorCount, device);
  int value = known[device].load(std::memory_order_relaxed);
  if (value == 0) {
    value = attribute(cudaDevAttrMultiProcessorCount, device);
    known[device].store(value, std::memory_order_relaxed);
  }
  return value;
}

bool use_hopper(int device) {
  static std::atomic<int> known[kMostDevices];  // 0: not asked yet, 1: no, 2: yes
  int hopper = device >= 0 && device < kMostDevices ? known[device].load(std::memory_order_relaxed) : 0;
  if (hopper == 0) {
    hopper = is_hopper(device) ? 2 : 1;
    if (device >= 0 && device < kMostDevices) known[device].store(hopper, std::memory_order_relaxed);
  }
  const char* wanted = std::getenv("B2M_CUDA_LOOP");
  if (!wanted || !*wanted) return hopper == 2;
  const std::string loop(wanted);
  if (loop == "ampere") return false;
  if (loop != "hopper") throw std::runtime_error("B2M_CUDA_LOOP is '" + loop + "'; expected hopper or ampere");
  if (hopper != 2) throw std::runtime_error("B2M_CUDA_LOOP is 'hopper', but this device is not of compute capability 9.0");
  return true;
}

void allow_shared_memory(const void* kernel, int bytes, const char* what) {
  // Once for each kernel and device: a launch is cheaper than these calls.
  static std::mutex mutex;
  static std::set<std::pair<const void*, int>> allowed;
  int device = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  const std::lock_guard<std::mutex> lock(mutex);
  if (allowed.count({kernel, device}) > 0) return;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes), what);
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxShared), what);
  allowed.insert({kernel, device});
}

TensorMap map_rows(const void* data, std::int64_t rows, std::int64_t columns, int box_rows) {
  // Through the runtime, so that the library needs no libcuda to be loaded.
  using Encode = decltype(&cuTensorMapEncodeTiled);
  static std::atomic<Encode> encode{nullptr};
  Encode function = encode.load(std::memory_order_acquire);
  if (!function) {
    void* found = nullptr;
    cudaDriverEntryPointQueryResult result{};
#if CUDART_VERSION >= 12050
    const cudaError_t asked =
        cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault, &result);
#else
    const cudaError_t asked = cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &found, cudaEnableDefault, &result);
#endif
    check(asked, "cuTensorMapEncodeTiled");
    if (!found || result != cudaDriverEntryPointSuccess) {
      throw std::runtime_error("cuTensorMapEncodeTiled: the driver does not have it");
    }
    function = reinterpret_cast<Encode>(found);
    encode.store(function, std::memory_order_release);
  }
  TensorMap made{};
  CUtensorMap map{};
  const cuuint64_t sizes[2] = {static_cast<cuuint64_t>(columns), static_cast<cuuint64_t>(rows)};
  const cuuint64_t strides[1] = {static_cast<cuuint64_t>(columns) * 2};
  const cuuint32_t box[2] = {kDepthStep, static_cast<cuuint32_t>(box_rows)};
  const cuuint32_t steps[2] = {1, 1};
  const CUresult status = function(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, const_cast<void*>(data), sizes, strides, box,
                                   steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                                   CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (status != CUDA_SUCCESS) {
    throw std::runtime_error("cuTensorMapEncodeTiled: error " + std::to_string(static_cast<int>(status)) + " for " +
                             std::to_string(rows) + " rows of " + std::to_string(columns) + " bfloat16");
  }
  static_assert(sizeof made == sizeof map, "a tensor map is 128 bytes");
  std::memcpy(&made, &map, sizeof made);
  return made;
}

const char* architectures() { return B2M_CUDA_ARCHITECTURES; }

#else

const char* architectures() { return "emulated"; }

#endif

}  // namespace cuda
}  // namespace b2m
