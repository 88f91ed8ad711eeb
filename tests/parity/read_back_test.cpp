#include <gtest/gtest.h>
#include <torch/torch.h>

#include <array>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "accelerate/accelerate.h"
#include "tests/parity/fixtures.h"
#include "tests/parity/holding.h"

namespace parity {
namespace {

struct Outcome {
  int status;
  std::string output;  ///< both streams
};

Outcome shell(const std::string& command) {
  FILE* pipe = popen((command + " 2>&1").c_str(), "r");
  if (pipe == nullptr) throw std::runtime_error("cannot start a shell for: " + command);
  std::string output;
  std::array<char, 512> buffer;
  while (std::fgets(buffer.data(), buffer.size(), pipe) != nullptr) output += buffer.data();
  return {pclose(pipe), output};
}

/// The shell's words for the interpreter: that of PARITY_PYTHON, else the one on the path.
const std::string kPython = "\"${PARITY_PYTHON:-python3}\"";

class ReadBack : public testing::Test {
 protected:
  void SetUp() override {
    const Outcome probe = shell(kPython + " -c 'import safetensors'");
    if (probe.status != 0) {
      GTEST_SKIP() << "no Python with safetensors (name one in PARITY_PYTHON): " << probe.output;
    }
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  Outcome read_back(const Json& expected) const {
    std::ofstream(folder_ / "expected.json") << expected;
    const auto quoted = [](const std::filesystem::path& path) { return " '" + path.string() + "'"; };
    return shell(kPython + quoted(std::filesystem::path(ACCELERATE_SOURCE_DIR) / "tests/parity/read_back.py") +
                 quoted(folder_ / "model.safetensors") + quoted(folder_ / "expected.json"));
  }

  const std::filesystem::path folder_ =
      std::filesystem::path(testing::TempDir()) /
      (std::string("parity_read_back_") + testing::UnitTest::GetInstance()->current_test_info()->name());
};

// What this library writes, Python's own safetensors reads: every dtype, shape and value, and nothing else.
TEST_F(ReadBack, PythonReadsEveryDtype) {
  const Json expected = read_fixture("every_dtype.json");
  std::vector<std::pair<std::string, at::Tensor>> tensors;
  for (const auto& [name, description] : expected.at("tensors").items()) {
    const at::ScalarType dtype = dtype_named(description.at("dtype"));
    const auto shape = description.at("shape").get<std::vector<int64_t>>();
    const Json& values = description.at("values");
    at::Tensor tensor = at::isFloatingType(dtype) ? torch::tensor(values.get<std::vector<double>>(), torch::kFloat64)
                                                  : torch::empty({static_cast<int64_t>(values.size())}, torch::kInt64);
    if (!at::isFloatingType(dtype)) {
      for (size_t i = 0; i < values.size(); ++i) {
        tensor[static_cast<int64_t>(i)] =
            values[i].is_boolean() ? static_cast<int64_t>(values[i].get<bool>()) : values[i].get<int64_t>();
      }
    }
    tensors.emplace_back(name, tensor.reshape(shape).to(dtype));
  }
  accelerate::Accelerator accelerator;
  accelerator.save_model(accelerator.prepare(Holding(tensors)), folder_.string());
  const Outcome outcome = read_back(expected);
  EXPECT_EQ(outcome.status, 0) << outcome.output;

  Json wrong = expected;
  wrong["tensors"]["bfloat16"]["values"][3] = 0.25;
  EXPECT_NE(read_back(wrong).status, 0) << "a wrong value was not noticed";
}

// Tensors that are views with gaps or another order are written as their elements.
TEST_F(ReadBack, PythonReadsTensorsThatAreNotContiguous) {
  const at::Tensor whole = torch::arange(12, torch::kFloat32).reshape({3, 4});
  accelerate::Accelerator accelerator;
  accelerator.save_model(accelerator.prepare(Holding(std::vector<std::pair<std::string, at::Tensor>>{
                             {"transposed", whole.t()}, {"column", whole.slice(1, 1, 4, 2)}})),
                         folder_.string());
  const Outcome outcome = read_back(
      {{"metadata", {{"format", "pt"}}},
       {"tensors",
        {{"transposed", {{"shape", {4, 3}}, {"dtype", "float32"}, {"values", elements(whole.t().contiguous())}}},
         {"column", {{"shape", {3, 2}}, {"dtype", "float32"}, {"values", elements(whole.slice(1, 1, 4, 2))}}}}}});
  EXPECT_EQ(outcome.status, 0) << outcome.output;
}

}  // namespace
}  // namespace parity
