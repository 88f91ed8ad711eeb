// Schedules as pure functions of the step.
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include "tests/unit/training.h"

namespace {

using accelerate::ConfigError;
using accelerate::Schedule;
using training::expect_error;

struct Shape {
  int64_t warmup = 0;
  int64_t total = 1;
};

Shape any_shape() {
  const int64_t warmup = *rc::gen::inRange<int64_t>(0, 50);
  return {warmup, *rc::gen::inRange<int64_t>(std::max<int64_t>(1, warmup), 200)};
}

std::vector<Schedule> all_of(const Shape& shape) {
  return {accelerate::constant({.warmup_steps = shape.warmup}),
          accelerate::linear({.warmup_steps = shape.warmup, .total_steps = shape.total}),
          accelerate::cosine({.warmup_steps = shape.warmup, .total_steps = shape.total}),
          accelerate::cosine({.warmup_steps = shape.warmup, .total_steps = shape.total, .num_cycles = 2.5})};
}

RC_GTEST_PROP(ScheduleProperty, FactorsLieBetweenZeroAndOne, ()) {
  const Shape shape = any_shape();
  for (const Schedule& schedule : all_of(shape)) {
    for (int64_t step = 0; step < 2 * shape.total + 10; ++step) {
      RC_ASSERT(schedule(step) >= 0.0);
      RC_ASSERT(schedule(step) <= 1.0);
    }
  }
}

RC_GTEST_PROP(ScheduleProperty, WarmUpRisesInEqualStepsFromZeroToOne, ()) {
  const Shape shape = any_shape();
  for (const Schedule& schedule : all_of(shape)) {
    for (int64_t step = 0; step < shape.warmup; ++step) {
      RC_ASSERT(schedule(step) == static_cast<double>(step) / static_cast<double>(shape.warmup));
    }
    RC_ASSERT(shape.total == shape.warmup || schedule(shape.warmup) == 1.0);
  }
}

RC_GTEST_PROP(ScheduleProperty, LinearAndCosineFallToZeroAtTheEnd, ()) {
  const Shape shape = any_shape();
  RC_PRE(shape.total > shape.warmup);
  const Schedule linear = accelerate::linear({.warmup_steps = shape.warmup, .total_steps = shape.total});
  const Schedule cosine = accelerate::cosine({.warmup_steps = shape.warmup, .total_steps = shape.total});
  for (int64_t step = shape.warmup; step < shape.total; ++step) {
    RC_ASSERT(linear(step + 1) < linear(step));
    RC_ASSERT(cosine(step + 1) < cosine(step));
  }
  RC_ASSERT(linear(shape.total) == 0.0);
  RC_ASSERT(cosine(shape.total) == 0.0);
  RC_ASSERT(linear(shape.total + 100) == 0.0);
}

RC_GTEST_PROP(ScheduleProperty, IsAFunctionOfTheStepAlone, ()) {
  const Shape shape = any_shape();
  const auto steps = *rc::gen::container<std::vector<int64_t>>(20, rc::gen::inRange<int64_t>(0, 400));
  const auto fresh = all_of(shape), used = all_of(shape);
  for (size_t i = 0; i < fresh.size(); ++i) {
    for (const int64_t step : steps) used[i](step);
    for (const int64_t step : steps) RC_ASSERT(used[i](step) == fresh[i](step));
  }
}

TEST(Schedule, ConstantStaysAtOne) {
  const Schedule schedule = accelerate::constant();
  for (const int64_t step : {0, 1, 1000000}) EXPECT_EQ(schedule(step), 1.0);
}

TEST(Schedule, LinearByHand) {
  const Schedule schedule = accelerate::linear({.warmup_steps = 2, .total_steps = 6});
  const std::vector<double> expected{0, 0.5, 1, 0.75, 0.5, 0.25, 0, 0};
  for (size_t step = 0; step < expected.size(); ++step) EXPECT_EQ(schedule(static_cast<int64_t>(step)), expected[step]);
}

TEST(Schedule, CosineByHand) {
  const Schedule half = accelerate::cosine({.total_steps = 4});
  EXPECT_EQ(half(0), 1.0);
  EXPECT_NEAR(half(1), 0.5 + std::sqrt(0.125), 1e-15);
  EXPECT_NEAR(half(2), 0.5, 1e-15);
  EXPECT_EQ(half(4), 0.0);
  const Schedule waves = accelerate::cosine({.total_steps = 4, .num_cycles = 1});
  EXPECT_NEAR(waves(2), 0.0, 1e-15);
  EXPECT_NEAR(waves(4), 1.0, 1e-15);
}

TEST(ScheduleOptions, ImpossibleOnesAreRefused) {
  expect_error<ConfigError>([] { accelerate::constant({.warmup_steps = -1}); },
                            {"constant", ".warmup_steps = -1", "0 or more", "no warm-up"});
  expect_error<ConfigError>([] { accelerate::linear({.warmup_steps = -3, .total_steps = 5}); },
                            {"linear", ".warmup_steps = -3", "0 or more", "no warm-up"});
  expect_error<ConfigError>([] { accelerate::linear({}); },
                            {"linear", ".total_steps = 0", "at least 1", "number of optimizer updates"});
  expect_error<ConfigError>(
      [] { accelerate::linear({.warmup_steps = 6, .total_steps = 5}); },
      {"linear", ".total_steps = 5 with .warmup_steps = 6", "at least the warm-up", ".total_steps"});
  expect_error<ConfigError>([] { accelerate::cosine({.total_steps = -1}); },
                            {"cosine", ".total_steps = -1", "at least 1", ".total_steps"});
  for (const double cycles : {0.0, -0.5, std::nan("")}) {
    expect_error<ConfigError>([&] { accelerate::cosine({.total_steps = 5, .num_cycles = cycles}); },
                              {"cosine", ".num_cycles = " + std::to_string(cycles), "more than 0", "one half wave"});
  }
}

}  // namespace
