// One AdamW update of 150 small tensors: LibTorch's own loop over tensors, and the prepared optimizer.
#include <benchmark/benchmark.h>
#include <torch/torch.h>

#include "accelerate/accelerate.h"

namespace {

constexpr int kTensors = 150, kElements = 1000;

struct ManyImpl : torch::nn::Module {
  ManyImpl() {
    for (int i = 0; i < kTensors; ++i) {
      const at::Tensor tensor = register_parameter("p" + std::to_string(i), torch::randn({kElements}));
      tensor.mutable_grad() = torch::randn_like(tensor);
    }
  }
};
TORCH_MODULE(Many);

void StepStockAdamW(benchmark::State& state) {
  at::set_num_threads(1);
  Many many;
  torch::optim::AdamW adamw(many->parameters(), 1e-3);
  for (auto _ : state) adamw.step();
}
BENCHMARK(StepStockAdamW)->Unit(benchmark::kMicrosecond);

void StepPreparedAdamW(benchmark::State& state) {
  at::set_num_threads(1);
  accelerate::Accelerator accelerator;
  Many many;
  torch::optim::AdamW adamw(many->parameters(), 1e-3);
  auto [model, optimizer] = accelerator.prepare(many, adamw);
  for (auto _ : state) optimizer.step();
}
BENCHMARK(StepPreparedAdamW)->Unit(benchmark::kMicrosecond);

}  // namespace
