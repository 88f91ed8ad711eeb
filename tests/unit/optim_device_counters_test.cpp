// Steps whose rates and counts are on the device: they are left out by the device alone, are the same call every time,
// and leave in the stock optimizer what its own steps would have left.
#include <ATen/record_function.h>
#include <rapidcheck/gtest.h>

#include <set>

#include "tests/unit/optim_twin.h"

namespace {

using accelerate::internal::Counters;
using accelerate::internal::Verdict;
using torch::optim::Adam;
using torch::optim::AdamOptions;
using torch::optim::AdamW;
using torch::optim::AdamWOptions;
using torch::optim::SGD;
using torch::optim::SGDOptions;
using training::copy_of;
using training::MakeOptimizer;
using training::Side;
using training::Twin;

template <class Optimizer, class Options>
MakeOptimizer two_groups(Options first, Options second) {
  return [=](const std::vector<at::Tensor>& p) {
    std::vector<torch::optim::OptimizerParamGroup> groups;
    groups.emplace_back(std::vector<at::Tensor>(p.begin(), p.begin() + 2), std::make_unique<Options>(first));
    groups.emplace_back(std::vector<at::Tensor>(p.begin() + 2, p.end()), std::make_unique<Options>(second));
    return std::make_unique<Optimizer>(groups, first);
  };
}

std::vector<MakeOptimizer> kinds() {
  return {
      two_groups<AdamW>(AdamWOptions(1e-2).weight_decay(0.1), AdamWOptions(3e-3).amsgrad(true)),
      two_groups<Adam>(AdamOptions(1e-2).weight_decay(0.1), AdamOptions(3e-3).betas({0.5, 0.9})),
      two_groups<SGD>(SGDOptions(1e-2), SGDOptions(3e-3).momentum(0.9).nesterov(true)),
      two_groups<SGD>(SGDOptions(1e-2).momentum(0.9).dampening(0.4), SGDOptions(3e-3).momentum(0.9).weight_decay(0.1)),
  };
}

int64_t count_of(torch::optim::Optimizer& optimizer, const at::Tensor& parameter) {
  const auto found = optimizer.state().find(parameter.unsafeGetTensorImpl());
  if (found == optimizer.state().end()) return -1;
  if (auto* adamw = dynamic_cast<torch::optim::AdamWParamState*>(found->second.get())) return adamw->step();
  if (auto* adam = dynamic_cast<torch::optim::AdamParamState*>(found->second.get())) return adam->step();
  return -2;
}

/// What happens to an optimizer, drawn anew every time; the stock one leaves out what the device is told to leave out.
RC_GTEST_PROP(DeviceCounters, LeaveWhatTheStockStepsLeave, ()) {
  const size_t kind = *rc::gen::inRange<size_t>(0, kinds().size());
  const auto events = *rc::gen::container<std::vector<int>>(*rc::gen::inRange<size_t>(1, 25), rc::gen::inRange(0, 12));
  Twin twin(kinds()[kind], torch::kDouble, Counters::kOnDevice);
  int step = 0;
  for (const int event : events) {
    if (event == 0) {
      const double rate = 1e-2 / ++step;
      twin.both([&](Side& side) { side.optimizer().param_groups()[1].options().set_lr(rate); });
    } else if (event == 1) {
      // Between two steps: what was saved goes on.
      std::stringstream stream;
      torch::save(twin.ours.optimizer(), stream);
      torch::load(twin.ours.optimizer(), stream);
    } else if (event == 2) {
      twin.both([&](Side& side) {
        side.set_gradients(step);
        side.optimizer().step();
      });
    } else {
      twin.both([&](Side& side) { side.set_gradients(event * 7 + step); });
      const bool skips = event < 6;
      RC_ASSERT(twin.update->takes_verdict(at::kCPU));
      twin.update->step_if({.skip = torch::full({1}, skips ? 1.0F : 0.0F)});
      if (skips) {
        twin.update->take_back();
      } else {
        twin.stock.optimizer().step();
      }
      ++step;
    }
  }
  RC_ASSERT(twin.distance() < 1e-12);
  for (size_t i = 0; i < twin.ours.parameters().size(); ++i) {
    const int64_t ours = count_of(twin.ours.optimizer(), twin.ours.parameters()[i]);
    const int64_t theirs = count_of(twin.stock.optimizer(), twin.stock.parameters()[i]);
    // A first update that was skipped leaves moments of 0 that Adam begins with anyway.
    RC_ASSERT(ours == theirs || (ours == 0 && theirs == -1));
  }
}

TEST(DeviceCounters, BringRatesToTheDeviceWhenTheyHaveChanged) {
  for (const MakeOptimizer& make : kinds()) {
    Twin twin(make, torch::kFloat, Counters::kOnDevice);
    EXPECT_FALSE(twin.update->rates_are_uploaded()) << "there are none yet";
    twin.step(60);
    EXPECT_TRUE(twin.update->rates_are_uploaded());
    twin.both([](Side& side) { side.optimizer().param_groups()[1].options().set_lr(0.5); });
    EXPECT_FALSE(twin.update->rates_are_uploaded());
    twin.update->upload_rates();
    EXPECT_TRUE(twin.update->rates_are_uploaded());
    twin.step(61);
    EXPECT_LT(twin.distance(), 1e-6);
  }
  Twin host(kinds()[0]);
  host.step(60);
  EXPECT_FALSE(host.update->rates_are_uploaded()) << "they go with every step";
}

/// The arguments of our operators on this thread while this lives: scalars as text, tensors as where they are.
class Calls {
 public:
  Calls() {
    all().clear();
    handle_ = at::addThreadLocalCallback(
        at::RecordFunctionCallback([](const at::RecordFunction& function) -> std::unique_ptr<at::ObserverContext> {
          if (std::string(function.name()).rfind("accelerate::", 0) != 0) return nullptr;
          std::ostringstream call;
          call << function.name();
          for (const c10::IValue& input : function.inputs()) {
            if (input.isTensor()) {
              call << ' ' << input.toTensor().unsafeGetTensorImpl();
            } else if (input.isTensorList()) {
              for (const at::Tensor& tensor : input.toTensorVector()) call << ' ' << tensor.unsafeGetTensorImpl();
            } else {
              call << ' ' << input;
            }
          }
          all().push_back(call.str());
          return nullptr;
        })
            .scopes({at::RecordScope::FUNCTION})
            .needsInputs(true));
  }
  ~Calls() { at::removeCallback(handle_); }
  static std::vector<std::string>& all() {
    thread_local std::vector<std::string> calls;
    return calls;
  }

