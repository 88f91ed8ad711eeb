#include "accelerate/strategy/ddp/same_model.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <sstream>
#include <vector>

#include "accelerate/core/error.h"

namespace accelerate::internal {
namespace {

using Lines = std::vector<std::string>;

/// One line for the options and one for each tensor, its name before the first tab.
Lines describe(const ModelDescription& description) {
  Lines lines{description.options};
  for (const ParameterRow& row : description.table) {
    std::ostringstream line;
    line << row.name << '\t' << row.tensor.scalar_type() << ' ' << row.tensor.sizes();
    if (!row.tensor.is_contiguous()) line << " with strides " << row.tensor.strides();
    if (row.trainable) line << ", trainable";
    lines.push_back(line.str());
  }
  return lines;
}

std::string joined(const Lines& lines) {
  std::string text;
  for (const std::string& line : lines) text += line + '\n';
  return text;
}

Lines split(const std::string& text) {
  Lines lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

/// FNV-1a: the same on every host, which std::hash does not promise.
int64_t digest(const std::string& text) {
  uint64_t hash = 14695981039346656037ULL;
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 1099511628211ULL;
  int64_t bits = 0;
  std::memcpy(&bits, &hash, sizeof bits);
  return bits;
}

/// The ranks' texts, in rank order.
std::vector<std::string> exchange(const Group& group, const std::string& text, int64_t longest, c10::Device device) {
  at::Tensor bytes = at::zeros({longest}, at::kByte);
  std::copy(text.begin(), text.end(), bytes.data_ptr<uint8_t>());
  const at::Tensor all = group.all_gather(bytes.to(device)).cpu();
  std::vector<std::string> texts;
  for (int64_t rank = 0; rank < group.size(); ++rank) {
    const auto* begin = reinterpret_cast<const char*>(all.const_data_ptr<uint8_t>()) + rank * longest;
    texts.emplace_back(begin, std::find(begin, begin + longest, '\0'));
  }
  return texts;
}

std::string name_of(const std::string& line) { return line.substr(0, line.find('\t')); }
std::string kind_of(const std::string& line) { return line.substr(line.find('\t') + 1); }

std::string on_rank(int64_t rank) { return " on rank " + std::to_string(rank); }

/// How the model of `rank` differs from that of rank 0; empty if it does not.
std::string difference(const Lines& first, const Lines& other, int64_t rank) {
  if (first.front() != other.front()) return first.front() + on_rank(0) + " and " + other.front() + on_rank(rank);
  const size_t count = std::min(first.size(), other.size());
  for (size_t i = 1; i < count; ++i) {
    if (first[i] == other[i]) continue;
    if (name_of(first[i]) != name_of(other[i]))
      return "tensor " + std::to_string(i - 1) + " is \"" + name_of(first[i]) + "\"" + on_rank(0) + " and \"" +
             name_of(other[i]) + "\"" + on_rank(rank);
    return "\"" + name_of(first[i]) + "\" is " + kind_of(first[i]) + on_rank(0) + " and " + kind_of(other[i]) +
           on_rank(rank);
  }
  if (first.size() == other.size()) return {};
  const bool more = other.size() > first.size();
  return std::to_string(first.size() - 1) + " parameters and buffers" + on_rank(0) + " and " +
         std::to_string(other.size() - 1) + on_rank(rank) + ", which has " + (more ? "" : "no ") + "\"" +
         name_of(more ? other[count] : first[count]) + "\"";
}

}  // namespace

void require_same_model(const Group& group, const ModelDescription& description) {
  const std::string text = joined(describe(description));
  const at::Tensor own = at::tensor({digest(text), static_cast<int64_t>(text.size())}, at::kLong);
  const at::Tensor all = group.all_gather(own.to(description.device)).cpu().view({group.size(), 2});
  const at::Tensor first = all[0];
  if (at::equal(all, first.expand_as(all))) return;

  const auto texts = exchange(group, text, all.select(1, 1).max().item<int64_t>(), description.device);
  std::string found;
  for (int64_t rank = 1; rank < group.size(); ++rank) {
    const std::string next = difference(split(texts.front()), split(texts[rank]), rank);
    if (!next.empty()) found += (found.empty() ? "" : "; ") + next;
  }
  throw UsageError({.place = "prepare",
                    .what = "The model " + description.model + " is not the same on every process",
                    .got = found,
                    .expected = "the same options and the same names, shapes and dtypes in the same order",
                    .remedy = "Build the model from the same configuration on every process; only the values may "
                              "differ, and those of rank 0 are used"});
}

}  // namespace accelerate::internal
