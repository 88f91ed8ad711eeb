// When prepared schedulers move and how far: processes x accumulation x split_batches x step_scheduler_with_optimizer.
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <stdexcept>
#include <string>
#include <vector>

#include "accelerate/accelerate.h"
#include "accelerate/testing/ranks.h"
#include "tests/parity/fixtures.h"
#include "tests/parity/schedule_of.h"

namespace parity {
namespace {

using accelerate::testing::Rank;

accelerate::AcceleratorOptions options_of(const Json& entry, accelerate::AcceleratorOptions options) {
  options.gradient_accumulation_steps = entry.at("accumulation").get<int64_t>();
  options.step_scheduler_with_optimizer = entry.at("tied").get<bool>();
  options.dataloader_config = accelerate::DataLoaderConfiguration{.split_batches = entry.at("split_batches")};
  return options;
}

struct Recording {
  std::vector<std::vector<double>> rates = {};
  std::vector<int64_t> last_epoch = {};
  std::vector<double> momentum = {};
};

/// The loop of the generator. LibTorch's StepLR is stepped where `libtorch` asks for it.
Recording record(const Json& fixture, const Json& entry, accelerate::AcceleratorOptions options) {
  accelerate::Accelerator accelerator(options_of(entry, std::move(options)));
  torch::nn::Linear net(1, 1);
  std::vector<torch::optim::OptimizerParamGroup> groups;
  const std::vector<at::Tensor> parameters = net->parameters();
  for (size_t i = 0; i < parameters.size(); ++i) {
    auto own = std::make_unique<torch::optim::SGDOptions>(fixture.at("group_rates").at(i).get<double>());
    own->momentum(0.9);
    groups.emplace_back(std::vector<at::Tensor>{parameters[i]}, std::move(own));
  }
  torch::optim::SGD sgd(std::move(groups), torch::optim::SGDOptions(0.5));
  const Json& description = fixture.at("descriptions").at(entry.at("name").get<std::string>());
  const bool plateau = description.at("kind") == "plateau";
  const accelerate::Scheduler own = plateau ? accelerate::Scheduler(sgd, plateau_of(description))
                                            : accelerate::Scheduler(sgd, schedule_of(description));
  accelerate::DataLoader data(accelerate::TensorDataset(torch::zeros({fixture.at("samples"), 1})),
                              {.batch_size = fixture.at("batch_size")});
  auto [model, optimizer, loader, scheduler] = accelerator.prepare(net, sgd, data, own);
  Recording recorded;
  for (int64_t epoch = 0; epoch < fixture.at("epochs"); ++epoch) {
    for (auto& [x] : loader) {
      auto window = accelerator.accumulate(model);
      accelerator.backward(model(x).sum() * 0);
      optimizer.step();
      if (plateau) {
        scheduler.step(1.0);
      } else {
        scheduler.step();
      }
      optimizer.zero_grad();
      recorded.rates.push_back(scheduler.get_last_lr());
      recorded.last_epoch.push_back(scheduler.last_epoch());
      recorded.momentum.push_back(
          static_cast<const torch::optim::SGDOptions&>(sgd.param_groups()[0].options()).momentum());
    }
  }
  return recorded;
}

/// Rates to the last bit but for `step`, where torch multiplies again and again; here the factors are powers of 2.
void expect_equal(const Recording& recorded, const Json& entry, const Json& description) {
  const std::string which = entry.at("name").get<std::string>() + " accumulation " + entry.at("accumulation").dump() +
                            " split " + entry.at("split_batches").dump() + " tied " + entry.at("tied").dump();
  EXPECT_EQ(recorded.last_epoch, entry.at("last_epoch").get<std::vector<int64_t>>()) << which;
  ASSERT_EQ(recorded.rates.size(), entry.at("rates").size()) << which;
  for (size_t i = 0; i < recorded.rates.size(); ++i) {
    // At its end the original's one-cycle has begun to rise again; here it keeps the last rate.
    const bool ended = description.contains("max_lr") && recorded.last_epoch[i] == description.value("total_steps", -1);
    const auto expected = entry.at("rates").at(i).get<std::vector<double>>();
    for (size_t group = 0; group < expected.size(); ++group) {
      if (ended) {
        EXPECT_LT(recorded.rates[i][group], expected[group]) << which << " at " << i;
      } else {
        EXPECT_EQ(recorded.rates[i][group], expected[group]) << which << " at " << i;
      }
    }
  }
  if (entry.contains("momentum")) {
    EXPECT_EQ(recorded.momentum, entry.at("momentum").get<std::vector<double>>()) << which;
  }
}

TEST(LearningRates, OfOneProcessAreTheOriginals) {
  const Json fixture = read_fixture("learning_rates.json");
  int64_t replayed = 0;
  for (const Json& entry : fixture.at("cases")) {
    const Json& description = fixture.at("descriptions").at(entry.at("name").get<std::string>());
    expect_equal(record(fixture, entry, {}), entry, description);
    ++replayed;
  }
  EXPECT_EQ(replayed, 63);
}

TEST(LearningRates, OfTwoProcessesAreTheOriginals) {
  const Json fixture = read_fixture("learning_rates-2.json");
  int64_t replayed = 0;
  for (const Json& entry : fixture.at("cases")) {
    const Json& description = fixture.at("descriptions").at(entry.at("name").get<std::string>());
    std::vector<Recording> recorded(2);
    accelerate::testing::run_ranks(2, [&](const Rank& rank) {
      recorded[static_cast<size_t>(rank.rank())] = record(fixture, entry, rank.options());
    });
    for (const Recording& one : recorded) expect_equal(one, entry, description);
    ++replayed;
  }
  EXPECT_EQ(replayed, 63);
}

}  // namespace
}  // namespace parity
