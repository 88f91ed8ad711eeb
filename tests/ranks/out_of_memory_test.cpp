// Memory runs out on every rank in one step: the error knows of the buckets, and the ranks stay together.
#include <c10/util/Exception.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include "accelerate/accelerate.h"
#include "accelerate/testing/ranks.h"

namespace {

using accelerate::Accelerator;
using accelerate::Ddp;
using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

constexpr int64_t kBytes = (6 * 3 + 3) * 8;

struct NetImpl : torch::nn::Module {
  NetImpl() : inner(register_module("inner", torch::nn::Linear(torch::nn::LinearOptions(6, 3)))) { to(torch::kDouble); }
  at::Tensor forward(const at::Tensor& x) {
    const at::Tensor y = inner(x);
    TORCH_CHECK_WITH(OutOfMemoryError, !fails,
                     "CUDA out of memory. Tried to allocate 2.00 GiB. Of the allocated memory ",
                     "9.00 GiB is allocated by PyTorch");
    return y;
  }
  torch::nn::Linear inner;
  bool fails = false;
};
TORCH_MODULE(Net);

std::vector<Net> equal_nets(int64_t count) {
  std::vector<Net> nets;
  for (int64_t i = 0; i < count; ++i) {
    torch::manual_seed(3);
    nets.emplace_back();
  }
  return nets;
}

/// Weights of rank 0 after five steps, of which each is tried again after a failure if `fails`.
at::Tensor trained(bool fails, const Ddp& ddp) {
  const auto nets = equal_nets(2);
  std::string text;
  accelerate::testing::run_ranks(2, [&](const accelerate::testing::Rank& rank) {
    Net net = nets[static_cast<size_t>(rank.rank())];
    accelerate::AcceleratorOptions options = rank.options();
    options.strategy = ddp;
    Accelerator accelerator(options);
    torch::optim::SGD sgd(net->parameters(), 0.1);
    auto prepared = accelerator.prepare(net, sgd);
    const auto& model = std::get<0>(prepared);
    const auto& optimizer = std::get<1>(prepared);
    for (int64_t step = 0; step < 5; ++step) {
      const at::Tensor x =
          at::arange(12, at::kDouble).view({2, 6}) * static_cast<double>(step + 1 + rank.rank()) * 0.01;
      if (fails) {
        net->fails = true;
        try {
          model(x);
          ADD_FAILURE() << "nothing was thrown";
        } catch (const c10::OutOfMemoryError& error) {
          if (rank.rank() == 0) text = error.what_without_backtrace();
        }
        net->fails = false;
      }
      accelerator.backward(model(x).square().sum());
      optimizer.step();
      optimizer.zero_grad();
    }
  });
  const std::string buckets = "buckets of the gradients' exchange " + std::to_string(kBytes) + " bytes";
  if (fails) {
    EXPECT_THAT(text, AllOf(HasSubstr("[forward] "), HasSubstr(buckets)));
    EXPECT_THAT(text, HasSubstr("parameters and buffers " + std::to_string(kBytes) + " bytes"));
  }
  return nets[0]->inner->weight.detach().clone();
}

TEST(OutOfMemoryOfRanks, LeavesTheExchangeWhole) {
  for (const bool view : {false, true}) {
    const Ddp ddp{.gradient_as_bucket_view = view};
    EXPECT_TRUE(at::equal(trained(true, ddp), trained(false, ddp)));
  }
}

TEST(OutOfMemoryOfRanks, GradientsInBucketsCountOnce) {
  const auto nets = equal_nets(2);
  std::vector<std::string> texts(2);
  accelerate::testing::run_ranks(2, [&](const accelerate::testing::Rank& rank) {
    const auto index = static_cast<size_t>(rank.rank());
    accelerate::AcceleratorOptions options = rank.options();
    options.strategy = Ddp{.gradient_as_bucket_view = true};
    Accelerator accelerator(options);
    auto model = accelerator.prepare(nets[index]);
    accelerator.backward(model(at::ones({2, 6}, at::kDouble)).sum());
    Net net = nets[index];
    net->fails = true;
    try {
      model(at::ones({2, 6}, at::kDouble));
    } catch (const c10::OutOfMemoryError& error) {
      texts[index] = error.what_without_backtrace();
    }
  });
  for (const std::string& text : texts) {
    EXPECT_THAT(text, AllOf(HasSubstr("gradients " + std::to_string(kBytes) + " bytes"), Not(HasSubstr("buckets of"))));
  }
}

}  // namespace
