#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cstdint>
#include <string>

#include "accelerate/accelerate.h"
#include "tests/parity/fixtures.h"
#include "tests/parity/setting.h"

namespace parity {
namespace {

/// The original lets a schedule end before its warm-up does, or before it begins; this library refuses it, because then
/// the rate falls from some value to zero at once.
bool refused(const Json& description) {
  if (!description.contains("total_steps")) return false;
  const int64_t total = description["total_steps"];
  return total < 1 || total < description.at("warmup_steps").get<int64_t>();
}

TEST(Schedules, HaveTheOriginalsFactorsToTheLastBit) {
  const Json fixture = read_fixture("schedules.json");
  ASSERT_FALSE(fixture.at("cases").empty());
  int64_t compared = 0;
  for (const Json& entry : fixture.at("cases")) {
    const Json& description = entry.at("schedule");
    if (refused(description)) continue;
    const accelerate::Schedule schedule = make_schedule(description);
    for (size_t step = 0; step < entry.at("factors").size(); ++step) {
      ASSERT_EQ(schedule(static_cast<int64_t>(step)), entry["factors"][step].get<double>())
          << description << " at step " << step;
      ++compared;
    }
  }
  EXPECT_GT(compared, 3000);
}

TEST(Schedules, SetTheOriginalsRatesToTheLastBit) {
  const Json fixture = read_fixture("schedules.json");
  const int64_t steps = fixture.at("steps");
  for (const Json& entry : fixture.at("cases")) {
    const Json& description = entry.at("schedule");
    if (refused(description)) continue;
    for (const auto& [base, rates] : entry.at("rates_every_ninth_step").items()) {
      torch::optim::SGD optimizer({torch::zeros(1).set_requires_grad(true)}, std::stod(base));
      const accelerate::Scheduler scheduler(optimizer, make_schedule(description));
      for (int64_t step = 0; step <= steps; ++step) {
        if (step > 0) scheduler.step();
        if (step % 9 != 0) continue;
        const double expected = rates.at(static_cast<size_t>(step / 9));
        ASSERT_EQ(scheduler.get_last_lr().at(0), expected) << description << " of " << base << " at step " << step;
        ASSERT_EQ(optimizer.param_groups()[0].options().get_lr(), expected);
      }
    }
  }
}

TEST(Schedules, ThatEndBeforeTheyCanDecayAreRefused) {
  const Json fixture = read_fixture("schedules.json");
  int64_t refusals = 0;
  for (const Json& entry : fixture.at("cases")) {
    const Json& description = entry.at("schedule");
    if (!refused(description)) continue;
    EXPECT_THROW(make_schedule(description), accelerate::ConfigError) << description;
    ++refusals;
  }
  EXPECT_EQ(refusals, 3);
}

}  // namespace
}  // namespace parity
