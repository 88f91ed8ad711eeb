// A shuffled pass over 200,000 rows of 64 floats in batches of 64, in samples a second; and the time to the first
// batch.
#include <benchmark/benchmark.h>
#include <torch/torch.h>

#include "accelerate/accelerate.h"

namespace {

constexpr int64_t kRows = 200'000, kColumns = 64, kBatch = 64;

auto shuffled_loader() {
  return accelerate::DataLoader(
      accelerate::TensorDataset(torch::randn({kRows, kColumns}), torch::randint(0, 10, {kRows}, torch::kLong)),
      {.batch_size = kBatch, .shuffle = true});
}

void LoaderPass(benchmark::State& state) {
  at::set_num_threads(1);
  accelerate::Accelerator accelerator;
  const auto loader = accelerator.prepare(shuffled_loader());
  for (auto _ : state) {
    for (auto& [rows, labels] : loader) benchmark::DoNotOptimize(rows);
  }
  state.SetItemsProcessed(state.iterations() * kRows);
}
BENCHMARK(LoaderPass)->Unit(benchmark::kMillisecond);

void LoaderFirstBatch(benchmark::State& state) {
  at::set_num_threads(1);
  accelerate::Accelerator accelerator;
  const auto loader = accelerator.prepare(shuffled_loader());
  for (auto _ : state) {
    auto pass = loader.begin();
    benchmark::DoNotOptimize(*pass);
  }
}
BENCHMARK(LoaderFirstBatch)->Unit(benchmark::kMillisecond);

}  // namespace
