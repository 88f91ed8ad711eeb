// The fused cross entropy's kernels: LibTorch's numbers, the same bits every time, and no memory beside what they
// return. That nothing waits for the device follows from its capture: step_cross_entropy_test.cpp.
#include <ATen/ATen.h>
#include <ATen/DeviceAccelerator.h>

#include <cmath>
#include <cstdlib>
#include <iostream>
#include <limits>

#include "accelerate/nn/cross_entropy.h"
#include "tests/gpu/gpu.h"
#include "tests/support/cross_entropy_cases.h"

namespace {

using namespace cross_entropy_cases;
namespace F = accelerate::nn::functional;

constexpr at::ScalarType kDtypes[] = {at::kBFloat16, at::kHalf, at::kFloat};

const c10::Device kGpu(c10::kCUDA, 0);

class CrossEntropyOnGpu : public gpu::OneGpu {};

TEST_F(CrossEntropyOnGpu, IsThatOfLibTorchForEveryNumberOfClasses) {
  uint64_t seed = 0;
  // Around a pack, a warp of packs, a block of packs, and four times that, which are read at once.
  for (const int64_t classes :
       {1, 2, 3, 7, 8, 9, 31, 32, 33, 255, 256, 257, 1000, 4095, 4096, 4097, 16'383, 16'385, 50'257, 50'304, 128'256}) {
    for (const at::ScalarType dtype : kDtypes) {
      for (const double smoothing : {0.0, 0.1}) {
        const int64_t rows = classes > 10'000 ? 6 : 34;
        expect_as_libtorch(
            {.rows = rows, .classes = classes, .dtype = dtype, .smoothing = smoothing, .ignored = 0.2, .seed = ++seed},
            kGpu);
      }
    }
  }
}

TEST_F(CrossEntropyOnGpu, IsThatOfLibTorchInEveryLayoutAndReduction) {
  uint64_t seed = 100;
  for (int layout = 0; layout < kLayouts; ++layout) {
    for (const int reduction : {0, 1, 2}) {
      for (const at::ScalarType dtype : kDtypes) {
        for (const int64_t classes : {5, 64, 4099}) {
          Case one{.rows = 12, .classes = classes, .dtype = dtype, .reduction = reduction, .smoothing = 0.3};
          one.spread = 10;
          one.ignored = 0.3;
          one.ignore_index = 2;
          one.layout = static_cast<Layout>(layout);
          one.seed = ++seed;
          expect_as_libtorch(one, kGpu);
        }
      }
    }
  }
}

TEST_F(CrossEntropyOnGpu, HugeLogitsAndMasksAreThoseOfLibTorch) {
  uint64_t seed = 200;
  for (const at::ScalarType dtype : kDtypes) {
    for (const double offset : {0.0, 3000.0, -3000.0}) {
      for (const double masked : {0.0, 0.5, 0.999}) {
        Case one{.rows = 8, .classes = 50'257, .dtype = dtype};
        one.spread = 40;
        one.offset = offset;
        one.masked = masked;
        one.smoothing = masked > 0 ? 0 : 0.2;  // of a mask the mean is infinite
        one.seed = ++seed;
        expect_as_libtorch(one, kGpu);
        one.smoothing = 0;
        expect_as_libtorch(one, kGpu);
      }
    }
  }
}

TEST_F(CrossEntropyOnGpu, OfNoRowsAndOfIgnoredOnes) {
  for (const int reduction : {0, 1, 2}) expect_as_libtorch({.rows = 0, .classes = 7, .reduction = reduction}, kGpu);
  const at::Tensor x = at::full({3, 9}, NAN, at::TensorOptions(at::kBFloat16).device(kGpu)).requires_grad_();
  const at::Tensor y = at::full({3}, -100, at::TensorOptions(at::kLong).device(kGpu));
  const at::Tensor mean = F::cross_entropy(x, y);
  EXPECT_TRUE(std::isnan(mean.item<double>()));
  EXPECT_EQ(torch::autograd::grad({mean}, {x})[0].abs().sum().item<double>(), 0);
  EXPECT_EQ(F::cross_entropy(x, y, Options().reduction(torch::kSum)).item<double>(), 0);
}

TEST_F(CrossEntropyOnGpu, InfinitiesAreThoseOfTheCpu) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const std::vector<float> rows{-kInfinity, 1,         2, 1, -kInfinity, 2, -kInfinity, -kInfinity,
                                -kInfinity, kInfinity, 1, 2, NAN,        1, 2};
  const at::Tensor logits = at::tensor(rows).view({5, 3});
  for (const double smoothing : {0.0, 0.2}) {
    for (const int64_t target : {0, 1, 2}) {
      const auto options = Options().label_smoothing(smoothing).reduction(torch::kNone);
      const auto on = [&](c10::Device device) {
        const at::Tensor y = at::full({5}, target, at::TensorOptions(at::kLong).device(device));
        return outcome_of([&](const at::Tensor& x) { return F::cross_entropy(x, y, options); }, logits.to(device),
                          at::ones({5}, device));
      };
      const Outcome ours = on(kGpu), theirs = on(at::kCPU);
      EXPECT_TRUE(near(ours.loss.cpu(), theirs.loss, 1e-6, 1e-7)) << target << " smoothing " << smoothing;
      EXPECT_TRUE(near(ours.gradient.cpu(), theirs.gradient, 1e-6, 1e-7)) << target << " smoothing " << smoothing;
    }
  }
}

/// 4.3 billion bytes of logits, and as many of gradients.
TEST_F(CrossEntropyOnGpu, MoreElementsThanInt32Counts) {
  const int64_t rows = 16'800, classes = 128'256;
  if (at::accelerator::getMemoryInfo(0).first < (size_t{12} << 30)) GTEST_SKIP() << "less than 12 GB are free";
  ASSERT_GT(rows * classes, int64_t{1} << 31);
  const at::Tensor logits = at::empty({rows, classes}, at::TensorOptions(at::kBFloat16).device(kGpu)).normal_();
  const at::Tensor targets = at::randint(classes, {rows}, at::TensorOptions(at::kLong).device(kGpu));
  const auto options = Options().reduction(torch::kNone);
  const auto ours = outcome_of([&](const at::Tensor& x) { return F::cross_entropy(x, targets, options); }, logits,
                               at::ones({rows}, kGpu));
  for (const int64_t begin : {int64_t{0}, rows - 8}) {
    const auto part = [&](const at::Tensor& t) { return t.narrow(0, begin, 8); };
    const auto theirs =
        outcome_of([&](const at::Tensor& x) { return torch::nn::functional::cross_entropy(x, part(targets), options); },
                   part(logits).to(at::kDouble), at::ones({8}, kGpu));
    EXPECT_TRUE(near(part(ours.loss), theirs.loss, 2e-6, 2e-5)) << begin;
    EXPECT_TRUE(near(part(ours.gradient), theirs.gradient, rounding(at::kBFloat16), 2e-6)) << begin;
  }
}

TEST_F(CrossEntropyOnGpu, TheSameNumbersGiveTheSameBits) {
  const Batch batch = batch_of({.rows = 3000, .classes = 50'257, .ignored = 0.1}, kGpu);
  const auto run = [&] {
    return outcome_of([&](const at::Tensor& x) { return F::cross_entropy(x, batch.targets); }, batch.logits,
                      at::ones({}, kGpu));
  };
  const Outcome first = run();
  for (int i = 0; i < 3; ++i) {
    const Outcome again = run();
    EXPECT_TRUE(at::equal(again.loss, first.loss));
    EXPECT_TRUE(at::equal(again.gradient, first.gradient));
  }
}

TEST_F(CrossEntropyOnGpu, NoMemoryIsTakenBesideTheResults) {
  const Batch batch = batch_of({.rows = 512, .classes = 50'304}, kGpu);
  const at::Tensor leaf = batch.logits.detach().requires_grad_();
  const auto run = [&] { F::cross_entropy(leaf, batch.targets, Options().label_smoothing(0.1)).backward(); };
  run();
  leaf.mutable_grad().reset();
  torch::cuda::synchronize();
  const auto stats = [] { return at::accelerator::getDeviceStats(0).allocated_bytes[0]; };
  at::accelerator::resetPeakStats(0);
  const int64_t before = stats().current;
  run();
  // The gradient is rounded up to pages of 2 MiB.
  EXPECT_LT(stats().peak - before, static_cast<int64_t>(leaf.nbytes()) + (4 << 20)) << "gradient " << leaf.nbytes();
}

TEST_F(CrossEntropyOnGpu, ATargetThatIsNoClassIsAFailedAssertion) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");  // a program of its own: the device is lost to it
  const auto ask = [] {
    try {
      F::cross_entropy(at::zeros({2, 5}, at::TensorOptions(at::kBFloat16).device(kGpu)),
                       at::full({2}, 5, at::TensorOptions(at::kLong).device(kGpu)));
      torch::cuda::synchronize();
    } catch (const std::exception& error) {
      std::cerr << error.what() << std::endl;
      std::_Exit(3);
    }
    std::_Exit(0);
  };
  EXPECT_EXIT(ask(), testing::ExitedWithCode(3), "a target is none of the classes");
}

}  // namespace
