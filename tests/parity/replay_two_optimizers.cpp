#include "tests/parity/follower.h"
#include "tests/parity/networks.h"
#include "tests/parity/replay.h"
#include "tests/parity/setting.h"

namespace parity {

// An encoder and a head with an optimizer and a schedule each and one loss; clipping goes over both models at once.
std::string replay_two_optimizers(const Json& trace, const Json& problem,
                                  const accelerate::AcceleratorOptions& options) {
  const Json& configuration = trace.at("configuration");
  const at::ScalarType dtype = dtype_named(configuration.at("dtype"));
  Follower follower(trace);
  accelerate::Accelerator accelerator(accelerator_options(configuration, options));
  const auto encoder_network = build<Encoder>(problem, "encoder", dtype);
  const auto head_network = build<Head>(problem, "head", dtype);
  const auto stock = [&](const torch::nn::Module& network) {
    return std::shared_ptr<torch::optim::Optimizer>(
        make_optimizer(configuration.at("optimizer"), named_parameters(network)));
  };
  auto [encoder, head, encoder_optimizer, head_optimizer, loader] = accelerator.prepare(
      encoder_network, head_network, stock(*encoder_network), stock(*head_network),
      make_loader(configuration, problem, configuration.at("samples"), configuration.at("drop_last")));
  const auto schedule = make_schedule(configuration.at("scheduler"));
  const auto encoder_scheduler = accelerator.prepare(accelerate::Scheduler(encoder_optimizer, schedule));
  const auto head_scheduler = accelerator.prepare(accelerate::Scheduler(head_optimizer, schedule));
  follower.initial_rates("encoder", encoder_optimizer);
  follower.initial_rates("head", head_optimizer);

  for (int64_t epoch = 0; epoch < configuration.at("epochs"); ++epoch) {
    int64_t batch = 0;
    for (auto& [x, y] : loader) {
      {
        auto window = accelerator.accumulate(encoder, head);
        follower.begin(epoch, batch, accelerator.sync_gradients());
        const at::Tensor loss = make_loss(configuration.at("loss"), head(encoder(x)), y);
        follower.loss("loss", loss);
        accelerator.backward(loss);
        follower.clipped("loss", clip(accelerator, configuration, accelerate::ModelList{encoder, head}));
        for (const auto& [optimizer, scheduler] :
             {std::pair(encoder_optimizer, encoder_scheduler), std::pair(head_optimizer, head_scheduler)}) {
          follower.stepped(optimizer.step());
          scheduler.step();
          optimizer.zero_grad();
        }
      }
      follower.rates("encoder", encoder_optimizer);
      follower.rates("head", head_optimizer);
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
