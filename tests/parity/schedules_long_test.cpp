// Schedules of transformers and torch over 1,000 steps.
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cinttypes>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "accelerate/accelerate.h"
#include "tests/parity/fixtures.h"
#include "tests/parity/schedule_of.h"

namespace parity {
namespace {

/// Relative to the largest value of a column, for schedules where torch multiplies its last rate a thousand times: each
/// product is off by at most half of 2^-52, so 1,000 of them by 1.2e-13; cosine annealing divides by what is left of
/// the wave, which at its foot has lost some digits. Of 1e-11, a single wrong step would be found if it were off by
/// more.
constexpr double kTolerance = 1e-11;

std::string fnv1a(const std::vector<double>& column) {
  uint64_t value = 0xCBF29CE484222325U;
  for (const double number : column) {
    unsigned char bytes[sizeof(double)];
    std::memcpy(bytes, &number, sizeof(double));
    for (const unsigned char byte : bytes) value = (value ^ byte) * 0x100000001B3U;
  }
  char text[17];
  std::snprintf(text, sizeof(text), "%016" PRIx64, value);
  return text;
}

/// Empty if the column is the one of the fixture.
std::string difference(const std::vector<double>& column, const Json& expected, size_t block) {
  double largest = 0;
  for (const double value : column) largest = std::max(largest, value);
  for (size_t begin = 0; begin < column.size(); begin += block) {
    double sum = 0, weighted = 0;
    for (size_t i = begin; i < std::min(begin + block, column.size()); ++i) {
      sum += column[i];
      weighted += static_cast<double>(i - begin + 1) * column[i];
    }
    const Json& sums = expected.at("blocks").at(begin / block);
    const double far = std::max(std::abs(sum - sums.at(0).get<double>()),
                                std::abs(weighted - sums.at(1).get<double>()) / static_cast<double>(block));
    if (!(far <= kTolerance * largest)) {
      return "steps from " + std::to_string(begin) + ": a sum is off by " + std::to_string(far);
    }
  }
  if (expected.contains("hash") && expected.at("hash") != fnv1a(column)) return "not equal to the last bit";
  return "";
}

std::vector<torch::optim::OptimizerParamGroup> groups_of(const Json& rates) {
  std::vector<torch::optim::OptimizerParamGroup> groups;
  for (const Json& rate : rates) {
    groups.emplace_back(std::vector<at::Tensor>{torch::zeros(1).set_requires_grad(true)},
                        std::make_unique<torch::optim::SGDOptions>(rate.get<double>()));
  }
  return groups;
}

const torch::optim::SGDOptions& options_of(torch::optim::Optimizer& optimizer, size_t group) {
  return static_cast<const torch::optim::SGDOptions&>(optimizer.param_groups().at(group).options());
}

TEST(LongSchedules, HaveTheOriginalsRatesAndMomentumOver1000Steps) {
  const Json fixture = read_fixture("schedules_long.json");
  const int64_t steps = fixture.at("steps");
  const size_t block = fixture.at("block");
  int64_t columns = 0, to_the_bit = 0;
  for (const Json& entry : fixture.at("cases")) {
    torch::optim::SGD optimizer(groups_of(entry.at("base_rates")), torch::optim::SGDOptions(0.1));
    const accelerate::Scheduler scheduler(optimizer, schedule_of(entry.at("schedule")));
    const size_t groups = entry.at("base_rates").size();
    std::vector<std::vector<double>> rates(groups), momentum(groups);
    for (int64_t step = 0; step <= steps; ++step) {
      if (step > 0) scheduler.step();
      for (size_t group = 0; group < groups; ++group) {
        rates[group].push_back(options_of(optimizer, group).lr());
        momentum[group].push_back(options_of(optimizer, group).momentum());
      }
    }
    for (size_t group = 0; group < groups; ++group) {
      EXPECT_EQ(difference(rates[group], entry.at("lr").at(group), block), "")
          << entry.at("schedule") << " group " << group;
      ++columns;
      to_the_bit += entry.at("lr").at(group).contains("hash");
      const bool cycles = entry.at("schedule").value("cycle_momentum", true);
      if (!entry.contains("momentum") || !cycles) continue;
      EXPECT_EQ(difference(momentum[group], entry.at("momentum").at(group), block), "")
          << entry.at("schedule") << " momentum of group " << group;
    }
  }
  EXPECT_GE(columns, 60);
  EXPECT_GE(to_the_bit, 30);
}

// A comparison that never fails would prove nothing: one step of a thousand, changed by a little, is found.
TEST(LongSchedulesComparison, FindsOneChangedStep) {
  const Json fixture = read_fixture("schedules_long.json");
  for (const Json& entry : fixture.at("cases")) {
    if (entry.at("schedule").at("kind") != "exponential_lr") continue;
    std::vector<double> column;
    for (int64_t step = 0; step <= 1000; ++step) column.push_back(0.1 * std::pow(0.995, step));
    EXPECT_EQ(difference(column, entry.at("lr").at(0), 40), "");
    column[777] += 1e-10;
    EXPECT_NE(difference(column, entry.at("lr").at(0), 40), "");
    return;
  }
  FAIL() << "no exponential schedule in the fixture";
}

/// The metrics of the generator, from the same whole numbers.
std::vector<double> metrics(int64_t steps) {
  std::vector<double> values;
  int64_t state = 12345;
  for (int64_t step = 0; step < steps; ++step) {
    state = (1103515245 * state + 12345) % (int64_t{1} << 31);
    values.push_back(static_cast<double>(2000 - step + state / 65536 % 600) / 1024);
  }
  return values;
}

TEST(LongSchedules, APlateauLowersTheRatesAtTheOriginalsSteps) {
  const Json fixture = read_fixture("schedules_long.json");
  for (const Json& entry : fixture.at("plateaus")) {
    torch::optim::SGD optimizer(groups_of(fixture.at("group_rates")), torch::optim::SGDOptions(0.1));
    const accelerate::Scheduler scheduler(optimizer, plateau_of(entry.at("options")));
    Json changes = Json::array();
    std::vector<double> last = scheduler.get_last_lr();
    int64_t step = 0;
    for (const double metric : metrics(fixture.at("steps"))) {
      scheduler.step(metric);
      ++step;
      const std::vector<double> now = scheduler.get_last_lr();
      if (now != last) changes.push_back({step, now.at(0), now.at(1)});
      last = now;
    }
    EXPECT_FALSE(changes.empty());
    EXPECT_EQ(changes, entry.at("changes")) << entry.at("options");
  }
}

}  // namespace
}  // namespace parity
