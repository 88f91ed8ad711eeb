// What a loop asks all the time, and messages that nobody reads: each below a microsecond.
#include <benchmark/benchmark.h>

#include "accelerate/accelerate.h"

namespace {

void StateQueries(benchmark::State& state) {
  const accelerate::Accelerator accelerator;
  for (auto _ : state) {
    benchmark::DoNotOptimize(accelerator.is_main_process());
    benchmark::DoNotOptimize(accelerator.num_processes());
    benchmark::DoNotOptimize(accelerator.sync_gradients());
  }
}
BENCHMARK(StateQueries)->Unit(benchmark::kNanosecond);

void OnMainProcess(benchmark::State& state) {
  const accelerate::Accelerator accelerator;
  int64_t count = 0;
  auto add = accelerator.on_main_process([&](int64_t number) { return count += number; });
  for (auto _ : state) benchmark::DoNotOptimize(add(1));
}
BENCHMARK(OnMainProcess)->Unit(benchmark::kNanosecond);

void LogBelowTheLevel(benchmark::State& state) {
  const accelerate::Accelerator accelerator;
  const accelerate::Logger logger = accelerator.get_logger("train");
  for (auto _ : state) logger.debug("nobody reads this");
}
BENCHMARK(LogBelowTheLevel)->Unit(benchmark::kNanosecond);

void GatherObjectOfOneProcess(benchmark::State& state) {
  const accelerate::Accelerator accelerator;
  const std::vector<int64_t> numbers(4, 7);
  for (auto _ : state) benchmark::DoNotOptimize(accelerator.gather_object(numbers));
}
BENCHMARK(GatherObjectOfOneProcess)->Unit(benchmark::kNanosecond);

}  // namespace
