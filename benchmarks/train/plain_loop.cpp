// What a perfect wrapper without extra ideas would reach: no header of the library here.
#include <ATen/autocast_mode.h>
#include <torch/torch.h>

#include <optional>

#include "benchmarks/train/loops.h"
#include "benchmarks/train/plain_graph.h"
#include "benchmarks/train/plain_ranks.h"
#include "benchmarks/train/tasks.h"

namespace benchmark_train {
namespace {

/// AdamW with LibTorch's fused kernel over all parameters at once.
class FusedAdamW {
 public:
  FusedAdamW(std::vector<at::Tensor> parameters, double learning_rate)
      : parameters_(std::move(parameters)), learning_rate_(learning_rate) {
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
    at::_fused_adamw_(parameters_, gradients_, means_, squares_, {}, steps_, /*lr=*/learning_rate_, /*beta1=*/0.9,
                      /*beta2=*/0.999, /*weight_decay=*/1e-2, /*eps=*/1e-8, /*amsgrad=*/false, /*maximize=*/false);
    for (auto& parameter : parameters_) parameter.mutable_grad().reset();
    gradients_.clear();
  }

 private:
  std::vector<at::Tensor> parameters_, gradients_, means_, squares_, steps_;
  double learning_rate_;
  at::Tensor count_;  // one for all: every parameter is stepped every time
};

/// bf16 where operators have it, until the end of the scope.
class Autocast {
 public:
  Autocast(c10::DeviceType device, const std::string& precision) : device_(device), on_(precision != "no") {
    TORCH_CHECK(!on_ || precision == "bf16", "--plain: got --mixed-precision ", precision, ", expected no or bf16");
    if (!on_) return;
    at::autocast::set_autocast_enabled(device_, true);
    at::autocast::set_autocast_dtype(device_, at::kBFloat16);
    at::autocast::increment_nesting();
  }
  ~Autocast() {
    if (!on_) return;
    if (at::autocast::decrement_nesting() == 0) at::autocast::clear_cache();
    at::autocast::set_autocast_enabled(device_, false);
  }
  Autocast(const Autocast&) = delete;
  Autocast& operator=(const Autocast&) = delete;

 private:
  c10::DeviceType device_;
  bool on_;
};

template <class Net>
void train(const Settings& settings, Meter& meter, const Task& task, std::shared_ptr<Net> net, const Samples& samples) {
  const c10::Device device = plain_device();
  const c10::DeviceGuard current(device);
  std::optional<PlainGraph> graph;
  if (settings.loop == Loop::kPlainGraph) graph.emplace(device);
  net->to(device);
  FusedAdamW optimizer(net->parameters(), task.learning_rate);
  auto generator = at::detail::createCPUGenerator(settings.seed);
  PlainRanks ranks(net->parameters());
  const auto call = [&](const auto&... arguments) {
    const Autocast autocast(device.type(), settings.precision);
    return net->forward(arguments...).to(at::kFloat);
  };
  const auto step = [&](const at::Tensor& inputs, const at::Tensor& labels) {
    const at::Tensor loss = loss_of<Net>(call, inputs, labels);
    ranks.backward(loss);
    optimizer.clip_and_step(kMaxNorm);
    return loss;
  };
  // The reducer times its first ten steps with events that cannot be captured.
  const int64_t eager_steps = ranks.size() > 1 ? 11 : kCapturedSteps - 1;
  const int64_t count = samples.labels.size(0), batches = count / settings.batch_size / ranks.size();
  while (true) {
    const at::Tensor order = settings.shuffle ? torch::randperm(count, generator, torch::kLong) : torch::arange(count);
    for (int64_t batch = 0; batch < batches; ++batch) {
      const at::Tensor rows =
          order.narrow(0, (batch * ranks.size() + ranks.rank()) * settings.batch_size, settings.batch_size);
      at::Tensor loss;
      if (graph) {
        loss = graph->run(step, samples, rows, eager_steps);
      } else {
        loss = step(samples.inputs.index_select(0, rows).to(device, /*non_blocking=*/true),
                    samples.labels.index_select(0, rows).to(device, /*non_blocking=*/true));
      }
      if (!meter.step(loss)) continue;
      graph.reset();  // before the communicators that it uses
      return;
    }
  }
}

}  // namespace

void plain_loop(const Settings& settings, Meter& meter) {
  with_task(settings, plain_device(), [&](const Task& task, const auto& net, const Samples& samples) {
    train(settings, meter, task, net, samples);
  });
}

}  // namespace benchmark_train
