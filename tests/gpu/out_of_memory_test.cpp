// Memory of a GPU that does run out: what is said, and that training goes on afterwards as if it had not.
#include <ATen/DeviceAccelerator.h>

#include "accelerate/tensor/out_of_memory.h"
#include "tests/gpu/gpu.h"

namespace {

using accelerate::Accelerator;
using testing::AllOf;
using testing::HasSubstr;
using testing::StartsWith;

constexpr int64_t kMiB = int64_t{1} << 20;
constexpr int64_t kWidth = 4096;  // 64 MiB a weight in float32

struct WideImpl : torch::nn::Module {
  WideImpl() {
    torch::manual_seed(5);
    for (int i = 0; i < 2; ++i) {
      layers->push_back(torch::nn::Linear(torch::nn::LinearOptions(kWidth, kWidth).bias(false)));
    }
    register_module("layers", layers);
  }
  at::Tensor forward(const at::Tensor& x) { return layers->forward(x); }
  torch::nn::Sequential layers;
};
TORCH_MODULE(Wide);

/// Takes the device's memory until it goes, but for `left` bytes in one piece, and some for kernels that are not loaded
/// yet: too little for a weight.
class Ballast {
 public:
  Ballast(c10::Device device, int64_t left) {
    accelerate::clear_device_cache();
    constexpr int64_t kSlack = 48 * kMiB;
    const auto options = at::TensorOptions(at::kByte).device(device);
    const auto free = [&] { return static_cast<int64_t>(at::accelerator::getMemoryInfo(device.index()).first); };
    const at::Tensor kept = at::empty({left}, options);
    for (int64_t size = 1024 * kMiB; size >= 8 * kMiB; size /= 2) {
      while (free() - size >= kSlack) pieces_.push_back(at::empty({size}, options));
    }
  }

