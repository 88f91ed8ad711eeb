#include "accelerate/strategy/ddp/comm_hook.h"

#include <ATen/ATen.h>

#include <utility>

#include "accelerate/core/error.h"
#include "accelerate/core/registry.h"

namespace accelerate::internal {
namespace {

std::string wrappers(const std::vector<HookEntry>& entries) {
  std::string names;
  for (const HookEntry& entry : entries) {
    if (entry.wrap) names += (names.empty() ? "\"" : ", \"") + entry.name + "\"";
  }
  return names;
}

}  // namespace

std::unique_ptr<CommHook> make_hook(const Ddp& options) {
  const Registry<HookEntry> known("communication hook", builtin_hooks());
  const HookEntry* hook = known.find(options.comm_hook);
  if (hook == nullptr) {
    throw ConfigError({.place = "comm_hook",
                       .what = "The communication hook is not known",
                       .got = ".comm_hook = \"" + options.comm_hook + "\"",
                       .expected = "one of " + known.names(),
                       .remedy = "Leave it out to send gradients as they are"});
  }
  const HookEntry* wrapper = known.find(options.comm_wrapper);
  if (wrapper == nullptr || !wrapper->wrap) {
    throw ConfigError({.place = "comm_wrapper",
                       .what = "The wrapper of the communication hook is not known",
                       .got = ".comm_wrapper = \"" + options.comm_wrapper + "\"",
                       .expected = "one of " + wrappers(known.all()),
                       .remedy = "Leave it out to give the hook gradients as they are"});
  }
  std::unique_ptr<CommHook> made = hook->make(options.comm_state_option);
  if (options.comm_wrapper == Ddp{}.comm_wrapper) return made;
  if (made == nullptr) {
    throw ConfigError(
        {.place = "comm_wrapper",
         .what = "There is no communication hook to wrap",
         .got = ".comm_wrapper = \"" + options.comm_wrapper + "\" with .comm_hook = \"" + options.comm_hook + "\"",
         .expected = "a hook that is given gradients of that precision",
         .remedy = "Write `.comm_hook = \"" + options.comm_wrapper + "\"` to send all gradients in it"});
  }
  return wrapper->wrap(std::move(made));
}

void require_no_state(const std::string& hook, const CommStateOption& state) {
  if (std::holds_alternative<std::monostate>(state)) return;
  throw ConfigError({.place = "comm_state_option",
                     .what = "The communication hook has no state",
                     .got = ".comm_state_option = PowerSgd{...} with .comm_hook = \"" + hook + "\"",
                     .expected = "no .comm_state_option",
                     .remedy = "Leave it out, or choose a hook that compresses by PowerSGD"});
}

HookFuture average(at::Tensor tensor, ReducerGroup& ranks) {
  tensor.div_(ranks.getSize());
  return ranks.sum(std::move(tensor));
}

}  // namespace accelerate::internal
