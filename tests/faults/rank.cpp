// One rank of a training run in which something goes wrong:
//
//   faults_rank <fault> [<rank> [<step>]]
//
// FAULTS_BACKEND chooses the transport. Waits are short, so that the tests are. What goes wrong is printed as a real
// program would, one paragraph on standard error and exit code 1.
#include <torch/torch.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <iostream>
#include <stdexcept>
#include <string>
#include <thread>

#include "accelerate/accelerate.h"

namespace {

using namespace std::chrono_literals;

struct Fault {
  std::string name;
  int64_t rank = 1;
  int64_t step = 3;
};

/// In one piece: the ranks of a launch share their output.
void say(const std::string& line) { std::cerr << line + "\n"; }

accelerate::AcceleratorOptions options_for(const Fault& fault, int64_t rank) {
  const bool mine = rank == fault.rank;
  accelerate::AcceleratorOptions options{
      .gradient_accumulation_steps = fault.name == "other_accumulation" && mine ? 4 : 2,
      .cpu = true,
      .init_process_group = {.timeout = fault.name == "too_slow" ? 1s : 60s,
                             .rendezvous_timeout = 3s,
                             .heartbeat_timeout = 3s,
                             .slow_warning = 500ms}};
  if (const char* backend = std::getenv("FAULTS_BACKEND")) options.init_process_group.backend = backend;
  if (fault.name == "unknown_backend") options.init_process_group.backend = "carrier_pigeon";
  if (fault.name == "backend_not_built") options.init_process_group.backend = "nccl";
  if (fault.name == "other_precision" && mine) options.mixed_precision = "bf16";
  return options;
}

/// What happens to this rank in the middle of training.
void strike(const std::string& fault, accelerate::Accelerator& accelerator) {
  if (fault == "killed") std::raise(SIGKILL);
  if (fault == "stopped") std::raise(SIGSTOP);
  if (fault == "exception") throw std::runtime_error("this rank's own trouble");
  if (fault == "exit") std::exit(0);
  if (fault == "quick_exit") ::_exit(0);
  if (fault == "ended_early") {
    accelerator.end_training();
    say("rank " + std::to_string(accelerator.process_index()) + " ended early");
    std::exit(0);
  }
  if (fault == "slow") std::this_thread::sleep_for(2500ms);
  if (fault == "too_slow") std::this_thread::sleep_for(5s);
}

/// The collectives after a step; rank `mine` gets them wrong.
void exchange(const std::string& fault, bool mine, const accelerate::Accelerator& accelerator) {
  const int64_t rows = mine && (fault == "other_shape_gather" || fault == "other_shape_reduce") ? 5 : 3;
  const auto dtype =
      mine && (fault == "other_dtype_gather" || fault == "other_dtype_reduce") ? at::kDouble : at::kFloat;
  const at::Tensor mean = torch::ones({rows, 2}, dtype);
  if (mine && fault == "skipped") return;
  if (fault.ends_with("_reduce")) {
    accelerator.reduce(mean);
  } else {
    accelerator.gather(mean);
  }
}

void train(const Fault& fault, int64_t rank) {
  const bool mine = rank == fault.rank;
  accelerate::Accelerator accelerator(options_for(fault, rank));
  accelerate::set_seed(7);
  const int64_t samples = fault.name == "small_data" ? 1 : 96;
  torch::nn::Sequential net(torch::nn::Linear(4, 8), torch::nn::Tanh(), torch::nn::Linear(8, 1));
  if (fault.name == "other_parameters" && mine) net->push_back(torch::nn::Linear(1, 1));
  accelerate::DataLoader data(accelerate::TensorDataset(torch::randn({samples, 4}), torch::randn({samples, 1})),
                              {.batch_size = 4, .shuffle = true});
  torch::optim::SGD sgd(net->parameters(), 0.1);
  auto [model, optimizer, loader] = accelerator.prepare(net, sgd, data);
  int64_t step = 0;
  for (auto& [x, y] : loader) {
    const bool now = mine && ++step == fault.step;
    if (now && fault.name != "in_backward") strike(fault.name, accelerator);
    auto window = accelerator.accumulate(model);
    at::Tensor loss = torch::mse_loss(model(x), y);
    if (now && fault.name == "in_backward") {
      loss.register_hook([](const at::Tensor&) -> at::Tensor { throw std::runtime_error("thrown within backward"); });
    }
    accelerator.backward(loss);
    accelerator.clip_grad_norm_(model, 1.0);
    optimizer.step();
    optimizer.zero_grad();
    exchange(fault.name, now, accelerator);
  }
  accelerator.wait_for_everyone();
  accelerator.end_training();
  say("rank " + std::to_string(rank) + " trained");
}

}  // namespace

int main(int argc, char** argv) {
  const Fault fault{.name = argc > 1 ? argv[1] : "none",
                    .rank = argc > 2 ? std::atoll(argv[2]) : 1,
                    .step = argc > 3 ? std::atoll(argv[3]) : 3};
  const char* variable = std::getenv("RANK");
  const int64_t rank = variable == nullptr ? 0 : std::atoll(variable);
  if (fault.name == "never_comes" && rank == fault.rank) return 0;
  try {
    train(fault, rank);
  } catch (const std::exception& error) {
    say("error on rank " + std::to_string(rank) + ": " + error.what());
    return 1;
  }
}
