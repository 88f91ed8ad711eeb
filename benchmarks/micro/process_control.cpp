// What asking an Accelerator costs in one process: less than 1 us each.
#include <benchmark/benchmark.h>
#include <torch/torch.h>

#include "accelerate/accelerate.h"

namespace {

void StateQuery(benchmark::State& state) {
  const accelerate::Accelerator accelerator;
  for (auto _ : state) {
    benchmark::DoNotOptimize(accelerator.is_main_process());
    benchmark::DoNotOptimize(accelerator.num_processes());
    benchmark::DoNotOptimize(accelerator.distributed_type());
    benchmark::DoNotOptimize(accelerator.device());
  }
}
BENCHMARK(StateQuery)->Unit(benchmark::kNanosecond);

void GradientStateQuery(benchmark::State& state) {
  const accelerate::Accelerator accelerator;
  for (auto _ : state) benchmark::DoNotOptimize(accelerator.gradient_state().end_of_dataloader());
}
BENCHMARK(GradientStateQuery)->Unit(benchmark::kNanosecond);

void OnMainProcess(benchmark::State& state) {
  const accelerate::Accelerator accelerator;
  int64_t calls = 0;
  for (auto _ : state) accelerator.on_main_process([&] { ++calls; })();
  benchmark::DoNotOptimize(calls);
}
BENCHMARK(OnMainProcess)->Unit(benchmark::kNanosecond);

void SplitTensor(benchmark::State& state) {
  const accelerate::Accelerator accelerator;
  const at::Tensor rows = torch::zeros({1024, 64});
  for (auto _ : state) benchmark::DoNotOptimize(accelerator.split_between_processes(rows));
}
BENCHMARK(SplitTensor)->Unit(benchmark::kNanosecond);

void SplitList(benchmark::State& state) {
  const accelerate::Accelerator accelerator;
  const std::vector<int64_t> rows(256);
  for (auto _ : state) benchmark::DoNotOptimize(accelerator.split_between_processes(rows));
}
BENCHMARK(SplitList)->Unit(benchmark::kNanosecond);

void SplitTuple(benchmark::State& state) {
  const accelerate::Accelerator accelerator;
  const std::tuple rows(torch::zeros({1024, 64}), torch::zeros({1024}));
  for (auto _ : state) benchmark::DoNotOptimize(accelerator.split_between_processes(rows));
}
BENCHMARK(SplitTuple)->Unit(benchmark::kNanosecond);

void CheckTrigger(benchmark::State& state) {
  accelerate::Accelerator accelerator;
  for (auto _ : state) benchmark::DoNotOptimize(accelerator.check_trigger());
}
BENCHMARK(CheckTrigger)->Unit(benchmark::kNanosecond);

void MainProcessFirst(benchmark::State& state) {
  const accelerate::Accelerator accelerator;
  for (auto _ : state) auto order = accelerator.main_process_first();
}
BENCHMARK(MainProcessFirst)->Unit(benchmark::kNanosecond);

void TqdmStep(benchmark::State& state) {
  const accelerate::Accelerator accelerator;
  std::ostringstream out;
  auto bar = accelerator.tqdm(out, {});
  for (auto _ : state) bar.update();
}
BENCHMARK(TqdmStep)->Unit(benchmark::kNanosecond);

}  // namespace
