#include "tests/parity/follower.h"
#include "tests/parity/networks.h"
#include "tests/parity/replay.h"
#include "tests/parity/setting.h"

namespace parity {

// Generator against discriminator: two optimizers, two schedules, two backwards in one window.
std::string replay_adversarial(const Json& trace, const Json& problem, const accelerate::AcceleratorOptions& options) {
  const Json& configuration = trace.at("configuration");
  const at::ScalarType dtype = dtype_named(configuration.at("dtype"));
  Follower follower(trace);
  accelerate::Accelerator accelerator(accelerator_options(configuration, options));
  const auto generator_network = build<Mlp>(problem, "generator", dtype);
  const auto discriminator_network = build<Discriminator>(problem, "discriminator", dtype);
  const auto generator_stock = make_optimizer(configuration.at("optimizer"), named_parameters(*generator_network));
  const auto discriminator_stock =
      make_optimizer(configuration.at("optimizer"), named_parameters(*discriminator_network));
  const accelerate::Schedule schedule = make_schedule(configuration.at("scheduler"));
  auto [generator, discriminator, generator_optimizer, discriminator_optimizer, generator_scheduler,
        discriminator_scheduler, loader] =
      accelerator.prepare(
          generator_network, discriminator_network, *generator_stock, *discriminator_stock,
          accelerate::Scheduler(*generator_stock, schedule), accelerate::Scheduler(*discriminator_stock, schedule),
          make_loader(configuration, problem, configuration.at("samples"), configuration.at("drop_last")));
  follower.initial_rates("generator", generator_optimizer);
  follower.initial_rates("discriminator", discriminator_optimizer);

  const std::string loss_name = configuration.at("loss");
  for (int64_t epoch = 0; epoch < configuration.at("epochs"); ++epoch) {
    int64_t batch = 0;
    for (auto& [noise, real] : loader) {
      {
        auto window = accelerator.accumulate(generator, discriminator);
        follower.begin(epoch, batch, accelerator.sync_gradients());
        const at::Tensor fake = generator(noise);
        const at::Tensor judged_real = discriminator(real);
        const at::Tensor judged_detached = discriminator(fake.detach());
        const at::Tensor discriminator_loss = make_loss(loss_name, judged_real, torch::ones_like(judged_real)) +
                                              make_loss(loss_name, judged_detached, torch::zeros_like(judged_detached));
        follower.loss("discriminator", discriminator_loss);
        accelerator.backward(discriminator_loss);
        follower.clipped("discriminator", clip(accelerator, configuration, discriminator));
        follower.stepped(discriminator_optimizer.step());
        discriminator_scheduler.step();

        const at::Tensor judged_fake = discriminator(fake);
        const at::Tensor generator_loss = make_loss(loss_name, judged_fake, torch::ones_like(judged_fake));
        follower.loss("generator", generator_loss);
        accelerator.backward(generator_loss);
        follower.clipped("generator", clip(accelerator, configuration, generator));
        follower.stepped(generator_optimizer.step());
        generator_scheduler.step();
        generator_optimizer.zero_grad();
        discriminator_optimizer.zero_grad();
      }
      follower.rates("generator", generator_optimizer);
      follower.rates("discriminator", discriminator_optimizer);
      follower.end();
      if (follower.differs()) return follower.difference();
      ++batch;
    }
  }
  follower.finished("generator", *generator);
  follower.finished("discriminator", *discriminator);
  return follower.difference();
}

}  // namespace parity
