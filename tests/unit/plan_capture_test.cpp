// Where steps cannot be captured the option is refused.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "accelerate/accelerate.h"

namespace {

using accelerate::Accelerator;
using accelerate::CudaGraph;
using testing::HasSubstr;

TEST(PlanCapture, WithoutADeviceThatCapturesTheOptionIsRefused) {
  try {
    Accelerator({.cpu = true, .cuda_graph = CudaGraph{}});
    FAIL() << "no error";
  } catch (const accelerate::ConfigError& error) {
    EXPECT_THAT(error.what(), HasSubstr("[cuda_graph] Steps cannot be captured on this device: got the device cpu"));
    EXPECT_THAT(error.what(), HasSubstr("Leave .cuda_graph out"));
  }
}

TEST(PlanCapture, ThePlanSaysWhetherStepsAreCaptured) {
  EXPECT_EQ(Accelerator({.cpu = true}).plan().at("cuda_graph").value, "off");
  accelerate::AcceleratorOptions options{.cpu = true, .cuda_graph = CudaGraph{.warmup_steps = 3, .max_graphs = 4}};
  options.extensions.captures = {{.type = c10::kCPU, .make = [](c10::Device) { return nullptr; }}};
  EXPECT_EQ(Accelerator(options).plan().at("cuda_graph").value, "captured after 3 steps, up to 4 kinds");
}

}  // namespace
