// Batch sizes that fit, and letting go of memory. Tables: upstream's tests/test_memory_utils.py.
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "accelerate/accelerate.h"
#include "tests/support/throws_error.h"

namespace {

using accelerate::find_executable_batch_size;
using accelerate::should_reduce_batch_size;
using accelerate::UsageError;
using accelerate::support::ThrowsError;
using Sizes = std::vector<int64_t>;

[[noreturn]] void run_out() { throw std::runtime_error("CUDA out of memory."); }

TEST(FindExecutableBatchSize, TriesTheSizesOfTheOriginal) {
  Sizes sizes;
  auto run = find_executable_batch_size([&](int64_t batch_size) {
    sizes.push_back(batch_size);
    if (batch_size != 8) run_out();
    return batch_size;
  });
  EXPECT_EQ(run(), 8);
  EXPECT_EQ(sizes,
            (Sizes{128, 115, 103, 92, 82, 73, 65, 58, 52, 46, 41, 36, 32, 28, 25, 22, 19, 17, 15, 13, 11, 9, 8}));
  EXPECT_EQ(run.batch_size(), 8);
}

TEST(FindExecutableBatchSize, PassesArgumentsEachTime) {
  auto run = find_executable_batch_size([](int64_t batch_size, const std::string& text) {
    if (batch_size != 8) run_out();
    return std::pair(batch_size, text);
  });
  EXPECT_EQ(run(std::string("hello")), std::pair(int64_t{8}, std::string("hello")));
  Sizes left;
  auto owner = find_executable_batch_size(
      [&](int64_t batch_size, std::unique_ptr<int>& count) {
        left.push_back(--*count);
        if (batch_size > 2) run_out();
      },
      {.starting_batch_size = 3});
  owner(std::make_unique<int>(10));
  EXPECT_EQ(left, (Sizes{9, 8})) << "the same object, not a moved-from one";
}

TEST(FindExecutableBatchSize, EndsAtZero) {
  auto none = find_executable_batch_size([](int64_t) {}, {.starting_batch_size = 0});
  EXPECT_THAT([&] { none(); }, ThrowsError<UsageError>({.place = "find_executable_batch_size",
                                                        .what = "No executable batch size found, reached zero",
                                                        .got = ".starting_batch_size = 0",
                                                        .expected = "fits into memory",
                                                        .remedy = "1 or more"}));
  Sizes sizes;
  auto failing = find_executable_batch_size(
      [&](int64_t batch_size) {
        sizes.push_back(batch_size);
        run_out();
      },
      {.starting_batch_size = 16});
  EXPECT_THAT([&] { failing(); }, ThrowsError<UsageError>({.place = "find_executable_batch_size",
                                                           .what = "reached zero",
                                                           .got = "\"CUDA out of memory.\"",
                                                           .expected = "fits into memory",
                                                           .remedy = "smaller model"}));
  EXPECT_EQ(sizes, (Sizes{16, 14, 12, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1}));
}

TEST(FindExecutableBatchSize, OtherErrorsPass) {
  int calls = 0;
  auto run = find_executable_batch_size([&](int64_t) {
    ++calls;
    throw std::invalid_argument("Oops, we had an error!");
  });
  EXPECT_THROW(run(), std::invalid_argument);
  EXPECT_EQ(calls, 1);
}

// The original's function of one's own sees nothing and may return the same size for ever; a later call starts with the
// size that the one before reached.
TEST(FindExecutableBatchSize, AFunctionOfOnesOwnSeesTheSizeAndHasToShrinkIt) {
  Sizes sizes;
  const auto body = [&](int64_t batch_size) {
    sizes.push_back(batch_size);
    if (batch_size > 20) run_out();
  };
  auto halving = find_executable_batch_size(body, {.reduce_batch_size = [](int64_t size) { return size / 2; }});
  halving();
  EXPECT_EQ(sizes, (Sizes{128, 64, 32, 16}));
  auto stuck = find_executable_batch_size(body, {.reduce_batch_size = [](int64_t) { return 64; }});
  EXPECT_THAT([&] { stuck(); }, ThrowsError<UsageError>({.place = "find_executable_batch_size",
                                                         .what = "not smaller",
                                                         .got = "64 after 64",
                                                         .expected = "less",
                                                         .remedy = ".reduce_batch_size"}));
  auto negative = find_executable_batch_size(body, {.reduce_batch_size = [](int64_t size) { return size - 150; }});
  EXPECT_THROW(negative(), UsageError) << "the original goes on with -22";
}

TEST(FindExecutableBatchSize, StartsAnewUnlessItRemembers) {
  for (const bool remembers : {false, true}) {
    Sizes sizes;
    auto run = find_executable_batch_size(
        [&](int64_t batch_size) {
          sizes.push_back(batch_size);
          if (batch_size > 9) run_out();
        },
        {.starting_batch_size = 10, .remember_batch_size = remembers});
    run();
    run();
    EXPECT_EQ(sizes, remembers ? (Sizes{10, 9, 9}) : (Sizes{10, 9, 10, 9}));
  }
}

TEST(ShouldReduceBatchSize, KnowsTheTextsAndTypes) {
  for (const char* text : {"CUDA out of memory. Tried to allocate 2 GiB", "NPU out of memory.",
                           "cuDNN error: CUDNN_STATUS_NOT_SUPPORTED. This error may appear if",
                           "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes",
                           "FATAL ERROR :: MODULE:PT_DEVMEM Allocation failed"}) {
    EXPECT_TRUE(should_reduce_batch_size(std::runtime_error(text))) << text;
  }
  EXPECT_TRUE(should_reduce_batch_size(std::bad_alloc()));
  EXPECT_TRUE(should_reduce_batch_size(c10::OutOfMemoryError({__func__, __FILE__, __LINE__}, "too much")));
  for (const char* text : {"out of memory", "the disk is out of memory", "CUDNN_STATUS_NOT_SUPPORTED"}) {
    EXPECT_FALSE(should_reduce_batch_size(std::runtime_error(text))) << text;
  }
}

TEST(FindExecutableBatchSize, LibTorchRunsOutOfMemoryForReal) {
  Sizes sizes;
  auto run = find_executable_batch_size(
      [&](int64_t batch_size) {
        sizes.push_back(batch_size);
        return torch::empty({batch_size > 4 ? int64_t{1} << 46 : batch_size}).numel();
      },
      {.starting_batch_size = 5});
  EXPECT_EQ(run(), 4);
  EXPECT_EQ(sizes, (Sizes{5, 4}));
}

TEST(ReleaseMemory, LetsGoOfTensorsModulesAndHandles) {
  accelerate::Accelerator accelerator;
  torch::nn::Linear net(4, 4);
  const std::weak_ptr<torch::nn::LinearImpl> module = net.ptr();
  auto model = accelerator.prepare(net);
  at::Tensor tensor = torch::ones({8});
  std::vector<at::Tensor> list{tensor};
  const c10::weak_intrusive_ptr<c10::TensorImpl> memory(tensor.getIntrusivePtr());
  auto shared = std::make_shared<int>(3);
  const std::weak_ptr<int> number = shared;
  accelerate::release_memory(tensor, list, shared, model, net);
  EXPECT_FALSE(tensor.defined());
  EXPECT_TRUE(list.empty());
  EXPECT_TRUE(memory.expired());
  EXPECT_TRUE(number.expired());
  EXPECT_TRUE(net.is_empty());
  accelerator.end_training();
  EXPECT_TRUE(module.expired());
  accelerate::clear_device_cache();
}

}  // namespace
