#pragma once

#include <torch/torch.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace parity {

using Json = nlohmann::json;

/// Where a committed fixture lies; `name` is relative to tests/parity/fixtures.
std::filesystem::path fixture_path(const std::string& name);

/// Throws std::runtime_error, naming the file, when it cannot be read or is not JSON.
Json read_fixture(const std::string& name);

/// File names of all traces in a folder of the fixtures, sorted, without it.
std::vector<std::string> all_traces(const std::string& folder = "traces");

/// {"shape", "denominator", "numerators"} as a tensor: numerators over denominator, exact in every dtype.
at::Tensor array(const Json& description, at::ScalarType dtype);

at::ScalarType dtype_named(const std::string& name);

}  // namespace parity
