#pragma once

#include <torch/torch.h>

#include <memory>
#include <string>
#include <type_traits>
#include <variant>
#include <vector>

#include "benchmarks/train/models/models.h"
#include "benchmarks/train/settings.h"

namespace benchmark_train {

/// All samples, on the CPU.
struct Samples {
  at::Tensor inputs, labels;
};

struct Shape {
  int64_t batch_size;
  int64_t length = 0;
};

/// One row of the table in tasks.cpp.
struct Task {
  const char* name;
  Shape full, tiny;
  double learning_rate;
  Samples (*samples)(const Settings&);
  AnyNet (*net)(const Settings&, c10::Device);
};

std::vector<std::string> task_names();
/// Throws std::invalid_argument for a name that is not in the table.
const Task& task_of(const std::string& name);

/// Calls `loop(task, net, samples)` with the task's data and its net, a shared_ptr, on `device`. The peer draws in the
/// same order: data first, then the parameters.
template <class Loop>
void with_task(const Settings& settings, c10::Device device, const Loop& loop) {
  const Task& task = task_of(settings.task);
  torch::manual_seed(settings.seed);
  const Samples samples = task.samples(settings);
  std::visit([&](const auto& net) { loop(task, net, samples); }, task.net(settings, device));
}

/// The loss of one step: `call` runs the forward of a `Net`.
template <class Net, class Call>
at::Tensor loss_of(const Call& call, const at::Tensor& inputs, const at::Tensor& labels) {
  if constexpr (std::is_same_v<Net, LossNet>) {
    return call(inputs, labels);
  } else {
    return torch::nn::functional::cross_entropy(call(inputs), labels);
  }
}

}  // namespace benchmark_train
