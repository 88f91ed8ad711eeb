#pragma once

#include <torch/torch.h>

#include <optional>
#include <vector>

#include "accelerate/accelerate.h"
#include "accelerate/nn/sync_batch_norm.h"
#include "accelerate/testing/ranks.h"

// One batch norm over all batches in a row, and a synchronised one over ranks that have a batch each.
namespace parity {

struct NormCase {
  std::vector<int64_t> rows;  ///< of each rank
  int64_t channels = 3;
  std::vector<int64_t> area = {};  ///< sizes behind the channels
  bool affine = true;
  bool tracks = true;
  std::optional<double> momentum = 0.1;
  double eps = 1e-5;
  int64_t passes = 2;
  at::ScalarType dtype = at::kDouble;
  bool channels_last = false;
};

/// What came out of each pass, over all ranks' samples, and the state after the last one.
struct NormRun {
  std::vector<at::Tensor> outputs, input_gradients;
  at::Tensor weight_gradient, bias_gradient;  ///< sums over ranks and passes
  at::Tensor running_mean, running_var, evaluated;
  int64_t batches = 0;
};

inline torch::nn::BatchNormOptions options_of(const NormCase& one) {
  return torch::nn::BatchNormOptions(one.channels)
      .eps(one.eps)
      .momentum(one.momentum)
      .affine(one.affine)
      .track_running_stats(one.tracks);
}

/// Numbers of pass `pass` for all ranks; the same for everybody.
inline at::Tensor numbers(const NormCase& one, int64_t pass, double shift) {
  int64_t rows = 0;
  for (const int64_t of_rank : one.rows) rows += of_rank;
  std::vector<int64_t> shape{rows, one.channels};
  shape.insert(shape.end(), one.area.begin(), one.area.end());
  int64_t count = 1;
  for (const int64_t size : shape) count *= size;
  const at::Tensor line = at::arange(count, at::kDouble) * 0.37 + static_cast<double>(pass) + shift;
  return (at::sin(line) * 2 + at::cos(line * 0.11) + shift).view(shape);
}

/// Rows of rank `rank`.
inline at::Tensor part(const NormCase& one, const at::Tensor& all, int64_t rank) {
  int64_t begin = 0;
  for (int64_t i = 0; i < rank; ++i) begin += one.rows[static_cast<size_t>(i)];
  return all.narrow(0, begin, one.rows[static_cast<size_t>(rank)]);
}

template <class Norm>
void start(const NormCase& one, Norm& norm) {
  norm.to(one.dtype);
  const torch::NoGradGuard no_grad;
  if (!one.affine) return;
  norm.weight.copy_(at::linspace(0.5, 2, one.channels, at::kDouble));
  norm.bias.copy_(at::linspace(-1, 1, one.channels, at::kDouble));
}

template <class Norm, class Forward, class Backward>
NormRun run(const NormCase& one, Norm& norm, c10::Device device, std::optional<int64_t> rank, Forward forward,
            Backward backward) {
  NormRun result;
  const auto mine = [&](const at::Tensor& all) {
    at::Tensor own = (rank ? part(one, all, *rank) : all).to(device, one.dtype);
    if (one.channels_last) own = own.contiguous(at::MemoryFormat::ChannelsLast);
    return own;
  };
  for (int64_t pass = 0; pass < one.passes; ++pass) {
    const at::Tensor x = mine(numbers(one, pass, 0.25)).clone().requires_grad_();
    const at::Tensor y = forward(x);
    backward((y * mine(numbers(one, pass, 1.5))).sum());
    result.outputs.push_back(y.detach());
    result.input_gradients.push_back(x.grad());
  }
  if (one.affine) {
    result.weight_gradient = norm.weight.grad();
    result.bias_gradient = norm.bias.grad();
  }
  if (one.tracks) {
    result.running_mean = norm.running_mean.clone();
    result.running_var = norm.running_var.clone();
    result.batches = norm.num_batches_tracked.template item<int64_t>();
  }
  norm.eval();
  if (one.tracks) result.evaluated = forward(mine(numbers(one, 7, 0.5))).detach();
  norm.train();
  return result;
}

/// Over the ranks, each in a thread.
template <class Sync>
std::vector<NormRun> of_ranks(const NormCase& one, bool on_gpus = false) {
  const auto size = static_cast<int64_t>(one.rows.size());
  std::vector<NormRun> results(one.rows.size());
  accelerate::testing::run_ranks(size, [&](const accelerate::testing::Rank& rank) {
    accelerate::AcceleratorOptions options = rank.options();
    if (on_gpus) options.cpu = false;
    accelerate::Accelerator accelerator(options);
    Sync norm(options_of(one));
    start(one, *norm);
    auto model = accelerator.prepare(norm);
    results[static_cast<size_t>(rank.rank())] = run(
        one, *norm, accelerator.device(), rank.rank(), [&](const at::Tensor& x) { return model(x); },
        [&](const at::Tensor& loss) { accelerator.backward(loss); });
  });
  return results;
}

template <class Plain>
NormRun of_one(const NormCase& one) {
  Plain norm(options_of(one));
  NormCase exact = one;
  exact.dtype = at::kDouble;
  exact.channels_last = false;
  start(exact, *norm);
  return run(
      exact, *norm, c10::Device(c10::kCPU), std::nullopt, [&](const at::Tensor& x) { return norm(x); },
      [](const at::Tensor& loss) { loss.backward(); });
}

}  // namespace parity
