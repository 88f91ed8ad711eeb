#include <optional>

#include "tests/parity/follower.h"
#include "tests/parity/networks.h"
#include "tests/parity/replay.h"
#include "tests/parity/setting.h"

namespace parity {

std::string replay_closure(const Json& trace, const Json& problem, const accelerate::AcceleratorOptions& options) {
  const Json& configuration = trace.at("configuration");
  Follower follower(trace);
  accelerate::Accelerator accelerator(accelerator_options(configuration, options));
  const auto network = build<Mlp>(problem, configuration.at("models").at(0), dtype_named(configuration.at("dtype")));
  const auto stock = make_optimizer(configuration.at("optimizer"), named_parameters(*network));
  const auto [model, optimizer, loader] = accelerator.prepare(
      network, *stock, make_loader(configuration, problem, configuration.at("samples"), configuration.at("drop_last")));
  std::optional<accelerate::Scheduler> scheduler;
  if (has_schedule(configuration)) {
    scheduler = accelerator.prepare(accelerate::Scheduler(optimizer, make_schedule(configuration.at("scheduler"))));
  }
  follower.initial_rates("optimizer", optimizer);

  const std::string loss_name = configuration.at("loss");
  for (int64_t epoch = 0; epoch < configuration.at("epochs"); ++epoch) {
    int64_t batch = 0;
    for (auto& [x, y] : loader) {
      {
        auto window = accelerator.accumulate(model);
        follower.begin(epoch, batch, accelerator.sync_gradients());
        {
          const torch::NoGradGuard no_grad;
          follower.loss("loss", make_loss(loss_name, model(x), y));
        }
        int64_t calls = 0;
        follower.stepped(optimizer.step([&, &model = model, &optimizer = optimizer, &x = x, &y = y] {
          optimizer.zero_grad();
          const at::Tensor loss = make_loss(loss_name, model(x), y);
          accelerator.backward(loss);
          ++calls;
          return loss;
        }));
        follower.loss("calls", torch::tensor(static_cast<double>(calls)));
        if (scheduler) scheduler->step();
      }
      follower.rates("optimizer", optimizer);
      follower.end();
      if (follower.differs()) return follower.difference();
      ++batch;
    }
  }
  follower.finished("model", *model);
  return follower.difference();
}

}  // namespace parity
