// A model with two entry points: `act` chooses a step, `value` says what a state is worth. The policy learns to walk to
// the right end of a corridor of 8 cells. Prints the steps an episode takes; the exit status is 0 if they are few.

#include <torch/torch.h>

#include <string>
#include <vector>

#include "accelerate/accelerate.h"

namespace {

constexpr int64_t kCells = 8, kEpisodes = 150, kMostSteps = 100;

struct AgentImpl : torch::nn::Module {
  AgentImpl() {
    register_module("trunk", trunk);
    register_module("policy", policy);
    register_module("critic", critic);
  }
  /// State (one-hot, kCells) -> log-probabilities of left and right.
  at::Tensor act(const at::Tensor& state) { return torch::log_softmax(policy(torch::tanh(trunk(state))), -1); }
  /// State -> the return that is expected from here.
  at::Tensor value(const at::Tensor& state) { return critic(torch::tanh(trunk(state))).squeeze(-1); }

  torch::nn::Linear trunk{kCells, 32}, policy{32, 2}, critic{32, 1};
};
TORCH_MODULE(Agent);

}  // namespace

int main() {
  accelerate::set_seed(0);
  torch::set_num_threads(1);
  accelerate::Accelerator accelerator;
  Agent agent;
  torch::optim::Adam adam(agent->parameters(), 1e-2);
  auto [model, optimizer] = accelerator.prepare(agent, adam);
  const at::Tensor cells = torch::eye(kCells, accelerator.device());

  double recent = kMostSteps;  // steps an episode, averaged over about ten
  for (int64_t episode = 0; episode < kEpisodes; ++episode) {
    std::vector<at::Tensor> chosen, expected;
    for (int64_t at = 0; at < kCells - 1 && static_cast<int64_t>(chosen.size()) < kMostSteps;) {
      const at::Tensor odds = model.call(&AgentImpl::act, cells[at]);
      const int64_t step = odds.exp().multinomial(1).item<int64_t>();
      chosen.push_back(odds[step]);
      expected.push_back(model.call(&AgentImpl::value, cells[at]));
      at = step == 1 ? at + 1 : std::max<int64_t>(at - 1, 0);
    }

    // Each step costs 0.1: the return is what is left to pay.
    const auto steps = static_cast<int64_t>(chosen.size());
    const at::Tensor returns = torch::arange(steps, 0, -1, accelerator.device()).to(torch::kFloat) * -0.1;
    const at::Tensor advantage = returns - torch::stack(expected);
    accelerator.backward(-(torch::stack(chosen) * advantage.detach()).mean() + advantage.square().mean());
    accelerator.clip_grad_norm_(model, {.max_norm = 1.0});
    optimizer.step();
    optimizer.zero_grad();
    recent += 0.1 * (static_cast<double>(steps) - recent);
    if ((episode + 1) % 30 == 0) accelerator.print("episode", std::to_string(episode + 1) + ":", recent, "steps");
  }
  accelerator.end_training();
  return recent < 1.5 * (kCells - 1) ? 0 : 1;
}
