#include "accelerate/plan_setup.h"

#include <algorithm>
#include <utility>

#include "accelerate/comm/random_state.h"
#include "accelerate/core/error.h"
#include "accelerate/precision/float32_scope.h"

namespace accelerate::internal {
namespace {

constexpr const char* kLogVariable = "ACCELERATE_LOG_LEVEL";

std::string yes_no(bool value) { return value ? "true" : "false"; }

std::string from(bool is_argument) { return is_argument ? "argument" : "default"; }

std::vector<std::string> resolve_rng_types(const AcceleratorOptions& options, c10::Device device) {
  const auto& chosen = options.rng_types.names();
  if (!chosen) return {"generator"};
  for (const std::string& type : *chosen) {
    const auto refusal = rng_type_refusal(type, device);
    if (!refusal) continue;
    throw ConfigError({.place = "rng_types",
                       .what = "A random state cannot be synchronised: " + *refusal,
                       .got = "\"" + type + "\"",
                       .expected = kRngTypes,
                       .remedy = "Correct AcceleratorOptions::rng_types, or leave it out"});
  }
  return *chosen;
}

void check_data_seed(const AcceleratorOptions& options) {
  const auto& data = options.dataloader_config;
  if (!data || !data->data_seed || data->use_seedable_sampler) return;
  throw ConfigError({.place = "data_seed",
                     .what = "Nothing would use the seed",
                     .got = ".data_seed = " + std::to_string(*data->data_seed) + " and .use_seedable_sampler = false",
                     .expected = "one of the two: without the seedable sampler each pass draws its seed",
                     .remedy = "Leave out .use_seedable_sampler"});
}

ProjectConfiguration resolve_project(const AcceleratorOptions& options) {
  ProjectConfiguration project = options.project_config.value_or(ProjectConfiguration{});
  if (options.project_dir && project.project_dir && *options.project_dir != *project.project_dir) {
    throw ConfigError({.place = "project_dir",
                       .what = "The project folder is given twice",
                       .got = ".project_dir = \"" + *options.project_dir + "\" and .project_config.project_dir = \"" +
                              *project.project_dir + "\"",
                       .expected = "one of the two",
                       .remedy = "Keep the one in .project_config"});
  }
  const auto& directory = options.project_dir ? options.project_dir : project.project_dir;
  if (directory) project.set_directories(*directory);
  const auto check = [](const char* name, int64_t number, int64_t least) {
    if (number >= least) return;
    throw ConfigError({.place = "project_config",
                       .what = "A number is too small",
                       .got = std::string(".") + name + " = " + std::to_string(number),
                       .expected = std::to_string(least) + " or more",
                       .remedy = "Correct it, or leave it out"});
  };
  if (project.total_limit) check("total_limit", *project.total_limit, 1);
  check("iteration", project.iteration, 0);
  return project;
}

std::string joined(const std::vector<std::string>& words) {
  std::string text;
  for (const std::string& word : words) text += (text.empty() ? "" : ", ") + word;
  return text.empty() ? "none" : text;
}

}  // namespace

ResolvedSetup resolve_setup(const AcceleratorOptions& options, const Environment& environment, c10::Device device) {
  check_data_seed(options);
  if (options.scaler_handler) check(*options.scaler_handler);
  check(options.float32, device);
  Setup setup{.device_placement = options.device_placement.value_or(true),
              .rng_types = resolve_rng_types(options, device),
              .project = resolve_project(options),
              .autocast = options.autocast_handler.value_or(AutocastOptions{}),
              .scaler = options.scaler_handler.value_or(GradScalerKwargs{}),
              .float32 = options.float32,
              .log_level = {},
              .warnings = {}};
  constexpr const char* kAffinity = "ACCELERATE_CPU_AFFINITY";
  // Without a GPU there is nothing to be near to.
  if (environment.flag(kAffinity).value_or(false) && !device.is_cpu()) {
    setup.warnings.push_back(std::string(kAffinity) + " is set, but processes are not pinned to processors yet");
  }
  Field level{"log_level", "default", "default"};
  if (options.log_level) {
    level = {"log_level", *options.log_level, "argument"};
  } else if (const auto variable = environment.text(kLogVariable)) {
    level = {"log_level", *variable, std::string("environment ") + kLogVariable};
  }
  if (level.source != "default") {
    setup.log_level = log_level_of(level.value, options.log_level ? "log_level" : kLogVariable);
    level.value = name_of(*setup.log_level);
  }

  const DataLoaderConfiguration data = options.dataloader_config.value_or(DataLoaderConfiguration{});
  const std::string from_data = from(options.dataloader_config.has_value());
  const bool has_project = options.project_dir || options.project_config;
  const bool own_logs = options.project_config && options.project_config->logging_dir;
  std::vector<Field> fields{
      {"device_placement", yes_no(setup.device_placement), from(options.device_placement.has_value())},
      {"use_seedable_sampler", yes_no(data.use_seedable_sampler), from_data},
      {"data_seed", data.data_seed ? std::to_string(*data.data_seed) : "unset", from_data},
      {"non_blocking", yes_no(data.non_blocking), from_data},
      {"rng_types", joined(setup.rng_types), from(options.rng_types.names().has_value())},
      {"autocast", setup.autocast.enabled ? "on" : "off", from(options.autocast_handler.has_value())},
      {"project_dir", setup.project.project_dir.value_or("none"), from(has_project)},
      {"logging_dir", setup.project.logging_dir.value_or("none"),
       has_project && !own_logs ? "project_dir" : from(has_project)},
      level};
  for (Field& field : fields_of(setup.float32)) fields.push_back(std::move(field));
  return {std::move(setup), std::move(fields)};
}

}  // namespace accelerate::internal
