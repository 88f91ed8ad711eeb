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
  options.strategy = accelerate::Ddp{.bucket_cap_mb = settings.bucket_cap_mb,
                                     .gradient_as_bucket_view = settings.bucket_view,
                                     .comm_hook = settings.comm_hook};
  if (settings.cuda_graph) options.cuda_graph = accelerate::CudaGraph{};
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
  bool measured = false;
  while (true) {
    for (auto& [inputs, labels] : loader) {
      if (measured) {  // between two windows: a captured step is launched when its own closes
        if (torch::cuda::is_available() && profiled % kProfiledSteps == 0) torch::cuda::synchronize();
        if (profiled == kProfiledSteps) return profiler->finish();
        if (!profiler) profiler.emplace(accelerator.profile({.output_trace_dir = settings.profile}));
        ++profiled;
      }
      auto window = accelerator.accumulate(model);
      auto loss = loss_of<Net>(model, inputs, labels);
      accelerator.backward(loss);
      if (settings.clip) accelerator.clip_grad_norm_(model, {.max_norm = kMaxNorm});
      optimizer.step();
      scheduler.step();
      optimizer.zero_grad();
      measured = measured || meter.step(loss);
      if (measured && settings.profile.empty()) return;
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
