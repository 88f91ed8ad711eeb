// What looks on while a GPU computes: profiles, averages of the weights, statistics of gradients.
#include "tests/gpu/gpu.h"
#include "tests/support/temporary_folder.h"
#include "tests/unit/training.h"

namespace {

using accelerate::Accelerator;
using accelerate::StepResult;
using testing::HasSubstr;
using training::Mlp;

class ObservingOnGpu : public gpu::OneGpu {};

TEST_F(ObservingOnGpu, AProfileHasTheKernelsAndWhoStartedThem) {
  const accelerate::support::TemporaryFolder folder;
  Accelerator accelerator;
  const at::Tensor a = torch::rand({512, 512}, accelerator.device());
  torch::mm(a, a);  // libraries are loaded outside
  auto profiler = accelerator.profile({.output_trace_dir = folder / "trace"});
  for (int i = 0; i < 3; ++i) torch::mm(a, a);
  profiler.finish();
  double kernels = 0, products = 0;
  for (const auto& event : profiler.key_averages()) {
    if (event.device_type == c10::kCUDA) kernels += event.self_device_time_total;
    if (event.key == "aten::mm") products += event.device_time_total;
  }
  EXPECT_GT(products, 0);
  EXPECT_GE(kernels, products * (1 - 1e-9));
  EXPECT_THAT(profiler.key_averages().table(), HasSubstr("Self CUDA time total:"));
  EXPECT_THAT(accelerate::support::read_text(folder / "trace/profile_0.json"), HasSubstr("\"cat\": \"kernel\""));
}

TEST_F(ObservingOnGpu, AProfileOfTheCpuAloneHasNone) {
  Accelerator accelerator;
  auto profiler = accelerator.profile({.activities = {"cpu"}});
  torch::ones({8, 8}, accelerator.device()).mul(2);
  profiler.finish();
  for (const auto& event : profiler.key_averages()) EXPECT_EQ(event.device_type, c10::kCPU) << event.key;
}

TEST_F(ObservingOnGpu, AveragesFollowAModelThatIsMoved) {
  Accelerator accelerator({.cpu = true});
  Mlp net(1);
  auto model = accelerator.prepare(net);
  accelerate::Ema ema(model, {.decay = 0.5});
  const auto become = [&](double value) {
    const torch::NoGradGuard no_grad;
    for (auto& parameter : net->parameters()) parameter.fill_(value);
    ema.update(StepResult(StepResult::Outcome::kApplied));
  };
  become(1);
  net->to(torch::kCUDA);
  become(3);
  {
    const auto weights = ema.apply();
    EXPECT_TRUE(net->out->bias.is_cuda());
    EXPECT_EQ(net->out->bias[0].item<double>(), 2);
  }
  EXPECT_EQ(net->out->bias[0].item<double>(), 3);
}

TEST_F(ObservingOnGpu, StatisticsOfGradientsAreThoseOfTheCpu) {
  Accelerator accelerator;
  Mlp net(1, torch::kFloat);
  auto [model, optimizer] = accelerator.prepare(net, torch::optim::SGD(net->parameters(), 0.1));
  const auto [x, y] = training::make_batch(64, 2, torch::kFloat);
  accelerator.backward(training::mse(model(x.to(accelerator.device())), y.to(accelerator.device())));
  const auto on_gpu = accelerator.gradient_statistics(optimizer).groups.at(0);
  std::vector<at::Tensor> copies;
  for (const at::Tensor& parameter : net->parameters()) {
    copies.push_back(parameter.detach().cpu().requires_grad_());
    copies.back().mutable_grad() = parameter.grad().cpu();
  }
  torch::optim::SGD sgd(copies, 0.1);
  const auto on_cpu = accelerate::internal::gradient_statistics(sgd).at(0);
  EXPECT_NEAR(on_gpu.norm, on_cpu.norm, 1e-12);  // the same numbers, added in double
  EXPECT_NEAR(on_gpu.mean, on_cpu.mean, 1e-12);
  EXPECT_EQ(on_gpu.max_abs, on_cpu.max_abs);
  EXPECT_EQ(on_gpu.zero, on_cpu.zero);
  EXPECT_EQ(on_gpu.elements, on_cpu.elements);
}

}  // namespace