 private:
  std::vector<at::Tensor> pieces_;
};

/// Loads what the passes need besides memory of tensors: cuBLAS has some of its own for each thread.
template <class Model>
void warm_up(Accelerator& accelerator, const Model& model) {
  accelerator.backward(model(torch::randn({64, kWidth}, accelerator.device())).square().mean());
  for (at::Tensor& parameter : model->parameters()) parameter.mutable_grad().reset();
}

std::string text_of(const std::function<void()>& function) {
  try {
    function();
  } catch (const c10::OutOfMemoryError& error) {
    EXPECT_TRUE(accelerate::should_reduce_batch_size(error));
    return error.what_without_backtrace();
  }
  return "nothing was thrown";
}

class OutOfMemoryOnGpu : public gpu::OneGpu {
 protected:
  void TearDown() override { accelerate::clear_device_cache(); }
};

/// Both weights after three updates. With `trouble` memory runs out in the second one, first in the forward, then in
/// the backward, then in the step; `texts` is what was said.
std::vector<at::Tensor> trained(bool trouble, std::vector<std::string>& texts) {
  Accelerator accelerator;
  Wide net;
  torch::optim::AdamW adamw(net->parameters(), 1e-3);
  auto prepared = accelerator.prepare(net, adamw);
  const auto& model = std::get<0>(prepared);
  const auto& optimizer = std::get<1>(prepared);
  warm_up(accelerator, model);
  torch::manual_seed(6);
  for (int64_t step = 0; step < 3; ++step) {
    const at::Tensor x = torch::randn({64, kWidth}, accelerator.device());
    // Memory is short from the first step on, where the optimizer makes its state.
    if (trouble && step == 0) {
      {
        const at::Tensor large = x.repeat({1 << 7, 1});  // 128 MiB, as what a layer gives for it
        const Ballast ballast(accelerator.device(), 96 * kMiB);
        texts.push_back(text_of([&] { model(large); }));
      }
      const at::Tensor loss = model(x).square().mean();
      {
        const Ballast ballast(accelerator.device(), 0);
        texts.push_back(text_of([&] { accelerator.backward(loss); }));
      }
      optimizer.zero_grad();
    }
    const at::Tensor loss = model(x).square().mean();
    accelerator.backward(loss);
    if (trouble && step == 0) {
      const Ballast ballast(accelerator.device(), 0);
      texts.push_back(text_of([&] { optimizer.step(); }));
    }
    optimizer.step();
    optimizer.zero_grad();
  }
  return {net->layers->ptr<torch::nn::LinearImpl>(0)->weight.detach().cpu(),
          net->layers->ptr<torch::nn::LinearImpl>(1)->weight.detach().cpu()};
}

TEST_F(OutOfMemoryOnGpu, IsExplainedInEveryPhaseAndTrainingGoesOn) {
  std::vector<std::string> texts, none;
  const auto weights = trained(true, texts);
  const auto expected = trained(false, none);
  ASSERT_EQ(texts.size(), 3U);
  EXPECT_THAT(texts[0], AllOf(StartsWith("[forward] The memory of cuda:0 is used up: got "), HasSubstr(" asked for, "),
                              HasSubstr("parameters and buffers 128.00 MiB"), HasSubstr("activations and others ")));
  EXPECT_THAT(texts[0], AllOf(HasSubstr("halve the batch"), HasSubstr("CUDA out of memory. Tried to allocate")));
  EXPECT_THAT(texts[1], AllOf(StartsWith("[backward] "), HasSubstr("parameters and buffers 128.00 MiB")));
  EXPECT_THAT(texts[2], AllOf(StartsWith("[optimizer.step] "), HasSubstr("gradients 128.00 MiB")));
  // A step that found no memory has counted nothing: the same kernels on the same numbers.
  for (size_t i = 0; i < weights.size(); ++i) EXPECT_TRUE(torch::equal(weights[i], expected[i])) << "layer " << i;
}

TEST_F(OutOfMemoryOnGpu, NumbersOfTheTextAreTheAllocators) {
  const at::Tensor held = torch::ones({300 * kMiB}, at::TensorOptions(at::kByte).device(at::kCUDA));
  const std::string text =
      text_of([] { at::empty({int64_t{1} << 42}, at::TensorOptions(at::kByte).device(at::kCUDA)); });
  const auto said = accelerate::internal::parse_failed_allocation(text);
  ASSERT_TRUE(said.asked && said.free && said.total && said.allocated && said.cached) << text;
  EXPECT_EQ(*said.asked, int64_t{1} << 42);
  // Two digits of a GiB are written.
  constexpr double kDigit = 11.0 * kMiB;
  const auto total = at::accelerator::getMemoryInfo(0).second;
  EXPECT_NEAR(static_cast<double>(*said.total), static_cast<double>(total), kDigit);
  const auto stats = at::accelerator::getDeviceStats(0);
  EXPECT_NEAR(static_cast<double>(*said.allocated), static_cast<double>(stats.allocated_bytes[0].current), kDigit);
  EXPECT_GE(*said.allocated, 295 * kMiB);
}

TEST_F(OutOfMemoryOnGpu, TheSizeThatFitsIsFound) {
  Accelerator accelerator;
  Wide net;
  auto model = accelerator.prepare(net);
  warm_up(accelerator, model);
  const Ballast ballast(accelerator.device(), 512 * kMiB);
  auto run = accelerate::find_executable_batch_size(
      [&](int64_t batch_size) {
        accelerator.backward(model(torch::randn({batch_size, kWidth}, accelerator.device())).square().mean());
        for (at::Tensor& parameter : net->parameters()) parameter.mutable_grad().reset();
      },
      {.starting_batch_size = 1 << 18, .reduce_batch_size = [](int64_t size) { return size / 2; }});
  run();
  EXPECT_GE(run.batch_size(), 256);
  EXPECT_LT(run.batch_size(), 1 << 15);
}

}  // namespace
