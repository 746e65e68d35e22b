// Hopper kernels of the comparisons of two similarity matrices.
#include "cuda/rsa.h"
#include "cuda/run_hopper.h"

namespace b2m {
namespace cuda {

B2M_RUN_HOPPER(SquaredDifference<float>)
B2M_RUN_HOPPER(DifferenceWeights<float>)
B2M_RUN_HOPPER(Moments<float>)
B2M_RUN_HOPPER(LinearWeights<float>)

}  // namespace cuda
}  // namespace b2m
