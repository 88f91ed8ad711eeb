#include "accelerate/plan_foreign.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <string>

#include "accelerate/core/error.h"

namespace accelerate::internal {
namespace {

void refuse(const std::string& name, const std::string& what, const std::string& got, const std::string& expected) {
  throw ConfigError({.place = name,
                     .what = "The environment asks for " + what + " that is not available",
                     .got = name + "=" + got,
                     .expected = expected,
                     .remedy = "Run `unset " + name + "`"});
}

}  // namespace

void refuse_foreign_engines(const Environment& environment) {
  constexpr std::array<const char*, 5> kEngines{"ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_FSDP",
                                                "ACCELERATE_USE_MEGATRON_LM", "ACCELERATE_USE_PARALLELISM_CONFIG",
                                                "ACCELERATE_USE_SAGEMAKER"};
  for (const char* name : kEngines) {
    if (environment.flag(name).value_or(false)) refuse(name, "a training engine", *environment.text(name), "it unset");
  }
  // The original's launcher sets it always, to NO unless it was asked for one.
  constexpr const char* kCompiler = "ACCELERATE_DYNAMO_BACKEND";
  const auto compiler = environment.text(kCompiler);
  if (!compiler) return;
  std::string lower = *compiler;
  std::transform(lower.begin(), lower.end(), lower.begin(), [](unsigned char c) { return std::tolower(c); });
  if (lower != "no") refuse(kCompiler, "a compiler", *compiler, "no");
}

}  // namespace accelerate::internal
