// A pass ends at its last batch, not when its iterator is destroyed.
#include <gtest/gtest.h>
#include <torch/torch.h>

#include "accelerate/accelerate.h"
#include "tests/unit/training.h"

namespace {

using accelerate::Accelerator;
using accelerate::DataLoader;
using accelerate::TensorDataset;

TEST(LoaderPassEnd, AnIteratorThatIsKeptAtTheEndDoesNotSynchroniseLaterWindows) {
  Accelerator accelerator({.gradient_accumulation_steps = 2});
  training::Mlp net(1);
  auto [model, loader] = accelerator.prepare(net, DataLoader(TensorDataset(torch::arange(3)), {.batch_size = 1}));
  auto iterator = loader.begin();
  while (iterator != loader.end()) ++iterator;
  const auto window = accelerator.accumulate(model);
  EXPECT_FALSE(accelerator.sync_gradients());  // the first of two micro-steps outside any loop
}

TEST(LoaderPassEnd, AnIteratorThatIsKeptInsideTheLoopStillSynchronisesAtTheLastBatch) {
  Accelerator accelerator({.gradient_accumulation_steps = 2});
  training::Mlp net(1);
  auto [model, loader] = accelerator.prepare(net, DataLoader(TensorDataset(torch::arange(1)), {.batch_size = 1}));
  const auto iterator = loader.begin();
  const auto window = accelerator.accumulate(model);
  EXPECT_TRUE(accelerator.sync_gradients());
}

TEST(LoaderPassEnd, ASecondPassOutlivesTheEndOfTheFirst) {
  Accelerator accelerator({.gradient_accumulation_steps = 3});
  training::Mlp net(1);
  auto [model, loader] = accelerator.prepare(net, DataLoader(TensorDataset(torch::arange(2)), {.batch_size = 1}));
  auto outer = loader.begin();
  auto inner = loader.begin();
  while (inner != loader.end()) ++inner;
  {
    const auto window = accelerator.accumulate(model);
    EXPECT_FALSE(accelerator.sync_gradients());  // the outer pass is at the first of its two batches
  }
  ++outer;
  const auto window = accelerator.accumulate(model);
  EXPECT_TRUE(accelerator.sync_gradients());
}

}  // namespace
