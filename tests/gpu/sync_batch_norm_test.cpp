// A batch norm over two GPUs is the plain one over the samples of both, as the CPU computes it in float64.
#include "tests/gpu/ranks.h"
#include "tests/support/batch_norm_parity.h"

namespace {

using parity::NormCase;
using parity::NormRun;
namespace nn = accelerate::nn;

class SyncBatchNormOnGpus : public gpu::TwoGpus {};

void expect_close(const at::Tensor& got, const at::Tensor& expected, double tolerance, const std::string& what) {
  ASSERT_EQ(got.defined(), expected.defined()) << what;
  if (!got.defined()) return;
  const at::Tensor wide = got.cpu().to(at::kDouble);
  ASSERT_EQ(wide.sizes(), expected.sizes()) << what;
  EXPECT_TRUE(at::allclose(wide, expected, tolerance, tolerance))
      << what << ": off by " << (wide - expected).abs().max().item<double>();
}

template <class Sync, class Plain>
void compare(const NormCase& one, double tolerance) {
  const std::vector<NormRun> ranks = parity::of_ranks<Sync>(one, /*on_gpus=*/true);
  const NormRun whole = parity::of_one<Plain>(one);
  for (size_t r = 0; r < ranks.size(); ++r) {
    const std::string of = " of rank " + std::to_string(r);
    const auto index = static_cast<int64_t>(r);
    for (size_t pass = 0; pass < whole.outputs.size(); ++pass) {
      EXPECT_TRUE(ranks[r].outputs[pass].is_cuda());
      expect_close(ranks[r].outputs[pass], part(one, whole.outputs[pass], index), tolerance, "output" + of);
      expect_close(ranks[r].input_gradients[pass], part(one, whole.input_gradients[pass], index), tolerance,
                   "gradient of the input" + of);
    }
    expect_close(ranks[r].running_mean, whole.running_mean, tolerance, "running mean" + of);
    expect_close(ranks[r].running_var, whole.running_var, tolerance, "running variance" + of);
    EXPECT_EQ(ranks[r].batches, whole.batches);
    if (one.affine) {
      expect_close(ranks[r].weight_gradient * 2, whole.weight_gradient, tolerance, "gradient of the weight" + of);
      expect_close(ranks[r].bias_gradient * 2, whole.bias_gradient, tolerance, "gradient of the bias" + of);
    }
    if (one.tracks) expect_close(ranks[r].evaluated, part(one, whole.evaluated, index), tolerance, "evaluation" + of);
  }
}

// float64: sums of some hundred numbers in another order. float32 and bfloat16: what their digits leave of those.
TEST_F(SyncBatchNormOnGpus, BatchesOfDifferentSizes) {
  compare<nn::SyncBatchNorm2d, torch::nn::BatchNorm2d>({.rows = {5, 2}, .channels = 7, .area = {6, 5}}, 1e-9);
  compare<nn::SyncBatchNorm1d, torch::nn::BatchNorm1d>({.rows = {3, 6}, .channels = 4, .dtype = at::kFloat}, 1e-4);
  compare<nn::SyncBatchNorm3d, torch::nn::BatchNorm3d>(
      {.rows = {2, 2}, .area = {3, 2, 4}, .affine = false, .dtype = at::kFloat}, 1e-4);
}

TEST_F(SyncBatchNormOnGpus, ARankWithoutSamples) {
  compare<nn::SyncBatchNorm2d, torch::nn::BatchNorm2d>({.rows = {0, 4}, .area = {3, 3}}, 1e-9);
  compare<nn::SyncBatchNorm2d, torch::nn::BatchNorm2d>({.rows = {4, 0}, .area = {3, 3}}, 1e-9);
  compare<nn::SyncBatchNorm1d, torch::nn::BatchNorm1d>({.rows = {0, 4}, .dtype = at::kFloat}, 1e-4);
}

TEST_F(SyncBatchNormOnGpus, RunningValuesOfEveryKind) {
  compare<nn::SyncBatchNorm2d, torch::nn::BatchNorm2d>({.rows = {3, 2}, .area = {4, 4}, .momentum = std::nullopt},
                                                       1e-9);
  compare<nn::SyncBatchNorm2d, torch::nn::BatchNorm2d>({.rows = {3, 2}, .area = {4, 4}, .tracks = false}, 1e-9);
}

TEST_F(SyncBatchNormOnGpus, ChannelsLastAndNarrowInputs) {
  compare<nn::SyncBatchNorm2d, torch::nn::BatchNorm2d>(
      {.rows = {4, 3}, .channels = 8, .area = {8, 8}, .dtype = at::kFloat, .channels_last = true}, 1e-4);
  compare<nn::SyncBatchNorm2d, torch::nn::BatchNorm2d>(
      {.rows = {4, 3}, .channels = 8, .area = {8, 8}, .dtype = at::kBFloat16, .channels_last = true}, 0.1);
  compare<nn::SyncBatchNorm2d, torch::nn::BatchNorm2d>(
      {.rows = {40, 30}, .area = {8, 8}, .tracks = false, .dtype = at::kBFloat16}, 0.1);
}

}  // namespace