 private:
  at::CallbackHandle handle_;
};

TEST(DeviceCounters, AStepIsTheSameCallsEveryTime) {
  for (const MakeOptimizer& make : kinds()) {
    Twin twin(make, torch::kFloat, Counters::kOnDevice);
    for (int step = 55; step < 60; ++step) twin.step(step);  // the counts part: gradients are missing now and then
    std::vector<at::Tensor> gradients;
    for (const at::Tensor& parameter : twin.ours.parameters()) gradients.push_back(torch::randn_like(parameter));
    gradients[3].reset();
    const at::Tensor skip = torch::zeros({1});
    std::vector<std::string> before;
    for (int step = 0; step < 6; ++step) {
      for (size_t i = 0; i < gradients.size(); ++i) twin.ours.parameters()[i].mutable_grad() = gradients[i];
      skip.fill_(step == 3 ? 1 : 0);
      const Calls watch;
      twin.update->step_if({.skip = skip});
      const std::vector<std::string> now = Calls::all();
      if (step == 3) twin.update->take_back();
      EXPECT_FALSE(now.empty());
      EXPECT_LE(now.size(), 4U);
      if (step > 0) {
        EXPECT_EQ(now, before) << step;
      }
      before = now;
    }
  }
}

TEST(DeviceCounters, OfManyPartingsArePutAside) {
  // Each step another parameter has no gradient: every count is needed again, and none is wrong.
  torch::manual_seed(1);
  std::vector<at::Tensor> ours, theirs;
  for (int i = 0; i < 100; ++i) ours.push_back(torch::randn({3}, torch::kDouble).requires_grad_());
  for (const at::Tensor& parameter : ours) theirs.push_back(parameter.detach().clone().requires_grad_());
  AdamW stepped(ours, AdamWOptions(1e-2)), stock(theirs, AdamWOptions(1e-2));
  const auto update = accelerate::internal::make_update(stepped, {.counters = Counters::kOnDevice});
  for (int step = 0; step < 100; ++step) {
    for (int i = 0; i < 100; ++i) {
      const at::Tensor gradient = i < step ? torch::randn({3}, torch::kDouble) : at::Tensor();
      ours[static_cast<size_t>(i)].mutable_grad() = theirs[static_cast<size_t>(i)].mutable_grad() = gradient;
    }
    update->step();
    stock.step();
  }
  EXPECT_LT(training::distance(copy_of(ours), copy_of(theirs)), 1e-12);
}

TEST(DeviceCounters, AParameterListedTwiceIsTheStockOptimizersOwn) {
  at::Tensor ours = torch::ones({4}).requires_grad_(), theirs = torch::ones({4}).requires_grad_();
  AdamW stepped({ours, ours}, AdamWOptions(0.1)), stock({theirs, theirs}, AdamWOptions(0.1));
  const auto update = accelerate::internal::make_update(stepped, {.counters = Counters::kOnDevice});
  ours.mutable_grad() = theirs.mutable_grad() = torch::ones({4});
  EXPECT_FALSE(update->takes_verdict(at::kCPU));
  update->step();
  stock.step();
  EXPECT_TRUE(torch::equal(ours, theirs));
}

TEST(DeviceCounters, AVerdictThatNobodyTakesIsRefused) {
  at::Tensor parameter = torch::ones({4}).requires_grad_();
  parameter.mutable_grad() = torch::ones({8}).slice(0, 0, 8, 2);
  SGD sgd({parameter}, SGDOptions(0.1));
  for (const auto counters : {Counters::kWithParameters, Counters::kOnDevice}) {
    const auto update = accelerate::internal::make_update(sgd, {.counters = counters});
    EXPECT_FALSE(update->takes_verdict(at::kCPU));
    training::expect_error<accelerate::UsageError>(
        [&] { update->step_if({.skip = torch::ones({1})}); },
        {"optimizer.step", "a verdict for the update `fused sgd`", "an update that takes one", "takes_verdict"});
  }
  EXPECT_TRUE(torch::equal(parameter, torch::ones({4})));
}

TEST(DeviceCounters, GradientsThatComeLastAreUpdatedLastAndTheSame) {
  for (const MakeOptimizer& make : kinds()) {
    Side at_once(make, torch::kDouble), in_turn(make, torch::kDouble);
    const auto last = [&](const at::Tensor& parameter) {
      return parameter.is_same(in_turn.parameters()[0]) || parameter.is_same(in_turn.parameters()[4]);
    };
    const auto update = accelerate::internal::make_update(at_once.optimizer(), {.counters = Counters::kOnDevice});
    const auto parted =
        accelerate::internal::make_update(in_turn.optimizer(), {.counters = Counters::kOnDevice, .comes_last = last});
    for (int step = 55; step < 60; ++step) {
      at_once.set_gradients(step);
      in_turn.set_gradients(step);
      update->step();
      const Calls watch;
      parted->step();
      const std::vector<std::string> calls = Calls::all();
      const auto call_with = [&](size_t i) {
        std::ostringstream place;
        place << ' ' << in_turn.parameters()[i].grad().unsafeGetTensorImpl() << ' ';
        const auto found =
            std::ranges::find_if(calls, [&](const std::string& c) { return c.find(place.str()) != c.npos; });
        return found - calls.begin();
      };
      for (const size_t i : {0, 2, 4, 5}) EXPECT_LT(call_with(i), static_cast<int64_t>(calls.size()));
      if (in_turn.parameters()[1].grad().defined()) {
        EXPECT_LT(call_with(1), call_with(0));
      }
      EXPECT_LT(call_with(2), call_with(4));
      EXPECT_LT(call_with(5), call_with(4));
    }
    for (size_t i = 0; i < at_once.parameters().size(); ++i) {
      EXPECT_TRUE(torch::equal(at_once.parameters()[i], in_turn.parameters()[i])) << i;
      EXPECT_EQ(count_of(at_once.optimizer(), at_once.parameters()[i]),
                count_of(in_turn.optimizer(), in_turn.parameters()[i]));
    }
  }
}

}  // namespace
