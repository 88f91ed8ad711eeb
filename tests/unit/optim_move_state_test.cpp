// State follows its parameters to their device. The meta device stands for a GPU: it has no numbers, but a place.
#include "accelerate/optim/move_state.h"
#include "tests/unit/training.h"

namespace {

using accelerate::internal::move_state;

const c10::Device kMeta(c10::kMeta);

/// An optimizer over parameters on another device than the state that its tests give it.
template <class State, class Optimizer>
struct Apart {
  Apart() {
    for (const auto& shape : {std::vector<int64_t>{3, 2}, {4}}) {
      parameters.push_back(torch::empty(shape, torch::TensorOptions(kMeta)).requires_grad_());
    }
    optimizer = std::make_unique<Optimizer>(parameters);
    for (const at::Tensor& parameter : parameters) {
      optimizer->state()[parameter.unsafeGetTensorImpl()] = std::make_unique<State>();
    }
  }
  State& state(size_t i) { return static_cast<State&>(*optimizer->state().at(parameters[i].unsafeGetTensorImpl())); }
  at::Tensor on_cpu(size_t i) { return torch::zeros(parameters[i].sizes()); }

  std::vector<at::Tensor> parameters;
  std::unique_ptr<Optimizer> optimizer;
};

template <class State, class Optimizer>
void expect_adam_moves() {
  Apart<State, Optimizer> apart;
  for (size_t i = 0; i < 2; ++i) {
    apart.state(i).step(7);
    apart.state(i).exp_avg(apart.on_cpu(i));
    apart.state(i).exp_avg_sq(apart.on_cpu(i));
  }
  apart.state(1).max_exp_avg_sq(apart.on_cpu(1));
  move_state(*apart.optimizer);
  for (size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(apart.state(i).exp_avg().device(), kMeta);
    EXPECT_EQ(apart.state(i).exp_avg_sq().device(), kMeta);
    EXPECT_EQ(apart.state(i).exp_avg().sizes(), apart.parameters[i].sizes());
    EXPECT_EQ(apart.state(i).step(), 7);
  }
  EXPECT_FALSE(apart.state(0).max_exp_avg_sq().defined()) << "what was not there is not made";
  EXPECT_EQ(apart.state(1).max_exp_avg_sq().device(), kMeta);
}

TEST(MoveState, OfAdam) { expect_adam_moves<torch::optim::AdamParamState, torch::optim::Adam>(); }
TEST(MoveState, OfAdamW) { expect_adam_moves<torch::optim::AdamWParamState, torch::optim::AdamW>(); }

struct Sgd : torch::optim::SGD {
  explicit Sgd(std::vector<at::Tensor> parameters) : SGD(std::move(parameters), torch::optim::SGDOptions(0.1)) {}
};

TEST(MoveState, OfSgd) {
  Apart<torch::optim::SGDParamState, Sgd> apart;
  apart.state(0).momentum_buffer(apart.on_cpu(0));
  move_state(*apart.optimizer);
  EXPECT_EQ(apart.state(0).momentum_buffer().device(), kMeta);
  EXPECT_FALSE(apart.state(1).momentum_buffer().defined());
}

TEST(MoveState, OfRmsProp) {
  Apart<torch::optim::RMSpropParamState, torch::optim::RMSprop> apart;
  apart.state(0).square_avg(apart.on_cpu(0));
  apart.state(0).momentum_buffer(apart.on_cpu(0));
  apart.state(0).grad_avg(apart.on_cpu(0));
  move_state(*apart.optimizer);
  EXPECT_EQ(apart.state(0).square_avg().device(), kMeta);
  EXPECT_EQ(apart.state(0).momentum_buffer().device(), kMeta);
  EXPECT_EQ(apart.state(0).grad_avg().device(), kMeta);
}

TEST(MoveState, OfAdagradWhichHasSomeFromTheStart) {
  Apart<torch::optim::AdagradParamState, torch::optim::Adagrad> apart;
  apart.state(0).sum(apart.on_cpu(0));
  move_state(*apart.optimizer);
  EXPECT_EQ(apart.state(0).sum().device(), kMeta);
}

TEST(MoveState, LeavesAloneWhatIsThereAlready) {
  std::vector<at::Tensor> parameters{torch::ones({2}).requires_grad_()};
  torch::optim::AdamW adamw(parameters);
  parameters[0].mutable_grad() = torch::ones({2});
  adamw.step();
  const auto& state = static_cast<torch::optim::AdamWParamState&>(*adamw.state().begin()->second);
  const void* before = state.exp_avg().unsafeGetTensorImpl();
  move_state(adamw);
  EXPECT_EQ(state.exp_avg().unsafeGetTensorImpl(), before);
}

}  // namespace
