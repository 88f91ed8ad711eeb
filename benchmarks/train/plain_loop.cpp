// What a perfect wrapper without extra ideas would reach: no header of the library here.
#include <torch/torch.h>

#include "benchmarks/train/loops.h"
#include "benchmarks/train/plain_ranks.h"
#include "benchmarks/train/tasks.h"

namespace benchmark_train {
namespace {

/// AdamW with LibTorch's fused kernel over all parameters at once.
class FusedAdamW {
 public:
  explicit FusedAdamW(std::vector<at::Tensor> parameters) : parameters_(std::move(parameters)) {
    for (const auto& parameter : parameters_) {
      means_.push_back(torch::zeros_like(parameter));
      squares_.push_back(torch::zeros_like(parameter));
    }
    count_ = torch::zeros({}, parameters_.front().device());
    steps_.assign(parameters_.size(), count_);
  }

  /// Clips the norm of all gradients to `max_norm` without reading it, then updates and clears the gradients.
  void clip_and_step(double max_norm) {
    const torch::NoGradGuard no_grad;
    gradients_.clear();
    for (const auto& parameter : parameters_) gradients_.push_back(parameter.grad());
    const at::Tensor norm = at::linalg_vector_norm(at::stack(at::_foreach_norm(gradients_, 2)));
    at::_foreach_mul_(gradients_, (max_norm / (norm + 1e-6)).clamp_max_(1.0));
    count_.add_(1);
    at::_fused_adamw_(parameters_, gradients_, means_, squares_, {}, steps_, /*lr=*/kLearningRate, /*beta1=*/0.9,
                      /*beta2=*/0.999, /*weight_decay=*/1e-2, /*eps=*/1e-8, /*amsgrad=*/false, /*maximize=*/false);
    for (auto& parameter : parameters_) parameter.mutable_grad().reset();
  }

 private:
  std::vector<at::Tensor> parameters_, gradients_, means_, squares_, steps_;
  at::Tensor count_;  // one for all: every parameter is stepped every time
};

void train(const Settings& settings, Meter& meter, auto net, const Samples& samples) {
  const c10::Device device = plain_device();
  const c10::DeviceGuard current(device);
  net->to(device);
  FusedAdamW optimizer(net->parameters());
  auto generator = at::detail::createCPUGenerator(settings.seed);
  PlainRanks ranks(net->parameters());
  const int64_t count = samples.labels.size(0), batches = count / settings.batch_size / ranks.size();
  while (true) {
    const at::Tensor order = settings.shuffle ? torch::randperm(count, generator, torch::kLong) : torch::arange(count);
    for (int64_t batch = 0; batch < batches; ++batch) {
      const at::Tensor rows =
          order.narrow(0, (batch * ranks.size() + ranks.rank()) * settings.batch_size, settings.batch_size);
      const at::Tensor inputs = samples.inputs.index_select(0, rows).to(device, /*non_blocking=*/true);
      const at::Tensor labels = samples.labels.index_select(0, rows).to(device, /*non_blocking=*/true);
      const at::Tensor loss = torch::nn::functional::cross_entropy(net(inputs), labels);
      ranks.backward(loss);
      optimizer.clip_and_step(kMaxNorm);
      if (meter.step(loss)) return;
    }
  }
}

}  // namespace

void plain_loop(const Settings& settings, Meter& meter) {
  with_task(settings, [&](auto net, const Samples& samples) { train(settings, meter, net, samples); });
}

}  // namespace benchmark_train
