// What a call through a prepared model adds to the call itself: the same one-row linear layer, raw and prepared.
#include <benchmark/benchmark.h>
#include <torch/torch.h>

#include "accelerate/accelerate.h"

namespace {

void CallRaw(benchmark::State& state) {
  at::set_num_threads(1);
  torch::nn::Linear net(8, 8);
  const at::Tensor x = torch::randn({1, 8});
  for (auto _ : state) benchmark::DoNotOptimize(net(x));
}
BENCHMARK(CallRaw)->Unit(benchmark::kNanosecond);

void CallPrepared(benchmark::State& state) {
  at::set_num_threads(1);
  accelerate::Accelerator accelerator;
  torch::nn::Linear net(8, 8);
  auto model = accelerator.prepare(net);
  const at::Tensor x = torch::randn({1, 8});
  for (auto _ : state) benchmark::DoNotOptimize(model(x));
}
BENCHMARK(CallPrepared)->Unit(benchmark::kNanosecond);

}  // namespace
