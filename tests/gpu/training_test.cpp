// A whole training run on one GPU: what is moved there, and that the numbers are those of the CPU.
#include <ATen/autocast_mode.h>

#include "tests/gpu/gpu.h"
#include "tests/support/temporary_folder.h"
#include "tests/unit/training.h"

namespace {

using accelerate::Accelerator;
using accelerate::DataLoader;
using accelerate::TensorDataset;
using training::make_batch;
using training::Mlp;
using training::mse;

class TrainingOnGpu : public gpu::OneGpu {};

TEST_F(TrainingOnGpu, IsTheDefaultAndThePlanSaysWhy) {
  Accelerator accelerator;
  EXPECT_EQ(accelerator.device(), c10::Device(c10::kCUDA, 0));
  EXPECT_EQ(accelerator.plan().at("device").value, "cuda:0");
  EXPECT_THAT(accelerator.plan().at("device").source, testing::HasSubstr("visible GPU"));
}

TEST_F(TrainingOnGpu, IsNotWhatHappensWhenTheCpuIsAskedFor) {
  Accelerator accelerator({.cpu = true});
  Mlp net(1);
  auto model = accelerator.prepare(net);
  EXPECT_EQ(accelerator.device(), c10::Device(c10::kCPU));
  EXPECT_TRUE(net->hidden->weight.is_cpu());
}

TEST_F(TrainingOnGpu, ModelAndBatchesAreOnTheDevice) {
  Accelerator accelerator;
  const auto [x, y] = make_batch(10, 1);
  Mlp net(1);
  const void* weight = net->hidden->weight.unsafeGetTensorImpl();
  auto [model, loader] = accelerator.prepare(net, DataLoader(TensorDataset(x, y), {.batch_size = 4}));
  EXPECT_EQ(net->hidden->weight.device(), accelerator.device());
  EXPECT_EQ(net->hidden->weight.unsafeGetTensorImpl(), weight) << "the optimizer keys its state by it";
  int64_t row = 0;
  for (auto& [inputs, targets] : loader) {
    EXPECT_EQ(inputs.device(), accelerator.device());
    EXPECT_TRUE(torch::equal(inputs.cpu(), x.slice(0, row, row + inputs.size(0))));
    EXPECT_TRUE(torch::equal(targets.cpu(), y.slice(0, row, row + inputs.size(0))));
    row += inputs.size(0);
  }
  EXPECT_EQ(row, 10);
}

/// Losses of three epochs with accumulation, clipping and a schedule.
std::vector<double> losses(const accelerate::AcceleratorOptions& options) {
  Accelerator accelerator(options);
  const auto [x, y] = make_batch(22, 5);
  Mlp net(1);
  torch::optim::AdamW adamw(net->parameters(), 1e-2);
  auto [model, optimizer, loader, scheduler] =
      accelerator.prepare(net, adamw, DataLoader(TensorDataset(x, y), {.batch_size = 4, .shuffle = true, .seed = 7}),
                          accelerate::cosine({.warmup_steps = 2, .total_steps = 20}));
  std::vector<double> seen;
  for (int epoch = 0; epoch < 3; ++epoch) {
    for (auto& [inputs, targets] : loader) {
      auto window = accelerator.accumulate(model);
      const at::Tensor loss = mse(model(inputs), targets);
      accelerator.backward(loss);
      accelerator.clip_grad_norm_(model, {.max_norm = 0.1});
      optimizer.step();
      scheduler.step();
      optimizer.zero_grad();
      seen.push_back(loss.item<double>());
    }
  }
  return seen;
}

TEST_F(TrainingOnGpu, GivesTheNumbersOfTheCpu) {
  const auto on_gpu = losses({.gradient_accumulation_steps = 2});
  const auto on_cpu = losses({.gradient_accumulation_steps = 2, .cpu = true});
  ASSERT_EQ(on_gpu.size(), on_cpu.size());
  // float64: kernels add in another order, which moves the last of 16 digits.
  for (size_t i = 0; i < on_gpu.size(); ++i) EXPECT_NEAR(on_gpu[i], on_cpu[i], 1e-11) << "step " << i;
}

TEST_F(TrainingOnGpu, ClippingMeasuresOnTheDevice) {
  Accelerator accelerator;
  Mlp net(1), twin(1);
  const auto [x, y] = make_batch(8, 1);
  auto model = accelerator.prepare(net);
  accelerator.backward(mse(model(x.to(accelerator.device())), y.to(accelerator.device())));
  const auto result = accelerator.clip_grad_norm_(model, {.max_norm = 1e-3});
  mse(twin(x), y).backward();
  const double norm = torch::nn::utils::clip_grad_norm_(twin->parameters(), 1e-3);
  EXPECT_EQ(result.norm.device(), accelerator.device());
  EXPECT_NEAR(result.norm.item<double>(), norm, 1e-12);
  EXPECT_NEAR(net->out->weight.grad().norm().item<double>(), twin->out->weight.grad().norm().item<double>(), 1e-14);
}

TEST_F(TrainingOnGpu, Bf16ComputesInBfloat16AndReturnsFloat) {
  Accelerator accelerator({.mixed_precision = "bf16"});
  torch::nn::Linear net(8, 8);
  auto model = accelerator.prepare(net);
  const at::Tensor x = torch::randn({4, 8}, accelerator.device());
  const at::Tensor out = model(x);
  EXPECT_EQ(out.scalar_type(), torch::kFloat);
  const at::Tensor by_hand =
      torch::linear(x.to(torch::kBFloat16), net->weight.to(torch::kBFloat16), net->bias.to(torch::kBFloat16));
  EXPECT_TRUE(torch::equal(out, by_hand.to(torch::kFloat)));
  EXPECT_FALSE(at::autocast::is_autocast_enabled(at::kCUDA)) << "not after the call";
}

TEST_F(TrainingOnGpu, SavedModelsAreReadOnAnyDevice) {
  const accelerate::support::TemporaryFolder folder;
  Mlp trained(1), on_cpu(2), on_gpu(3);
  Accelerator accelerator;
  accelerator.save_model(accelerator.prepare(trained), folder.path().string());
  auto model = accelerator.prepare(on_gpu);
  accelerator.load_model(model, folder.path().string());
  Accelerator cpu({.cpu = true});
  auto other = cpu.prepare(on_cpu);
  cpu.load_model(other, folder.path().string());
  EXPECT_TRUE(on_gpu->hidden->weight.is_cuda());
  EXPECT_TRUE(on_cpu->hidden->weight.is_cpu());
  EXPECT_TRUE(torch::equal(on_gpu->hidden->weight, trained->hidden->weight));
  EXPECT_TRUE(torch::equal(on_cpu->hidden->weight, trained->hidden->weight.cpu()));
}

TEST_F(TrainingOnGpu, CollectivesOfOneProcessAreIdentities) {
  Accelerator accelerator;
  const at::Tensor x = torch::randn({3, 2}, accelerator.device());
  EXPECT_TRUE(torch::equal(accelerator.gather(x), x));
  EXPECT_TRUE(torch::equal(accelerator.reduce(x, {.reduction = "sum"}), x));
  EXPECT_EQ(accelerator.gather(x).device(), accelerator.device());
}

TEST_F(TrainingOnGpu, ASeedSetsTheDevicesGeneratorToo) {
  Accelerator accelerator;
  accelerate::set_seed(11);
  const at::Tensor first = torch::randn({100}, accelerator.device());
  const at::Tensor other = torch::randn({100}, accelerator.device());
  accelerate::set_seed(11);
  EXPECT_TRUE(torch::equal(torch::randn({100}, accelerator.device()), first));
  EXPECT_FALSE(torch::equal(first, other));
}

}  // namespace
