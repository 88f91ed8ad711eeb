#pragma once

#include <torch/torch.h>

#include <cstdint>
#include <string>

#include "accelerate/accelerate.h"
#include "tests/parity/fixtures.h"
#include "tests/parity/tolerance.h"

namespace parity {

/// Walks along a recorded trace beside the replay and keeps the first difference. Models, losses and optimizers go by
/// their role in the fixture.
class Follower {
 public:
  explicit Follower(const Json& trace);

  /// A micro-step begins; `sync_gradients` is read after `accumulate`.
  void begin(int64_t epoch, int64_t batch, bool sync_gradients);
  void loss(const std::string& role, const at::Tensor& value);
  /// The result of an unguarded clip call: a norm exactly where the original, guarded, recorded one.
  void clipped(const std::string& role, const accelerate::ClipResult& result);
  void stepped(const accelerate::StepResult& result);
  /// The rates of all groups before the first micro-step.
  void initial_rates(const std::string& role, const torch::optim::Optimizer& optimizer);
  /// The rates of all groups at the end of this micro-step.
  void rates(const std::string& role, const torch::optim::Optimizer& optimizer);
  /// The scale of the losses at the end of this micro-step, where the original recorded one.
  void scaled(const accelerate::Accelerator& accelerator);
  void end() { ++step_; }
  /// One evaluation in the middle of training.
  void evaluated(const Json& losses, int64_t rows);
  /// Parameters and buffers after the last micro-step.
  void finished(const std::string& role, const torch::nn::Module& model);

  /// Nothing more needs replaying.
  bool differs() const { return !difference_.empty(); }
  /// Empty when the replay did what the original did, all of it.
  std::string difference() const;

 private:
  void compare(const std::string& what, double got, double expected);
  void compare_rates(const std::string& what, const torch::optim::Optimizer& optimizer, const Json& expected);
  void differ(const std::string& what, const std::string& got, const std::string& expected);

  const Json& trace_;
  Tolerance tolerance_;
  size_t step_ = 0;
  size_t scales_ = 0;
  size_t evaluations_ = 0;
  size_t finished_ = 0;
  std::string difference_;
};

/// How far the replays of this process were from the original at most: at the first micro-step, and later.
std::string worst_deviations();

}  // namespace parity
