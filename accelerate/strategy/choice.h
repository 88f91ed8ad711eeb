#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "accelerate/comm/world.h"

namespace accelerate {

class Strategy;

/// One way of spreading models: the plug-in folder `strategy/strategies`, and what `.extensions` hands in.
struct StrategyEntry {
  std::string name;
  /// Nothing when it can run in this world, else the reason why not.
  std::optional<std::string> (*refusal)(const World& world);
  std::unique_ptr<Strategy> (*make)();
};

namespace internal {
std::vector<StrategyEntry> builtin_strategies();
}  // namespace internal

}  // namespace accelerate
