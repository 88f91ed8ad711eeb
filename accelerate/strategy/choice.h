#pragma once

#include <any>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "accelerate/comm/world.h"

namespace accelerate {

class Strategy;

/// What a user chooses as `strategy`: a name, or a strategy's own options struct, which has a member
/// `static constexpr const char* kStrategy`. Unset: the preferred one of those that apply.
class StrategyChoice {
 public:
  StrategyChoice() = default;
  StrategyChoice(const char* name) : name_(name) {}             // NOLINT: `.strategy = "ddp"`
  StrategyChoice(std::string name) : name_(std::move(name)) {}  // NOLINT
  template <class Options>
  requires requires { Options::kStrategy; }
  StrategyChoice(Options options) : name_(Options::kStrategy), options_(std::move(options)) {}  // NOLINT: `= Ddp{}`
  const std::optional<std::string>& name() const { return name_; }
  /// Empty when only a name was given.
  const std::any& options() const { return options_; }

 private:
  std::optional<std::string> name_;
  std::any options_;
};

/// One way of spreading models: the plug-in folder `strategy/strategies`, and what `.extensions` hands in.
struct StrategyEntry {
  std::string name;
  /// Of those that apply the highest is used where the user has not chosen. Negative: only when chosen.
  int preference = 0;
  /// Nothing when it can run in this world, else the reason why not.
  std::function<std::optional<std::string>(const World& world)> refusal;
  /// `options` is empty or what the user gave. Throws ConfigError for options of another strategy or out of range.
  std::function<std::unique_ptr<Strategy>(const std::any& options)> make;
};

namespace internal {
std::vector<StrategyEntry> builtin_strategies();
}  // namespace internal

}  // namespace accelerate
