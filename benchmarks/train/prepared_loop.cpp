#include <torch/torch.h>

#include <optional>
#include <stdexcept>

#include "accelerate/accelerate.h"
#include "benchmarks/train/loops.h"
#include "benchmarks/train/plain_ranks.h"
#include "benchmarks/train/tasks.h"

namespace benchmark_train {
namespace {

accelerate::AcceleratorOptions options_of(const Settings& settings) {
  accelerate::AcceleratorOptions options;
  options.mixed_precision = settings.precision;
  if (!settings.backend.empty()) options.init_process_group.backend = settings.backend;
  if (settings.cuda_graph) {
    options.cuda_graph = accelerate::CudaGraph{};
  }
  return options;
}

template <class Net>
void train(const Settings& settings, Meter& meter, const Task& task, std::shared_ptr<Net> net, const Samples& samples) {
  accelerate::Accelerator accelerator(options_of(settings));
  torch::optim::AdamW adamw(net->parameters(), task.learning_rate);
  accelerate::DataLoader data(accelerate::TensorDataset(samples.inputs, samples.labels),
                              {.batch_size = settings.batch_size,
                               .shuffle = settings.shuffle,
                               .drop_last = true,
                               .seed = static_cast<uint64_t>(settings.seed),
                               .num_workers = settings.workers});
  auto [model, optimizer, loader, scheduler] = accelerator.prepare(net, adamw, data, accelerate::constant());
  std::optional<accelerate::Profiler> profiler;
  int64_t profiled = 0;
  while (true) {
    for (auto& [inputs, labels] : loader) {
      auto window = accelerator.accumulate(model);
      auto loss = loss_of<Net>(model, inputs, labels);
      accelerator.backward(loss);
      accelerator.clip_grad_norm_(model, {.max_norm = kMaxNorm});
      optimizer.step();
      scheduler.step();
      optimizer.zero_grad();
      if (profiler) {
        if (++profiled < kProfiledSteps) continue;
        loss.item();  // what the device still does belongs to the steps
        return profiler->finish();
      }
      if (!meter.step(loss)) continue;
      if (settings.profile.empty()) return;
      profiler.emplace(accelerator.profile({.output_trace_dir = settings.profile}));
    }
  }
}

}  // namespace

void prepared_loop(const Settings& settings, Meter& meter) {
  with_task(settings, plain_device(), [&](const Task& task, const auto& net, const Samples& samples) {
    train(settings, meter, task, net, samples);
  });
}

}  // namespace benchmark_train
