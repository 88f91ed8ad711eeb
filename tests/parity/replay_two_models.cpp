#include "tests/parity/follower.h"
#include "tests/parity/networks.h"
#include "tests/parity/replay.h"
#include "tests/parity/setting.h"

namespace parity {

// An encoder and a head, prepared apart, with one loss and one optimizer over both; the schedule is handed to
// prepare().
std::string replay_two_models(const Json& trace, const Json& problem, const accelerate::AcceleratorOptions& options) {
  const Json& configuration = trace.at("configuration");
  const at::ScalarType dtype = dtype_named(configuration.at("dtype"));
  Follower follower(trace);
  accelerate::Accelerator accelerator(accelerator_options(configuration, options));
  const auto encoder_network = build<Encoder>(problem, "encoder", dtype);
  const auto head_network = build<Head>(problem, "head", dtype);
  NamedParameters parameters = named_parameters(*encoder_network, "encoder.");
  for (auto& entry : named_parameters(*head_network, "head.")) parameters.push_back(std::move(entry));
  std::vector<at::Tensor> all;
  for (const auto& [name, parameter] : parameters) all.push_back(parameter);
  const std::shared_ptr<torch::optim::Optimizer> stock = make_optimizer(configuration.at("optimizer"), parameters);
  auto [scheduler, encoder, head, optimizer, loader] = accelerator.prepare(
      make_schedule(configuration.at("scheduler")), encoder_network, head_network, stock,
      make_loader(configuration, problem, configuration.at("samples"), configuration.at("drop_last")));
  follower.initial_rates("optimizer", optimizer);

  for (int64_t epoch = 0; epoch < configuration.at("epochs"); ++epoch) {
    int64_t batch = 0;
    for (auto& [x, y] : loader) {
      {
        auto window = accelerator.accumulate(encoder, head);
        follower.begin(epoch, batch, accelerator.sync_gradients());
        const at::Tensor loss = make_loss(configuration.at("loss"), head(encoder(x)), y);
        follower.loss("loss", loss);
        accelerator.backward(loss);
        follower.clipped("loss", clip(accelerator, configuration, all));
        follower.stepped(optimizer.step());
        scheduler.step();
        optimizer.zero_grad();
      }
      follower.rates("optimizer", optimizer);
      follower.end();
      if (follower.differs()) return follower.difference();
      ++batch;
    }
  }
  follower.finished("encoder", *encoder);
  follower.finished("head", *head);
  return follower.difference();
}

}  // namespace parity
