#pragma once

#include <torch/torch.h>

#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "accelerate/optim/update.h"
#include "tests/unit/training.h"

// The same parameters and the same kind of optimizer twice: one steps through `make_update`, one by itself.
namespace training {

using MakeOptimizer = std::function<std::unique_ptr<torch::optim::Optimizer>(const std::vector<at::Tensor>&)>;

class Side {
 public:
  Side(const MakeOptimizer& make, at::ScalarType dtype) {
    torch::manual_seed(3);
    const std::vector<std::vector<int64_t>> shapes{{16, 8}, {8}, {7, 3, 5}, {1}, {33}, {}};
    for (const auto& shape : shapes) parameters_.push_back(torch::randn(shape, dtype).requires_grad_());
    optimizer_ = make(parameters_);
  }
  std::vector<at::Tensor>& parameters() { return parameters_; }
  torch::optim::Optimizer& optimizer() { return *optimizer_; }

  /// Gradients of step `step`: parameter 1 misses every third, parameter 3 all, parameter 4 the first fifty.
  void set_gradients(int64_t step) {
    torch::manual_seed(static_cast<uint64_t>(1000 + step));
    for (size_t i = 0; i < parameters_.size(); ++i) {
      const at::Tensor gradient = torch::randn_like(parameters_[i]);
      const bool missing = (i == 1 && step % 3 == 0) || i == 3 || (i == 4 && step < 50);
      parameters_[i].mutable_grad() = missing ? at::Tensor() : gradient;
    }
  }

 private:
  std::vector<at::Tensor> parameters_;
  std::unique_ptr<torch::optim::Optimizer> optimizer_;
};

class Twin {
 public:
  using Counters = accelerate::internal::Counters;
  explicit Twin(const MakeOptimizer& make, at::ScalarType dtype = torch::kFloat,
                Counters counters = Counters::kWithParameters)
      : ours(make, dtype),
        stock(make, dtype),
        update(accelerate::internal::make_update(ours.optimizer(), {.counters = counters})) {}

  void step(int64_t step) {
    ours.set_gradients(step);
    stock.set_gradients(step);
    apply();
  }
  /// One step of both with the gradients that are there.
  void apply() {
    update->step();
    stock.optimizer().step();
  }
  /// `change` on both sides.
  void both(const std::function<void(Side&)>& change) {
    change(ours);
    change(stock);
  }
  /// Relative to the largest element.
  double distance() { return training::distance(copy_of(ours.parameters()), copy_of(stock.parameters())); }

  Side ours;
  Side stock;
  std::unique_ptr<accelerate::internal::Update> update;
};

}  // namespace training
