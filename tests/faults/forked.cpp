// A program that starts its own ranks with accelerate::launch:
//
//   faults_forked <what happens>
//
// Each rank says what it came to on standard error, one line in one piece.
#include <torch/torch.h>

#include <csignal>
#include <iostream>
#include <stdexcept>
#include <string>
#include <thread>

#include "accelerate/accelerate.h"

namespace {

using namespace std::chrono_literals;

void say(const std::string& line) { std::cerr << line + "\n"; }

void train(const std::string& fault) {
  accelerate::Accelerator accelerator({.init_process_group = {.heartbeat_timeout = 3s}});
  const bool mine = accelerator.is_last_process();
  accelerate::set_seed(7);
  torch::nn::Linear net(4, 1);
  accelerate::DataLoader data(accelerate::TensorDataset(torch::randn({32, 4}), torch::randn({32, 1})),
                              {.batch_size = 4, .shuffle = true});
  torch::optim::SGD sgd(net->parameters(), 0.1);
  auto [model, optimizer, loader] = accelerator.prepare(net, sgd, data);
  for (auto& [x, y] : loader) {
    auto window = accelerator.accumulate(model);
    accelerator.backward(torch::mse_loss(model(x), y));
    optimizer.step();
    optimizer.zero_grad();
    if (mine && fault == "exception") throw std::runtime_error("this rank's own trouble");
    if (mine && fault == "killed") std::raise(SIGKILL);
  }
  const at::Tensor all = accelerator.gather(net->weight.detach().sum().reshape({1}));
  if (!all.eq(all[0]).all().item<bool>()) throw std::runtime_error("the ranks trained apart");
  say("rank " + std::to_string(accelerator.process_index()) + " of " + std::to_string(accelerator.num_processes()) +
      " trained in " + accelerator.mixed_precision() + " with " + std::to_string(at::get_num_threads()) + " threads");
}

}  // namespace

int main(int argc, char** argv) {
  const std::string fault = argc > 1 ? argv[1] : "none";
  try {
    if (fault == "threads_before") {
      at::set_num_threads(4);
      at::parallel_for(0, 1 << 20, 1, [](int64_t, int64_t) { std::this_thread::sleep_for(1ms); });
    }
    if (fault == "backward_before") torch::ones({3}, torch::requires_grad()).sum().backward();
    if (fault == "accelerator_before") {
      const accelerate::Accelerator one;
      one.gather(torch::randn({3}));
    }
    accelerate::launch([&] { train(fault); }, {.num_processes = fault == "alone" ? 1 : 2, .mixed_precision = "bf16"});
    say("all returned");
  } catch (const accelerate::RankError& error) {
    say("rank " + std::to_string(error.rank()) + " failed: " + error.what());
    return 1;
  } catch (const std::exception& error) {
    say(std::string("refused: ") + error.what());
    return 2;
  }
}
