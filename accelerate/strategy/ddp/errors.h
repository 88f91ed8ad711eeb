#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "accelerate/core/error.h"

namespace accelerate::internal {

/// `"a", "b" and 3 more`.
std::string listed(const std::vector<std::string>& names);

/// How a backward pass ended for one parameter on one rank.
enum ParameterEnd : uint8_t { kGotGradient = 0, kGotNone = 1, kThrew = 2 };

/// Nothing if every rank came to an end everywhere, else what to throw. `ends` is [ranks, parameters], row by row.
UsageError incomplete_backward(const std::string& model, const std::vector<std::string>& parameters,
                               const std::vector<std::vector<uint8_t>>& ends);

UsageError gradients_not_averaged(const std::string& model, const std::vector<std::string>& parameters);
UsageError gradients_left_local(const std::string& model, const std::vector<std::string>& parameters);
UsageError frozen_with_gradient(const std::string& model, const std::vector<std::string>& parameters);
UsageError frozen_while_joined(const std::string& model);
UsageError static_graph_not_recorded(const std::string& model);
UsageError unfrozen_too_late(const std::string& model, const std::vector<std::string>& parameters);

}  // namespace accelerate::internal
