#include "accelerate/launch.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "accelerate/launch/config.h"
#include "accelerate/launch/forkable.h"
#include "accelerate/launch/forks.h"
#include "accelerate/launch/port.h"
#include "accelerate/launch/signals.h"

namespace accelerate::internal {
namespace {

void require(const char* place, const std::string& got, const std::string& expected, int64_t value, int64_t least,
             int64_t most) {
  if (value >= least && value <= most) return;
  throw ConfigError({.place = "launch",
                     .what = std::string("The number is out of range"),
                     .got = std::string(place) + " = " + got,
                     .expected = expected,
                     .remedy = std::string("Correct ") + place});
}

void check(const LaunchOptions& options) {
  if (!options.num_processes) {
    throw ConfigError({.place = "launch",
                       .what = "The number of processes is not given",
                       .got = "options without .num_processes",
                       .expected = "it",
                       .remedy = "Write launch(function, {.num_processes = 2})"});
  }
  constexpr int64_t kMost = 1'000'000;
  require(".num_processes", std::to_string(*options.num_processes), "1 or more", *options.num_processes, 1, kMost);
  require(".num_nodes", std::to_string(options.num_nodes), "1 or more", options.num_nodes, 1, kMost);
  require(".node_rank", std::to_string(options.node_rank), "0 to " + std::to_string(options.num_nodes - 1),
          options.node_rank, 0, options.num_nodes - 1);
  const auto timeout = options.timeout.value_or(std::chrono::milliseconds(1)).count();
  require(".timeout", std::to_string(timeout) + " ms", "1 ms or more", timeout, 1, INT64_MAX);
  const auto grace = options.grace_period.count();
  require(".grace_period", std::to_string(grace) + " ms", "0 ms or more", grace, 0, INT64_MAX);
  if (options.num_nodes > 1) {
    require(".use_port", std::to_string(options.use_port), "one that all nodes are given", options.use_port, 1, 65'535);
  }
}

/// Calls what accelerate-cpp calls too, and says its errors in the words of `launch`.
template <class F>
auto reworded(const char* remedy, F&& call) {
  try {
    return call();
  } catch (const ConfigError& error) {
    ErrorText text = error.text();
    text.place = "launch";
    text.remedy = remedy;
    throw ConfigError(std::move(text));
  }
}

launch::LaunchPlan plan_for(const LaunchOptions& options, const Environment& environment) {
  launch::LaunchOptions plan{.num_processes = *options.num_processes * options.num_nodes,
                             .main_process_port = options.use_port,
                             .mixed_precision = options.mixed_precision,
                             .cpu = options.cpu,
                             .program = {"function"}};
  if (options.num_nodes > 1) {
    plan.num_machines = options.num_nodes;
    plan.machine_rank = options.node_rank;
    plan.main_process_ip = options.master_addr;
  }
  return reworded("Start fewer, or set .cpu = true",
                  [&] { return launch::plan_launch(plan, environment, launch::Machine::look()); });
}

void run_in_place(const std::function<void()>& function, const LaunchOptions& options) {
  std::map<std::string, std::string> variables;
  if (options.mixed_precision) variables["ACCELERATE_MIXED_PRECISION"] = *options.mixed_precision;
  if (options.cpu) {
    variables["ACCELERATE_USE_CPU"] = "true";
    variables["ACCELERATE_TORCH_DEVICE"] = "cpu";  // one of this process's own would go before
  }
  const EnvironmentScope scope = patch_environment(variables);
  function();
}

std::string ending_of(const launch::Ending& ending) {
  if (ending.signal == 0) return "exit code " + std::to_string(ending.code);
  return launch::signal_name(ending.signal) + " (" + ::strsignal(ending.signal) + ")";
}

/// The one that others may have failed because of.
size_t first_failure(const launch::Forks::Result& result) {
  const auto own = std::ranges::find_if(result.order, [&](size_t index) {
    const launch::ForkOutcome& outcome = result.outcomes[index];
    return !outcome.of_others && !outcome.by_us;
  });
  return own == result.order.end() ? result.order.front() : *own;
}

[[noreturn]] void throw_timeout(const launch::Forks::Result& result, const launch::LaunchPlan& plan,
                                const LaunchOptions& options) {
  std::string late;
  int64_t first = -1;
  for (size_t i = 0; i < result.outcomes.size(); ++i) {
    if (!result.outcomes[i].by_us) continue;
    if (first < 0) first = plan.ranks[i].rank;
    late += (late.empty() ? "rank " : ", rank ") + std::to_string(plan.ranks[i].rank);
  }
  throw RankError(first, {.place = "launch",
                          .what = "Not every rank has returned in time; those that were left are ended",
                          .got = late + " after " + std::to_string(options.timeout->count()) + " ms",
                          .expected = "all of them to return",
                          .remedy = "Give .timeout more, or find out what they wait for"});
}

[[noreturn]] void throw_failure(const launch::Forks::Result& result, const launch::LaunchPlan& plan) {
  const size_t index = first_failure(result);
  const launch::ForkOutcome& outcome = result.outcomes[index];
  const int64_t rank = plan.ranks[index].rank;
  std::string others;
  for (const size_t other : result.order) {
    if (other != index) others += (others.empty() ? "rank " : ", rank ") + std::to_string(plan.ranks[other].rank);
  }
  const std::string place = "Rank " + std::to_string(rank) + " of " + std::to_string(plan.world_size);
  throw RankError(rank, {.place = "launch",
                         .what = place + (outcome.exception ? " threw an exception" : " ended before it returned"),
                         .got = outcome.exception ? "\"" + *outcome.exception + "\"" : ending_of(outcome.ending),
                         .expected = "every rank to return",
                         .remedy = others.empty() ? "The other ranks returned" : "After it failed " + others});
}

}  // namespace

void launch_ranks(const std::function<void()>& function, const LaunchOptions& options) {
  check(options);
  const Environment environment = Environment::of_process();
  launch::require_no_rank(environment);
  if (*options.num_processes * options.num_nodes == 1) return run_in_place(function, options);
  launch::require_forkable(environment);
  launch::LaunchPlan plan = plan_for(options, environment);
  // Held until all have ended: nobody else is given the port before rank 0 listens on it.
  std::optional<launch::PortReservation> port;
  if (plan.reserve) {
    reworded("Choose another .use_port, or 0 for a free one", [&] { port.emplace(*plan.reserve); });
    plan.set_port(port->port());
  }
  launch::fill_standard_descriptors();
  launch::Forks forks;
  for (const launch::RankPlan& rank : plan.ranks) {
    std::map<std::string, std::string> variables = rank.variables;
    variables["FORK_LAUNCHED"] = "1";
    const bool first = &rank == &plan.ranks.front();
    forks.start(variables, first ? launch::Stream::kInherited : launch::Stream::kNull, function);
  }
  const launch::Forks::Result result = forks.wait({.all = options.timeout, .grace = options.grace_period});
  if (result.timed_out) throw_timeout(result, plan, options);
  if (!result.order.empty()) throw_failure(result, plan);
}

}  // namespace accelerate::internal
