#include "accelerate/step/tape/graphs.h"

#include <algorithm>

namespace accelerate::internal {
namespace {

template <class Function>
void for_each_value(const std::vector<Argument>& arguments, const Function& function) {
  for (const Argument& argument : arguments) {
    for (const Ref& ref : argument.tensors) {
      if (ref.kind == Ref::Kind::kValue) function(static_cast<size_t>(ref.index));
    }
  }
}

/// An operator, by values that autograd connects.
struct Link {
  std::vector<size_t> from, to;
};

}  // namespace

Graphs::Graphs(const Recording& recording)
    : begun(recording.made().size(), kNoGraph), unspent(recording.made().size(), false) {
  const auto& made = recording.made();
  const auto& entries = recording.entries();
  std::vector<Link> links(entries.size());
  std::vector<std::vector<size_t>> makers(made.size());
  for (size_t i = 0; i < entries.size(); ++i) {
    const Entry& entry = entries[i];
    if (entry.kind != Entry::Kind::kOperator || !entry.mode.grad) continue;
    Link& link = links[i];
    for_each_value(entry.arguments, [&](size_t value) {
      if (made[value].requires_grad) link.from.push_back(value);
    });
    for_each_value(entry.results, [&](size_t value) {
      if (made[value].requires_grad) link.to.push_back(value);
    });
    for (const int32_t value : entry.made_differentiable) link.to.push_back(static_cast<size_t>(value));
    size_t first = i;
    for (const size_t value : link.from) first = std::min(first, begun[value]);
    for (const size_t value : link.to) {
      begun[value] = std::min(begun[value], first);
      makers[value].push_back(i);
    }
  }
  std::vector<bool> spent(made.size(), false);
  for (const Entry& entry : entries) {
    if (entry.kind != Entry::Kind::kBackward || entry.pass.retain_graph) continue;
    std::vector<size_t> open;
    if (entry.root.kind == Ref::Kind::kValue) open.push_back(static_cast<size_t>(entry.root.index));
    while (!open.empty()) {
      const size_t value = open.back();
      open.pop_back();
      if (spent[value]) continue;
      spent[value] = true;
      for (const size_t maker : makers[value])
        open.insert(open.end(), links[maker].from.begin(), links[maker].from.end());
    }
  }
  // What was computed from a spent one cannot be differentiated either.
  for (const Link& link : links) {
    if (!std::any_of(link.from.begin(), link.from.end(), [&](size_t value) { return spent[value]; })) continue;
    for (const size_t value : link.to) spent[value] = true;
  }
  for (size_t i = 0; i < made.size(); ++i) unspent[i] = made[i].requires_grad && begun[i] != kNoGraph && !spent[i];
}

}  // namespace accelerate::internal
