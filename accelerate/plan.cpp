#include "accelerate/plan.h"

#include <algorithm>
#include <array>
#include <string>

#include "accelerate/comm/connect.h"
#include "accelerate/core/error.h"
#include "accelerate/core/registry.h"
#include "accelerate/plan_capture.h"
#include "accelerate/plan_device.h"
#include "accelerate/plan_foreign.h"
#include "accelerate/strategy/strategy.h"

namespace accelerate::internal {
namespace {

template <class T>
struct Sourced {
  T value;
  std::string source;
};

constexpr const char* kDebugVariable = "ACCELERATE_DEBUG_MODE";

std::string yes_no(bool value) { return value ? "true" : "false"; }

Sourced<PrecisionEntry> resolve_precision(const AcceleratorOptions& options, const Environment& environment,
                                          c10::Device device) {
  constexpr const char* kVariable = "ACCELERATE_MIXED_PRECISION";
  const auto variable = environment.text(kVariable);
  Sourced<std::string> name{kDefaultPrecision, "default"};
  if (options.mixed_precision.name()) {
    name = {*options.mixed_precision.name(), "argument"};
  } else if (variable) {
    name = {*variable, std::string("environment ") + kVariable};
  }
  Registry<PrecisionEntry> known("precision", builtin_precisions());
  for (const PrecisionEntry& entry : options.extensions.precisions) known.add(entry);
  const PrecisionEntry* entry = known.find(name.value);
  if (entry == nullptr) {
    throw ConfigError({.place = "mixed_precision",
                       .what = "The precision is not known",
                       .got = "\"" + name.value + "\" (" + name.source + ")",
                       .expected = "one of " + known.names(),
                       .remedy = "Set AcceleratorOptions::mixed_precision or " + std::string(kVariable)});
  }
  if (const auto why = contradiction(entry->policy)) {
    throw ConfigError({.place = "mixed_precision",
                       .what = std::string("The precision contradicts itself: ") + *why,
                       .got = "\"" + name.value + "\" (" + name.source + ")",
                       .expected = "a PrecisionPolicy whose fields go together",
                       .remedy = "Change what .extensions.precisions hands in"});
  }
  if (const auto refusal = entry->refusal(device)) {
    std::string others;
    for (const PrecisionEntry& other : known.all()) {
      if (!other.refusal(device)) others += (others.empty() ? "\"" : ", \"") + other.name + "\"";
    }
    throw ConfigError({.place = "mixed_precision",
                       .what = "The device cannot train in this precision: " + *refusal,
                       .got = "\"" + name.value + "\" (" + name.source + ") on device \"" + device.str() + "\"",
                       .expected = "a precision that the device has",
                       .remedy = "Choose one of " + others});
  }
  return {*entry, name.source};
}

Sourced<GradientAccumulationPlugin> resolve_accumulation(const AcceleratorOptions& options,
                                                         const Environment& environment) {
  constexpr const char* kVariable = "ACCELERATE_GRADIENT_ACCUMULATION_STEPS";
  if (options.gradient_accumulation_steps && options.gradient_accumulation_plugin) {
    throw ConfigError({.place = "gradient_accumulation_plugin",
                       .what = "The number of accumulation steps is given twice",
                       .got = ".gradient_accumulation_steps = " + std::to_string(*options.gradient_accumulation_steps) +
                              " and .gradient_accumulation_plugin.num_steps = " +
                              std::to_string(options.gradient_accumulation_plugin->num_steps),
                       .expected = "one of the two",
                       .remedy = "Keep .gradient_accumulation_plugin and set its num_steps"});
  }
  Sourced<GradientAccumulationPlugin> plugin{{}, "default"};
  if (options.gradient_accumulation_plugin) {
    plugin = {*options.gradient_accumulation_plugin, "argument"};
  } else if (options.gradient_accumulation_steps) {
    plugin = {{.num_steps = *options.gradient_accumulation_steps}, "argument"};
  } else if (const auto steps = environment.integer(kVariable)) {
    plugin = {{.num_steps = *steps}, std::string("environment ") + kVariable};
  }
  if (plugin.value.num_steps < 1) {
    throw ConfigError({.place = "gradient_accumulation_steps",
                       .what = "The number of accumulation steps is not positive",
                       .got = std::to_string(plugin.value.num_steps) + " (" + plugin.source + ")",
                       .expected = "1 or more",
                       .remedy = "Use 1 for an update after every batch"});
  }
  return plugin;
}

Sourced<StrategyEntry> resolve_strategy(const AcceleratorOptions& options, const World& world) {
  Registry<StrategyEntry> known("strategy", builtin_strategies());
  for (const StrategyEntry& entry : options.extensions.strategies) known.add(entry);
  const std::string processes = std::to_string(world.size) + (world.size == 1 ? " process" : " processes");
  std::string unused;
  if (const auto& name = options.strategy.name()) {
    const StrategyEntry* entry = known.find(*name);
    if (entry == nullptr) {
      throw ConfigError({.place = "strategy",
                         .what = "The strategy is not known",
                         .got = "\"" + *name + "\"",
                         .expected = "one of " + known.names(),
                         .remedy = "Leave AcceleratorOptions::strategy unset to get the one that applies"});
    }
    const auto refusal = entry->refusal(world);
    if (!refusal) {
      entry->make(options.strategy.options());  // before the ranks meet, and not when the first model is prepared
      return {*entry, "argument"};
    }
    if (world.size > 1) {
      throw ConfigError({.place = "strategy",
                         .what = "The strategy cannot spread a model over these processes: " + *refusal,
                         .got = "\"" + *name + "\" in " + processes,
                         .expected = "a number of processes that it takes",
                         .remedy = "Leave AcceleratorOptions::strategy unset to get the one that applies"});
    }
    // The program that will run on several processes is tried on one: its options are checked all the same.
    entry->make(options.strategy.options());
    unused = ", argument \"" + *name + "\" is not used: " + *refusal;
  }
  std::vector<StrategyEntry> entries = known.all();
  // What the host program handed in comes last and, among equals, is asked first.
  std::reverse(entries.begin(), entries.end());
  std::stable_sort(entries.begin(), entries.end(),
                   [](const StrategyEntry& a, const StrategyEntry& b) { return a.preference > b.preference; });
  std::string reasons;
  for (const StrategyEntry& entry : entries) {
    if (entry.preference < 0) continue;
    const auto refusal = entry.refusal(world);
    if (!refusal) return {entry, "applies to " + processes + unused};
    reasons += (reasons.empty() ? "" : "; ") + entry.name + ": " + *refusal;
  }
  throw ConfigError({.place = "strategy",
                     .what = "No strategy can spread a model over these processes",
                     .got = reasons,
                     .expected = "one that applies",
                     .remedy = "Start as many processes as one of them takes"});
}

void check_waits(const InitProcessGroupKwargs& waits) {
  const std::array<std::pair<const char*, std::chrono::milliseconds>, 4> all{
      {{".timeout", waits.timeout},
       {".rendezvous_timeout", waits.rendezvous_timeout},
       {".heartbeat_timeout", waits.heartbeat_timeout},
       {".slow_warning", waits.slow_warning}}};
  for (const auto& [name, wait] : all) {
    if (wait.count() > 0) continue;
    throw ConfigError({.place = "init_process_group",
                       .what = "A time to wait is not positive",
                       .got = std::string(name) + " = " + std::to_string(wait.count()) + " ms",
                       .expected = "1 ms or more",
                       .remedy = "Leave it unset to get the default"});
  }
}

Sourced<bool> resolve_debug(const AcceleratorOptions& options, const Environment& environment) {
  if (options.debug) return {*options.debug, "argument"};
  if (const auto flag = environment.flag(kDebugVariable)) return {*flag, std::string("environment ") + kDebugVariable};
  return {false, "default"};
}

/// What the host program says, else what the environment does.
DiscoveredWorld resolve_world(const AcceleratorOptions& options, const Environment& environment) {
  if (options.process_group) {
    if (options.store) {
      throw ConfigError({.place = "process_group",
                         .what = "The place where ranks meet is given twice",
                         .got = ".process_group and .store",
                         .expected = "one of the two",
                         .remedy = "Keep .process_group, which has a store already"});
    }
    return {"process group of the host program",
            {.world = options.world ? *options.world : world_of(options.process_group)}};
  }
  if (options.world) {
    if (options.world->size > 1 && !options.store) {
      throw ConfigError({.place = "world",
                         .what = "The processes have no place to meet",
                         .got = ".world.size = " + std::to_string(options.world->size) + " without .store",
                         .expected = "a c10d::Store that every rank can reach",
                         .remedy = "Pass .store as well, or let the environment variables say both"});
    }
    return {"host program", {.world = *options.world}};
  }
  if (options.store) {
    throw ConfigError({.place = "store",
                       .what = "It is not clear which rank this process is",
                       .got = ".store without .world",
                       .expected = "both",
                       .remedy = "Pass .world = accelerate::World{.rank = ..., .size = ...}"});
  }
  Registry<EnvironmentEntry> known("environment", builtin_environments());
  for (const EnvironmentEntry& entry : options.extensions.environments) known.add(entry);
  return discover_world(known.all(), environment);
}

std::string words(const GradScalerKwargs& scaler) {
  if (!scaler.enabled) return "off";
  std::ostringstream text;
  text << "from " << scaler.init_scale << ", x " << scaler.growth_factor << " after " << scaler.growth_interval
       << " updates, x " << scaler.backoff_factor << " after one left out";
  return text.str();
}

}  // namespace

Plan resolve(const AcceleratorOptions& options, const Environment& environment, const Hardware& hardware) {
  refuse_foreign_engines(environment);
  check_waits(options.init_process_group);
  const DiscoveredWorld discovered = resolve_world(options, environment);
  const World& world = discovered.launched.world;
  const auto [device, device_source] = choose_device(options.cpu, environment, discovered.launched, hardware);
  auto precision = resolve_precision(options, environment, device);
  const ResolvedSetup setup = resolve_setup(options, environment, device);
  precision.value.policy.autocast = setup.value.autocast;
  const auto accumulation = resolve_accumulation(options, environment);
  const auto strategy = resolve_strategy(options, world);
  const auto debug = resolve_debug(options, environment);
  const bool with_optimizer = options.step_scheduler_with_optimizer.value_or(true);

  Plan plan{.world = world,
            .rendezvous = discovered.launched.rendezvous,
            .store = options.store,
            .process_group = options.process_group,
            .init_process_group = options.init_process_group,
            .device = device,
            .precision = precision.value,
            .strategy = strategy.value,
            .strategy_options = options.strategy.options(),
            .accumulation = accumulation.value,
            .data = options.dataloader_config.value_or(DataLoaderConfiguration{}),
            .setup = setup.value,
            .step_scheduler_with_optimizer = with_optimizer,
            .profile = options.profile_handler,
            .cuda_graph = options.cuda_graph,
            .capture = resolve_capture(options, device),
            .debug = debug.value,
            .fields = {}};
  const std::string from_world = "environment kind \"" + discovered.environment + "\"";
  plan.fields.add({"num_processes", std::to_string(plan.world.size), from_world});
  plan.fields.add({"process_index", std::to_string(plan.world.rank), from_world});
  plan.fields.add({"local_process_index", std::to_string(plan.world.local_rank), from_world});
  plan.fields.add({"local_num_processes", std::to_string(plan.world.local_size), from_world});
  plan.fields.add({"device", device.str(), device_source});
  plan.fields.add({"strategy", plan.strategy.name, strategy.source});
  plan.fields.add({"mixed_precision", plan.precision.name, precision.source});
  const PrecisionPolicy& policy = plan.precision.policy;
  const std::string from_precision = "mixed_precision \"" + plan.precision.name + "\"";
  plan.fields.add({"compute_dtype", policy.compute ? at::toString(*policy.compute) : "as given", from_precision});
  plan.fields.add({"output_dtype", policy.output ? at::toString(*policy.output) : "as computed", from_precision});
  plan.fields.add({"loss_scaling", policy.scale_loss ? words(plan.setup.scaler) : "none",
                   policy.scale_loss && options.scaler_handler ? "argument" : from_precision});
  plan.fields.add({"gradient_accumulation_steps", std::to_string(plan.accumulation.num_steps), accumulation.source});
  const std::string from_plugin = options.gradient_accumulation_plugin ? "argument" : "default";
  plan.fields.add({"sync_with_dataloader", yes_no(plan.accumulation.sync_with_dataloader), from_plugin});
  plan.fields.add({"adjust_scheduler", yes_no(plan.accumulation.adjust_scheduler), from_plugin});
  plan.fields.add({"sync_each_batch", yes_no(plan.accumulation.sync_each_batch), from_plugin});
  const bool own_size = plan.accumulation.divide_by == WindowDivisor::kMicroSteps;
  plan.fields.add({"divide_by", own_size ? "micro-steps" : "num_steps", from_plugin});
  const std::string from_data = options.dataloader_config ? "argument" : "default";
  plan.fields.add({"even_batches", yes_no(plan.data.even_batches), from_data});
  plan.fields.add({"split_batches", yes_no(plan.data.split_batches), from_data});
  plan.fields.add({"step_scheduler_with_optimizer", yes_no(with_optimizer),
                   options.step_scheduler_with_optimizer ? "argument" : "default"});
  plan.fields.add(
      {"cuda_graph", plan.cuda_graph ? words(*plan.cuda_graph) : "off", options.cuda_graph ? "argument" : "default"});
  plan.fields.add({"debug", yes_no(plan.debug), debug.source});
  for (const Field& field : setup.fields) plan.fields.add(field);
  return plan;
}

}  // namespace accelerate::internal
