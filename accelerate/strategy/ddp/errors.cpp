#include "accelerate/strategy/ddp/errors.h"

#include <algorithm>

namespace accelerate::internal {
namespace {

constexpr size_t kNamesShown = 6;

/// What rank `rank` lacks; empty if nothing.
std::string lack(const std::vector<std::string>& parameters, const std::vector<uint8_t>& ends, size_t rank) {
  const std::string where = " on rank " + std::to_string(rank);
  if (std::find(ends.begin(), ends.end(), kThrew) != ends.end()) return "an exception in the backward pass" + where;
  std::vector<std::string> names;
  for (size_t i = 0; i < ends.size(); ++i) {
    if (ends[i] == kGotNone) names.push_back(parameters[i]);
  }
  return names.empty() ? "" : "no gradient for " + listed(names) + where;
}

}  // namespace

std::string listed(const std::vector<std::string>& names) {
  std::string text;
  const size_t shown = names.size() <= kNamesShown + 1 ? names.size() : kNamesShown;
  for (size_t i = 0; i < shown; ++i) text += (text.empty() ? "\"" : ", \"") + names[i] + "\"";
  if (shown < names.size()) text += " and " + std::to_string(names.size() - shown) + " more";
  return text;
}

UsageError incomplete_backward(const std::string& model, const std::vector<std::string>& parameters,
                               const std::vector<std::vector<uint8_t>>& ends) {
  std::string found;
  for (size_t rank = 0; rank < ends.size(); ++rank) {
    const std::string next = lack(parameters, ends[rank], rank);
    if (!next.empty()) found += (found.empty() ? "" : "; ") + next;
  }
  return UsageError({.place = "backward",
                     .what = "The gradients of " + model + " cannot be averaged over the processes",
                     .got = found,
                     .expected = "a gradient for every trainable parameter on every process",
                     .remedy = "Choose `.strategy = accelerate::Ddp{.find_unused_parameters = true}`, or freeze what "
                               "the loss does not reach with requires_grad_(false); the gradients of this pass are not "
                               "usable: go on with optimizer.zero_grad()"});
}

UsageError gradients_not_averaged(const std::string& model, const std::vector<std::string>& parameters) {
  return UsageError(
      {.place = "optimizer.step",
       .what = "The gradients of " + model + " were not averaged over the processes",
       .got = "a backward() that did not go through the Accelerator, which left gradients for " + listed(parameters),
       .expected = "accelerator.backward(loss)",
       .remedy = "Replace `loss.backward()`; to train each process on its own for some steps, hold "
                 "`auto local = accelerator.no_sync(model);`"});
}

UsageError gradients_left_local(const std::string& model, const std::vector<std::string>& parameters) {
  return UsageError(
      {.place = "optimizer.step",
       .what = "The gradients of " + model + " were not averaged over the processes",
       .got = "micro-steps that stayed local, and no backward() since that averages, for " + listed(parameters),
       .expected = "a loss that reaches the model in the last micro-step of an update",
       .remedy = "Call backward() for it there, too; to train each process on its own for some steps, hold "
                 "`auto local = accelerator.no_sync(model);`"});
}

UsageError frozen_with_gradient(const std::string& model, const std::vector<std::string>& parameters) {
  return UsageError({.place = "backward",
                     .what = "Parameters of " + model + " were frozen between the micro-steps of one update",
                     .got = "gradients that were not averaged for " + listed(parameters),
                     .expected = "requires_grad_(false) right after optimizer.zero_grad()",
                     .remedy = "Freeze between two updates"});
}

UsageError frozen_while_joined(const std::string& model) {
  return UsageError({.place = "backward",
                     .what = "Parameters of " + model + " were frozen or unfrozen inside join_uneven_inputs",
                     .got = "other trainable parameters than before, which ranks without data do not know of",
                     .expected = "the same ones until the loop has ended on every rank",
                     .remedy = "Freeze between two loops"});
}

UsageError static_graph_not_recorded(const std::string& model) {
  return UsageError({.place = "join_uneven_inputs",
                     .what = "This rank has no data before the static graph of " + model + " is recorded",
                     .got = "no backward pass on it yet",
                     .expected = "at least one on every rank",
                     .remedy = "Leave out `.static_graph`, or see to it that every rank gets a batch"});
}

UsageError unfrozen_too_late(const std::string& model, const std::vector<std::string>& parameters) {
  return UsageError({.place = "backward",
                     .what = "The model " + model +
                             " had nothing to train when it was prepared, so its processes do "
                             "not hold the same values",
                     .got = listed(parameters) + ", which now require gradients",
                     .expected = "at least one trainable parameter at prepare()",
                     .remedy = "Unfreeze before prepare(); what is frozen after it can be unfrozen later"});
}

}  // namespace accelerate::internal
