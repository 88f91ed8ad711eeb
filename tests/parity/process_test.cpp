// Shares, printed states and warnings that the original gave.
#include <gtest/gtest.h>

#include <sstream>

#include "accelerate/accelerate.h"
#include "accelerate/comm/split.h"
#include "accelerate/core/kernel.h"
#include "tests/parity/fixtures.h"

namespace parity {
namespace {

void expect_shares(const Json& table, accelerate::SplitOptions options) {
  ASSERT_GT(table.size(), 90u);
  for (const auto& [key, parts] : table.items()) {
    std::istringstream words(key);
    std::string word;
    int64_t length = 0, ranks = 0;
    words >> word >> length >> word >> ranks;
    std::vector<int64_t> whole(static_cast<size_t>(length));
    std::iota(whole.begin(), whole.end(), 0);
    for (int64_t rank = 0; rank < ranks; ++rank) {
      const auto own = accelerate::internal::split(whole, {.rank = rank, .size = ranks}, options);
      EXPECT_EQ(Json(own), parts.at(static_cast<size_t>(rank))) << key << ", rank " << rank;
    }
  }
}

TEST(Process, GetsTheShareThatTheOriginalGives) {
  const Json fixture = read_fixture("process.json");
  expect_shares(fixture.at("shares"), {});
  expect_shares(fixture.at("padded"), {.apply_padding = true});
}

TEST(Process, PrintsItsStatesAsTheOriginalDoes) {
  const Json texts = read_fixture("process.json").at("texts");
  const accelerate::Accelerator accelerator({.gradient_accumulation_steps = 3});
  std::ostringstream state, gradient;
  state << accelerator.state();
  gradient << accelerator.gradient_state();
  EXPECT_EQ(state.str(), texts.at("one"));
  EXPECT_EQ(gradient.str(), texts.at("gradient"));
  const accelerate::AcceleratorState two{.world = {.rank = 1, .size = 2, .local_rank = 1, .local_size = 2},
                                         .distributed_type = accelerate::DistributedType::kMultiCpu,
                                         .backend = "gloo",
                                         .mixed_precision = "no"};
  EXPECT_EQ(two.text(), texts.at("two"));
}

TEST(Process, WarnsOfTheKernelsThatTheOriginalWarnsOf) {
  const Json kernels = read_fixture("process.json").at("kernels");
  ASSERT_GE(kernels.size(), 6u);
  for (const Json& kernel : kernels) {
    const auto warning = accelerate::kernel_warning({.system = kernel.at(0), .release = kernel.at(1)});
    EXPECT_EQ(warning ? Json(*warning) : Json(), kernel.at(2)) << kernel;
  }
}

TEST(Process, HasTheProjectFoldersOfTheOriginal) {
  const Json projects = read_fixture("process.json").at("projects");
  const auto row = [](accelerate::AcceleratorOptions options) {
    const accelerate::Accelerator accelerator(std::move(options));
    const auto json = [](const auto& value) { return value ? Json(*value) : Json(); };
    const auto& project = accelerator.project_configuration();
    return Json{json(project.project_dir), json(project.logging_dir), project.iteration, json(project.total_limit)};
  };
  using accelerate::ProjectConfiguration;
  EXPECT_EQ(row({}), projects.at("none"));
  EXPECT_EQ(row({.project_dir = "run"}), projects.at("directory"));
  EXPECT_EQ(row({.project_config = ProjectConfiguration{.project_dir = "run"}}), projects.at("directory"));
  EXPECT_EQ(
      row({.project_config =
               ProjectConfiguration{.project_dir = "run", .logging_dir = "logs", .total_limit = 2, .iteration = 4}}),
      projects.at("both"));
}

}  // namespace
}  // namespace parity
