// What constructing an Accelerator costs: no socket, thread or file stands behind one process.
#include <benchmark/benchmark.h>

#include "accelerate/accelerate.h"

namespace {

void ConstructAccelerator(benchmark::State& state) {
  for (auto _ : state) {
    accelerate::Accelerator accelerator;
    benchmark::DoNotOptimize(accelerator);
  }
}
BENCHMARK(ConstructAccelerator)->Unit(benchmark::kMicrosecond);

}  // namespace
