// Switches for products of float32: set while an Accelerator lives, what they were afterwards.
#include <ATen/Context.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <optional>

#include "accelerate/accelerate.h"
#include "accelerate/plan.h"
#include "accelerate/precision/float32_scope.h"
#include "tests/support/throws_error.h"

namespace {

using accelerate::Accelerator;
using accelerate::ConfigError;
using accelerate::Float32Kwargs;
using accelerate::internal::Float32Scope;
using accelerate::support::ThrowsError;

/// All that LibTorch knows of them.
struct Switches {
  int matmul = static_cast<int>(at::globalContext().float32MatmulPrecision());
  bool cublas = at::globalContext().allowTF32CuBLAS();
  bool cudnn = at::globalContext().allowTF32CuDNN();
  at::Float32Precision cuda_matmul =
      at::globalContext().float32Precision(at::Float32Backend::CUDA, at::Float32Op::MATMUL);
  at::Float32Precision cpu_matmul =
      at::globalContext().float32Precision(at::Float32Backend::MKLDNN, at::Float32Op::MATMUL);
  bool operator==(const Switches&) const = default;
};

const char* const kTexts[] = {"highest", "high", "medium"};

TEST(Float32, StaysAsLibTorchIsSetByDefault) {
  const Switches before;
  const Accelerator accelerator({.cpu = true});
  EXPECT_EQ(Switches{}, before);
  EXPECT_EQ(accelerator.plan().at("float32_matmul_precision").value, "unset");
  EXPECT_EQ(accelerator.plan().at("cudnn_allow_tf32").source, "default");
}

TEST(Float32, IsSetWhileTheAcceleratorLives) {
  const Switches before;
  for (int i = 0; i < 3; ++i) {
    const Accelerator accelerator({.cpu = true, .float32 = {.matmul_precision = kTexts[i]}});
    EXPECT_EQ(Switches{}.matmul, i);
    EXPECT_EQ(accelerator.plan().at("float32_matmul_precision").value, kTexts[i]);
    EXPECT_EQ(accelerator.plan().at("float32_matmul_precision").source, "argument");
  }
  EXPECT_EQ(Switches{}, before) << "to the last of LibTorch's own fields";
}

TEST(Float32, IsOverWhenTrainingEnds) {
  const Switches before;
  Accelerator accelerator({.cpu = true, .float32 = {.matmul_precision = "medium"}});
  EXPECT_NE(Switches{}, before);
  accelerator.end_training();
  EXPECT_EQ(Switches{}, before);
  at::globalContext().setFloat32MatmulPrecision("high");
  { const Accelerator moved = std::move(accelerator); }
  EXPECT_EQ(Switches{}.matmul, 1) << "the user's own, set after the end";
  at::globalContext().setFloat32MatmulPrecision("highest");
}

TEST(Float32, RestoresWhatTheUserHadSet) {
  at::globalContext().setFloat32MatmulPrecision("high");
  at::globalContext().setAllowTF32CuDNN(false);
  const Switches before;
  { const Accelerator accelerator({.cpu = true, .float32 = {.matmul_precision = "highest"}}); }
  EXPECT_EQ(Switches{}, before);
  at::globalContext().setFloat32MatmulPrecision("highest");
  at::globalContext().setAllowTF32CuDNN(true);
}

TEST(Float32, ScopesMayEndInAnyOrder) {
  const Switches before;
  std::optional<Float32Scope> first, second;
  first.emplace(Float32Kwargs{.matmul_precision = "high", .cudnn_allow_tf32 = false});
  const Switches of_first;
  EXPECT_FALSE(of_first.cudnn);
  second.emplace(Float32Kwargs{.matmul_precision = "medium"});
  EXPECT_EQ(Switches{}.matmul, 2);
  EXPECT_FALSE(Switches{}.cudnn) << "the newest says nothing of that";
  first.reset();
  EXPECT_EQ(Switches{}.matmul, 2);
  EXPECT_TRUE(Switches{}.cudnn);
  second.reset();
  EXPECT_EQ(Switches{}, before);
  first.emplace(Float32Kwargs{.matmul_precision = "high", .cudnn_allow_tf32 = false});
  second.emplace(Float32Kwargs{.matmul_precision = "medium"});
  second.reset();
  EXPECT_EQ(Switches{}, of_first);
  first.reset();
  EXPECT_EQ(Switches{}, before);
}

TEST(Float32, SwitchesOfGpusAreSet) {
  const Switches before;
  {
    const Float32Scope scope(Float32Kwargs{.cuda_matmul_allow_tf32 = true, .cudnn_allow_tf32 = false});
    EXPECT_TRUE(Switches{}.cublas);
    EXPECT_FALSE(Switches{}.cudnn);
  }
  EXPECT_EQ(Switches{}, before);
}

TEST(Float32, AnAcceleratorThatCannotBeLeavesThemAlone) {
  const Switches before;
  accelerate::AcceleratorOptions options{.cpu = true, .float32 = {.matmul_precision = "high"}};
  options.world = accelerate::World{.rank = 0, .size = 2, .local_rank = 0, .local_size = 2};
  EXPECT_THROW(Accelerator{options}, ConfigError);
  EXPECT_EQ(Switches{}, before);
}

TEST(Float32, WhatMakesNoSenseIsRefused) {
  const auto make = [](Float32Kwargs float32) { Accelerator({.cpu = true, .float32 = std::move(float32)}); };
  EXPECT_THAT([&] { make({.matmul_precision = "tf32"}); },
              ThrowsError<ConfigError>({.place = "float32",
                                        .what = "The precision of products is not known",
                                        .got = ".matmul_precision = \"tf32\"",
                                        .expected = "\"highest\", \"high\" or \"medium\"",
                                        .remedy = "AcceleratorOptions::float32"}));
  EXPECT_THAT([&] { make({.matmul_precision = "highest", .cuda_matmul_allow_tf32 = true}); },
              ThrowsError<ConfigError>({.place = "float32",
                                        .what = "Two fields say the opposite of each other",
                                        .got = ".cuda_matmul_allow_tf32 = true",
                                        .expected = "one of the two",
                                        .remedy = "Keep .matmul_precision"}));
  EXPECT_THAT([&] { make({.matmul_precision = "medium", .cuda_matmul_allow_tf32 = false}); },
              ThrowsError<ConfigError>({.place = "float32",
                                        .what = "Two fields say the opposite of each other",
                                        .got = ".matmul_precision = \"medium\"",
                                        .expected = "one of the two",
                                        .remedy = "Keep .matmul_precision"}));
  EXPECT_THAT([&] { make({.cudnn_allow_tf32 = true}); },
              ThrowsError<ConfigError>({.place = "float32",
                                        .what = "The CPU has no TF32",
                                        .got = ".cudnn_allow_tf32 = true",
                                        .expected = "a GPU",
                                        .remedy = ".matmul_precision = \"high\""}));
  EXPECT_NO_THROW(make({.cuda_matmul_allow_tf32 = false, .cudnn_allow_tf32 = false}));
}

}  // namespace
