// What the error says when memory runs out: LibTorch's text as numbers, the advice that follows from them, and who is
// asked in which phase.
#include <c10/util/Exception.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include "accelerate/accelerate.h"
#include "accelerate/tensor/memory_bytes.h"
#include "accelerate/tensor/out_of_memory.h"
#include "tests/unit/training.h"

namespace {

using accelerate::Accelerator;
using accelerate::internal::FailedAllocation;
using accelerate::internal::MemoryOwner;
using accelerate::internal::MemoryPhase;
using accelerate::internal::out_of_memory_text;
using accelerate::internal::OutOfMemory;
using accelerate::internal::parse_failed_allocation;
using testing::AllOf;
using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;
using training::Mlp;
using training::mse;

constexpr int64_t kMiB = int64_t{1} << 20, kGiB = int64_t{1} << 30;

/// As LibTorch 2.11 writes it.
const char* const kText =
    "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 79.11 GiB of which 1.50 GiB is "
    "free. "
    "Process 4711 has 77.60 GiB memory in use. Of the allocated memory 70.25 GiB is allocated by PyTorch, with 3.00 "
    "GiB "
    "allocated in private pools (e.g., CUDA Graphs), and 512.00 MiB is reserved by PyTorch but unallocated. If "
    "reserved "
    "but unallocated memory is large try setting PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True to avoid "
    "fragmentation.";

int64_t gib(double number) { return static_cast<int64_t>(number * static_cast<double>(kGiB)); }

TEST(FailedAllocationText, HasItsNumbers) {
  const FailedAllocation found = parse_failed_allocation(kText);
  EXPECT_EQ(found.asked, gib(2.5));
  EXPECT_EQ(found.total, gib(79.11));
  EXPECT_EQ(found.free, gib(1.5));
  EXPECT_EQ(found.allocated, gib(70.25));
  EXPECT_EQ(found.in_graphs, 3 * kGiB);
  EXPECT_EQ(found.cached, 512 * kMiB);
}

TEST(FailedAllocationText, WithALimitOfItsOwnThatIsWhatIsFree) {
  const FailedAllocation found = parse_failed_allocation(
      "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 3 has a total capacity of 139.00 GiB of which 120.00 GiB "
      "is "
      "free. 1.00 GiB allowed; Of the allocated memory 900.00 MiB is allocated by PyTorch, and 100.00 MiB is reserved "
      "by "
      "PyTorch but unallocated.");
  EXPECT_EQ(found.asked, 20 * kMiB);
  EXPECT_EQ(found.free, 24 * kMiB);
  EXPECT_EQ(found.cached, 100 * kMiB);
  EXPECT_FALSE(found.in_graphs);
}

TEST(FailedAllocationText, OfAnotherKindSaysWhatItHas) {
  const FailedAllocation found = parse_failed_allocation("XPU out of memory. Tried to allocate 12 bytes and failed");
  EXPECT_EQ(found.asked, 12);
  EXPECT_FALSE(found.free || found.total || found.allocated || found.in_graphs || found.cached);
  const FailedAllocation none =
      parse_failed_allocation("out of memory. Tried to allocate more than 1EB memory. allowed; ");
  EXPECT_FALSE(none.asked || none.free);
  EXPECT_FALSE(parse_failed_allocation("").asked);
  EXPECT_FALSE(parse_failed_allocation(" is reserved by PyTorch but unallocated").cached);
}

/// 80 GiB: 4 of parameters, 4 of gradients, 8 of state, the rest as `allocation` says.
OutOfMemory report(MemoryPhase phase, FailedAllocation allocation) {
  return {.phase = phase,
          .device = "cuda:0",
          .allocation = allocation,
          .owned = {{MemoryOwner::kParameters, 4 * kGiB},
                    {MemoryOwner::kGradients, 4 * kGiB},
                    {MemoryOwner::kOptimizerState, 8 * kGiB}}};
}

TEST(OutOfMemoryText, NamesPhaseOwnersAndAWayOut) {
  const OutOfMemory full =
      report(MemoryPhase::kBackward,
             {.asked = 2 * kGiB, .free = kGiB / 2, .total = 80 * kGiB, .allocated = 78 * kGiB, .cached = kGiB});
  EXPECT_EQ(
      out_of_memory_text(full),
      "[backward] The memory of cuda:0 is used up: got 2.00 GiB asked for, 512.00 MiB free of 80.00 GiB; held by "
      "activations and others 62.00 GiB, optimizer state 8.00 GiB, parameters and buffers 4.00 GiB, gradients 4.00 "
      "GiB, cache 1.00 GiB, outside LibTorch 512.00 MiB. To make it fit, halve the batch and set "
      ".gradient_accumulation_steps = 2 instead of 1, which halves the activations (62.00 GiB); or choose a "
      ".mixed_precision of 16 bits, which takes up to half of the activations; or choose an optimizer with less "
      "state, which takes 8.00 GiB (plain SGD has none).");
}

TEST(OutOfMemoryText, PlacesAreTheUsersWords) {
  const auto of = [](MemoryPhase phase) { return out_of_memory_text(report(phase, {})); };
  EXPECT_THAT(of(MemoryPhase::kPrepare),
              StartsWith("[prepare] The memory of cuda:0 is used up: got an allocation that"));
  EXPECT_THAT(of(MemoryPhase::kForward), StartsWith("[forward] "));
  EXPECT_THAT(of(MemoryPhase::kOptimizerStep), StartsWith("[optimizer.step] "));
  EXPECT_THAT(of(MemoryPhase::kCollective), StartsWith("[collective] "));
}

TEST(OutOfMemoryText, AdviceFollowsFromTheNumbers) {
  const FailedAllocation plain{.asked = 2 * kGiB, .free = 0, .total = 80 * kGiB, .allocated = 80 * kGiB, .cached = 0};
  OutOfMemory full = report(MemoryPhase::kForward, plain);
  EXPECT_THAT(out_of_memory_text(full), HasSubstr("halve the batch"));
  full.setting.narrow = true;
  full.setting.gradient_accumulation_steps = 4;
  EXPECT_THAT(out_of_memory_text(full), AllOf(HasSubstr(".gradient_accumulation_steps = 8 instead of 4"),
                                              Not(HasSubstr("16 bits")), HasSubstr("optimizer.zero_grad()")));
  full.setting.first_micro_step = false;  // the gradients are this window's
  EXPECT_THAT(out_of_memory_text(full), Not(HasSubstr("zero_grad")));
}

TEST(OutOfMemoryText, PiecesThatAreTooSmallAreSaidToBe) {
  const OutOfMemory full =
      report(MemoryPhase::kForward,
             {.asked = 6 * kGiB, .free = kGiB, .total = 80 * kGiB, .allocated = 20 * kGiB, .cached = 59 * kGiB});
  EXPECT_THAT(out_of_memory_text(full),
              HasSubstr("To make it fit, set PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True"));
  EXPECT_THAT(out_of_memory_text(full), HasSubstr("59.00 GiB are cached in pieces that are too small"));
  EXPECT_THAT(out_of_memory_text(full), Not(HasSubstr("halve the batch"))) << "2 GiB would not be enough";
}

TEST(OutOfMemoryText, OtherProgramsOnTheGpuAreSaidToBeThere) {
  const OutOfMemory full = report(MemoryPhase::kPrepare,
                                  {.asked = kGiB, .free = 0, .total = 80 * kGiB, .allocated = 16 * kGiB, .cached = 0});
  EXPECT_THAT(out_of_memory_text(full),
              HasSubstr("To make it fit, end what else runs on the GPU (nvidia-smi lists it): "
                        "64.00 GiB are in use outside LibTorch"));
}

TEST(OutOfMemoryText, AStepNeedsNoActivations) {
  const OutOfMemory full =
      report(MemoryPhase::kOptimizerStep,
             {.asked = 2 * kGiB, .free = 0, .total = 80 * kGiB, .allocated = 80 * kGiB, .cached = 0});
  EXPECT_THAT(out_of_memory_text(full),
              AllOf(HasSubstr("let go of outputs and of losses with their graph before this call: 64.00 GiB"),
                    Not(HasSubstr("halve the batch"))));
}

TEST(OutOfMemoryText, WhatIsNotEnoughAloneIsSaidToBe) {
  OutOfMemory full = report(MemoryPhase::kForward,
                            {.asked = 40 * kGiB, .free = 0, .total = 80 * kGiB, .allocated = 80 * kGiB, .cached = 0});
  full.remedies = {{3 * kGiB, "sell something"}};
  full.setting.narrow = true;
  EXPECT_THAT(out_of_memory_text(full),
              HasSubstr("Each of these gives something back, but not enough alone: halve the batch"));
  EXPECT_THAT(out_of_memory_text(full), Not(HasSubstr("sell something"))) << "three at most";
  full.owned = {};
  full.allocation.asked = 41 * kGiB;  // half of the activations is 40
  EXPECT_THAT(out_of_memory_text(full), HasSubstr("; sell something."));
}

TEST(OutOfMemoryText, OnlyWhatLacksHasToBeGivenBack) {
  const OutOfMemory full = report(
      MemoryPhase::kForward,
      {.asked = 9 * kGiB, .free = 9 * kGiB - 512 * kMiB, .total = 30 * kGiB, .allocated = 17 * kGiB, .cached = 0});
  EXPECT_THAT(out_of_memory_text(full), HasSubstr("To make it fit, ")) << "512 MiB, of which there are";
}

TEST(OutOfMemoryText, WithoutAnyNumberThereIsStillSomethingToDo) {
  EXPECT_EQ(out_of_memory_text({.phase = MemoryPhase::kForward, .device = "cpu"}),
            "[forward] The memory of cpu is used up: got an allocation that failed. Lower the batch size and raise "
            ".gradient_accumulation_steps, or let accelerate::find_executable_batch_size look for a size that fits.");
}

TEST(MemoryCount, CountsSharedMemoryOnceAndOtherDevicesNever) {
  accelerate::internal::MemoryCount count{c10::Device(c10::kCPU)};
  const at::Tensor all = at::zeros({10, 4}, at::kFloat);
  count.add(all);
  count.add(all.slice(0, 2, 5));
  count.add(at::empty({1000}, at::kMeta));
  count.add({});
  EXPECT_EQ(count.bytes(), 160);
  count.add(at::eye(3, at::kDouble).to_sparse());
  EXPECT_EQ(count.bytes(), 160 + 2 * 3 * 8 + 3 * 8);
}

[[noreturn]] void run_out() {
  TORCH_CHECK_WITH(OutOfMemoryError, false, kText);
  throw std::logic_error("unreachable");
}

/// A model that runs out of memory when it is told to, in a pass.
struct GreedyImpl : torch::nn::Module {
  struct Failing : torch::autograd::Function<Failing> {
    static at::Tensor forward(torch::autograd::AutogradContext*, const at::Tensor& x) { return x.clone(); }
    static torch::autograd::tensor_list backward(torch::autograd::AutogradContext*,
                                                 const torch::autograd::tensor_list&) {
      run_out();
    }
  };
  GreedyImpl() : inner(register_module("inner", torch::nn::Linear(torch::nn::LinearOptions(8, 4)))) {}
  at::Tensor forward(const at::Tensor& x) {
    if (forward_fails) run_out();
    const at::Tensor y = inner(x);
    return backward_fails ? Failing::apply(y) : y;
  }
  torch::nn::Linear inner;
  bool forward_fails = false, backward_fails = false;
};
TORCH_MODULE(Greedy);

constexpr int64_t kParameterBytes = (8 * 4 + 4) * 4;

/// An optimizer that runs out of memory when it is told to.
class GreedySgd : public torch::optim::SGD {
 public:
  using SGD::SGD;
  at::Tensor step(LossClosure closure = nullptr) override {
    if (fails) run_out();
    return SGD::step(std::move(closure));
  }
  bool fails = false;
};

std::string text_of(const std::function<void()>& function) {
  try {
    function();
  } catch (const c10::OutOfMemoryError& error) {
    EXPECT_TRUE(accelerate::should_reduce_batch_size(error));
    return error.what_without_backtrace();
  }
  return "nothing was thrown";
}

class Owners : public testing::Test {
 protected:
  Accelerator accelerator{{.cpu = true}};
  Greedy net;
  torch::optim::AdamW adamw{net->parameters(), 1e-2};
  at::Tensor x = torch::randn({3, 8});
  std::string bytes(int64_t times) const { return std::to_string(times * kParameterBytes) + " bytes"; }
};

TEST_F(Owners, AreCountedWhenAForwardFails) {
  auto [model, optimizer] = accelerator.prepare(net, adamw);
  accelerator.backward(model(x).sum());
  optimizer.step();
  const accelerate::Ema ema(model);
  net->forward_fails = true;
  const auto call = [&, &call_model = model] { call_model(x); };
  const std::string text = text_of(call);
  EXPECT_THAT(text,
              StartsWith("[forward] The memory of cpu is used up: got 2.50 GiB asked for, 1.50 GiB free of 79.11 GiB"));
  EXPECT_THAT(text, HasSubstr("parameters and buffers " + bytes(1)));
  EXPECT_THAT(text, HasSubstr("gradients " + bytes(1)));
  EXPECT_THAT(text, HasSubstr("optimizer state " + bytes(2)));
  EXPECT_THAT(text, HasSubstr("averages of the weights " + bytes(1)));
  EXPECT_THAT(text, HasSubstr("activations and others 67.25 GiB, outside LibTorch 6.86 GiB, CUDA graphs 3.00 GiB"));
  EXPECT_THAT(text, HasSubstr("\nCUDA out of memory. Tried to allocate 2.50 GiB")) << "and what LibTorch said";
}

TEST_F(Owners, AreCountedWhenABackwardFails) {
  auto [model, optimizer] = accelerator.prepare(net, adamw);
  net->backward_fails = true;
  const at::Tensor loss = model(x).sum();
  EXPECT_THAT(text_of([&] { accelerator.backward(loss); }),
              AllOf(StartsWith("[backward] "), HasSubstr("parameters and buffers " + bytes(1)),
                    Not(HasSubstr("gradients ")), Not(HasSubstr("optimizer state"))));
}

TEST_F(Owners, AreCountedWhenAStepFails) {
  GreedySgd sgd(net->parameters(), torch::optim::SGDOptions(0.1).momentum(0.9));
  auto prepared = accelerator.prepare(net, sgd);
  const auto& model = std::get<0>(prepared);
  const auto& optimizer = std::get<1>(prepared);
  accelerator.backward(model(x).sum());
  optimizer.step();
  accelerator.backward(model(x).sum());
  sgd.fails = true;
  EXPECT_THAT(text_of([&] { optimizer.step(); }),
              AllOf(StartsWith("[optimizer.step] "), HasSubstr("optimizer state " + bytes(1))));
}

TEST_F(Owners, TheInnermostPhaseExplainsAClosure) {
  auto prepared = accelerator.prepare(net, adamw);
  const auto& model = std::get<0>(prepared);
  const auto& optimizer = std::get<1>(prepared);
  net->forward_fails = true;
  const std::string text = text_of([&] {
    optimizer.step([&] {
      const at::Tensor loss = model(x).sum();
      accelerator.backward(loss);
      return loss;
    });
  });
  EXPECT_THAT(text, AllOf(StartsWith("[forward] "), Not(HasSubstr("[optimizer.step]"))));
}

/// Cannot be moved: its tensors ask for more memory than there is.
struct UnmovableImpl : torch::nn::Module {
  UnmovableImpl() : inner(register_module("inner", torch::nn::Linear(torch::nn::LinearOptions(8, 4)))) {}
  void to(torch::Device, bool) override { run_out(); }
  torch::nn::Linear inner;
};
TORCH_MODULE(Unmovable);

TEST_F(Owners, OfWhatIsBeingPreparedAreCounted) {
  accelerator.prepare(net);
  Unmovable large;
  EXPECT_THAT(text_of([&] { accelerator.prepare(large); }),
              AllOf(StartsWith("[prepare] "), HasSubstr("parameters and buffers " + bytes(2))));
  net->forward_fails = true;
  auto model = accelerator.prepare(net);
  EXPECT_THAT(text_of([&] { model(x); }), HasSubstr("parameters and buffers " + bytes(1))) << "not any more";
}

TEST_F(Owners, AreNobodyAfterTheAccelerator) {
  std::optional<Accelerator> own(std::in_place, accelerate::AcceleratorOptions{.cpu = true});
  auto model = own->prepare(net);
  own.reset();
  net->forward_fails = true;
  EXPECT_THAT(text_of([&] { model(x); }), StartsWith("CUDA out of memory."));
}

TEST_F(Owners, OtherErrorsPassAsTheyAre) {
  auto model = accelerator.prepare(net);
  EXPECT_THROW(model.call([](GreedyImpl&) -> at::Tensor { throw std::out_of_range("other"); }), std::out_of_range);
  try {
    model.call([](GreedyImpl&) -> at::Tensor { TORCH_CHECK(false, "out of memory. of another type"); });
  } catch (const c10::Error& error) {
    EXPECT_STREQ(error.what_without_backtrace(), "out of memory. of another type");
  }
}

TEST_F(Owners, TrainingGoesOnWithASmallerBatchAsIfNothingHadBeen) {
  const auto train = [](GreedyImpl& failing, const std::vector<int64_t>& failures) {
    Accelerator own({.gradient_accumulation_steps = 2, .cpu = true});
    const auto holder = std::shared_ptr<GreedyImpl>(std::shared_ptr<void>(), &failing);
    torch::optim::AdamW adamw(failing.parameters(), 1e-2);
    auto prepared = own.prepare(holder, adamw);
    const auto& model = std::get<0>(prepared);
    const auto& optimizer = std::get<1>(prepared);
    auto run = accelerate::find_executable_batch_size(
        [&](int64_t batch_size) {
          torch::manual_seed(4);
          for (int64_t step = 0; step < 6; ++step) {
            const auto window = own.accumulate(model);
            failing.forward_fails = batch_size == 4 && std::ranges::count(failures, step) > 0;
            failing.backward_fails = batch_size == 3 && std::ranges::count(failures, step) > 0;
            own.backward(model(torch::randn({2, 8})).square().mean());
            optimizer.step();
            optimizer.zero_grad();
          }
        },
        {.starting_batch_size = 4, .reduce_batch_size = [](int64_t size) { return size - 1; }});
    run();
    return run.batch_size();
  };
  torch::manual_seed(1);
  Greedy failing;
  torch::manual_seed(1);
  Greedy never;
  EXPECT_EQ(train(*failing, {0}), 2) << "a forward and a backward failed";
  EXPECT_EQ(train(*never, {}), 4);
  EXPECT_TRUE(torch::equal(failing->inner->weight, never->inner->weight));
}

}  // namespace
