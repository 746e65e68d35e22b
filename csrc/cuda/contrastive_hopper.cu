// Hopper kernels of the contrastive losses.
#include "cuda/contrastive.h"
#include "cuda/run_hopper.h"

namespace b2m {
namespace cuda {

B2M_RUN_HOPPER(SoftmaxSums<float>)
B2M_RUN_HOPPER(LabelledSoftmaxSums<float>)
B2M_RUN_HOPPER(SoftmaxWeights<float>)
B2M_RUN_HOPPER(LabelledSoftmaxWeights<float>)
B2M_RUN_HOPPER(SigmoidLosses<float>)
B2M_RUN_HOPPER(SigmoidWeights<float>)

}  // namespace cuda
}  // namespace b2m
