// Hopper kernels of the scores of all pairs.
#include "cuda/pairwise.h"
#include "cuda/run_hopper.h"

namespace b2m {
namespace cuda {

B2M_RUN_HOPPER(WriteScores<float>)

}  // namespace cuda
}  // namespace b2m
