#include <torch/torch.h>

#include "accelerate/accelerate.h"
#include "benchmarks/train/loops.h"
#include "benchmarks/train/tasks.h"

namespace benchmark_train {
namespace {

void train(const Settings& settings, Meter& meter, auto net, const Samples& samples) {
  accelerate::AcceleratorOptions options;
  if (!settings.backend.empty()) options.init_process_group.backend = settings.backend;
  accelerate::Accelerator accelerator(options);
  torch::optim::AdamW adamw(net->parameters(), kLearningRate);
  accelerate::DataLoader data(accelerate::TensorDataset(samples.inputs, samples.labels),
                              {.batch_size = settings.batch_size,
                               .shuffle = settings.shuffle,
                               .drop_last = true,
                               .seed = static_cast<uint64_t>(settings.seed)});
  auto [model, optimizer, loader, scheduler] = accelerator.prepare(net, adamw, data, accelerate::constant());
  while (true) {
    for (auto& [inputs, labels] : loader) {
      auto window = accelerator.accumulate(model);
      auto loss = torch::nn::functional::cross_entropy(model(inputs), labels);
      accelerator.backward(loss);
      accelerator.clip_grad_norm_(model, {.max_norm = kMaxNorm});
      optimizer.step();
      scheduler.step();
      optimizer.zero_grad();
      if (meter.step(loss)) return;
    }
  }
}

}  // namespace

void prepared_loop(const Settings& settings, Meter& meter) {
  with_task(settings, [&](auto net, const Samples& samples) { train(settings, meter, net, samples); });
}

}  // namespace benchmark_train
