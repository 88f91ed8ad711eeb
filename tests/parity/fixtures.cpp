#include "tests/parity/fixtures.h"

#include <algorithm>
#include <fstream>
#include <map>
#include <stdexcept>

namespace parity {

std::filesystem::path fixture_path(const std::string& name) {
  return std::filesystem::path(ACCELERATE_SOURCE_DIR) / "tests" / "parity" / "fixtures" / name;
}

Json read_fixture(const std::string& name) {
  std::ifstream file(fixture_path(name));
  if (!file) throw std::runtime_error("cannot open the fixture " + fixture_path(name).string());
  try {
    return Json::parse(file);
  } catch (const Json::parse_error& error) {
    throw std::runtime_error("the fixture " + fixture_path(name).string() + " is not JSON: " + error.what());
  }
}

std::vector<std::string> all_traces(const std::string& folder) {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(fixture_path(folder))) {
    if (entry.path().extension() == ".json") names.push_back(entry.path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

at::Tensor array(const Json& description, at::ScalarType dtype) {
  const auto numerators = description.at("numerators").get<std::vector<double>>();
  const auto shape = description.at("shape").get<std::vector<int64_t>>();
  const at::Tensor values = torch::tensor(numerators, torch::kFloat64) / description.at("denominator").get<double>();
  return values.reshape(shape).to(dtype);
}

at::ScalarType dtype_named(const std::string& name) {
  static const std::map<std::string, at::ScalarType> dtypes = {
      {"float64", at::kDouble}, {"float32", at::kFloat}, {"float16", at::kHalf}, {"bfloat16", at::kBFloat16},
      {"int64", at::kLong},     {"int32", at::kInt},     {"int16", at::kShort},  {"int8", at::kChar},
      {"uint8", at::kByte},     {"bool", at::kBool},
  };
  const auto found = dtypes.find(name);
  if (found == dtypes.end())
    throw std::runtime_error("a fixture names the dtype '" + name + "', which is not known here");
  return found->second;
}

}  // namespace parity
