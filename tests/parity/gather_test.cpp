#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cstdint>
#include <map>
#include <string>
#include <tuple>
#include <vector>

#include "accelerate/accelerate.h"
#include "tests/parity/fixtures.h"

namespace parity {
namespace {

std::vector<int64_t> values(const at::Tensor& tensor) {
  const at::Tensor own = tensor.contiguous();
  return {own.data_ptr<int64_t>(), own.data_ptr<int64_t>() + own.numel()};
}

// In one process too, the last batch is cut to the samples that it really holds.
TEST(GatherForMetrics, KeepsWhatTheOriginalKeeps) {
  const Json fixture = read_fixture("gather_for_metrics.json");
  ASSERT_FALSE(fixture.at("cases").empty());
  for (const Json& entry : fixture.at("cases")) {
    SCOPED_TRACE(entry.at("samples").dump() + " samples in batches of " + entry.at("batch_size").dump());
    accelerate::Accelerator accelerator;
    const auto loader = accelerator.prepare(
        accelerate::DataLoader(accelerate::TensorDataset(torch::arange(entry["samples"].get<int64_t>())),
                               {.batch_size = entry["batch_size"], .drop_last = entry["drop_last"]}));
    size_t batch = 0;
    for (auto& [x] : loader) {
      ASSERT_LT(batch, entry.at("batches").size());
      const Json& expected = entry["batches"][batch];
      EXPECT_EQ(values(accelerator.gather_for_metrics(x)), expected.at("ids"));
      const auto nested = accelerator.gather_for_metrics(
          std::tuple(std::map<std::string, at::Tensor>{{"ids", x}}, std::tuple(x * 2, std::vector<at::Tensor>{x * 3})));
      EXPECT_EQ(values(std::get<0>(nested).at("ids")), expected.at("nested_ids"));
      EXPECT_EQ(values(std::get<0>(std::get<1>(nested))), expected.at("nested_doubled"));
      EXPECT_EQ(values(std::get<1>(std::get<1>(nested)).at(0)), expected.at("nested_tripled"));
      EXPECT_EQ(values(accelerator.gather_for_metrics(torch::arange(6))), expected.at("six_rows"));
      EXPECT_EQ(accelerator.gather_for_metrics(torch::tensor(2.5)).item<double>(), expected.at("scalar"));
      ++batch;
    }
    EXPECT_EQ(batch, entry.at("batches").size());
    EXPECT_EQ(values(accelerator.gather_for_metrics(torch::arange(6))), entry.at("six_rows_after_the_loop"));
  }
}

}  // namespace
}  // namespace parity
