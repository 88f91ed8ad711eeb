#include <optional>

#include "tests/parity/follower.h"
#include "tests/parity/networks.h"
#include "tests/parity/replay.h"
#include "tests/parity/setting.h"

namespace parity {
namespace {

template <class Net>
void evaluate(accelerate::Accelerator& accelerator, const accelerate::Model<Net>& model, const Loader& loader,
              const std::string& loss_name, Follower& follower) {
  const torch::NoGradGuard no_grad;
  model->eval();
  Json losses = Json::array();
  int64_t rows = 0;
  for (auto& [x, y] : loader) {
    const auto [output, target] = accelerator.gather_for_metrics(std::tuple(model(x), y));
    losses.push_back(make_loss(loss_name, output, target).template item<double>());
    rows += output.size(0);
  }
  model->train();
  follower.evaluated(losses, rows);
}

template <class Holder>
std::string replay_model(const Json& trace, const Json& problem, const accelerate::AcceleratorOptions& options) {
  const Json& configuration = trace.at("configuration");
  Follower follower(trace);
  accelerate::Accelerator accelerator(accelerator_options(configuration, options));
  const auto network = build<Holder>(problem, configuration.at("models").at(0), dtype_named(configuration.at("dtype")));
  for (const Json& name : configuration.at("frozen")) {
    network->named_parameters()[name.get<std::string>()].set_requires_grad(false);
  }
  const auto stock = make_optimizer(configuration.at("optimizer"), named_parameters(*network));
  auto [model, optimizer, loader, evaluation_loader] = accelerator.prepare(
      network, *stock, make_loader(configuration, problem, configuration.at("samples"), configuration.at("drop_last")),
      make_loader(configuration, problem, kEvaluationSamples, false));
  std::optional<accelerate::Scheduler> scheduler;
  if (has_schedule(configuration)) {
    scheduler = accelerator.prepare(accelerate::Scheduler(optimizer, make_schedule(configuration.at("scheduler"))));
  }
  follower.initial_rates("optimizer", optimizer);

  const std::string loss_name = configuration.at("loss");
  const int64_t every = configuration.at("evaluate_every");
  for (int64_t epoch = 0; epoch < configuration.at("epochs"); ++epoch) {
    int64_t batch = 0;
    for (auto& [x, y] : loader) {
      {
        auto window = accelerator.accumulate(model);
        follower.begin(epoch, batch, accelerator.sync_gradients());
        at::Tensor loss;
        if (configuration.at("loss_under_autocast").get<bool>()) {
          auto scope = accelerator.autocast();
          loss = make_loss(loss_name, model(x), y);
        } else {
          loss = make_loss(loss_name, model(x), y);
        }
        follower.loss("loss", loss);
        accelerator.backward(loss);
        if (clips(configuration)) follower.clipped("loss", clip(accelerator, configuration, model));
        follower.stepped(optimizer.step());
        if (scheduler) scheduler->step();
        optimizer.zero_grad();
      }
      follower.rates("optimizer", optimizer);
      follower.scaled(accelerator);
      follower.end();
      if (follower.differs()) return follower.difference();
      if (every > 0 && (batch + 1) % every == 0) {
        evaluate(accelerator, model, evaluation_loader, loss_name, follower);
      }
      ++batch;
    }
  }
  follower.finished("model", *model);
  return follower.difference();
}

}  // namespace

std::string replay_supervised(const Json& trace, const Json& problem, const accelerate::AcceleratorOptions& options) {
  if (trace.at("configuration").at("models").at(0) == "convolution")
    return replay_model<Convolution>(trace, problem, options);
  if (trace.at("configuration").at("models").at(0) == "tied") return replay_model<Tied>(trace, problem, options);
  return replay_model<Mlp>(trace, problem, options);
}

}  // namespace parity
