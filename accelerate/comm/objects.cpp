#include "accelerate/comm/objects.h"

#include <ATen/ATen.h>
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>

#include <c10/util/Type.h>

#include <algorithm>
#include <cstring>

#include "accelerate/comm/group_core.h"
#include "accelerate/core/error.h"

namespace accelerate::internal {
namespace {

/// Bytes travel as CPU tensors where the group can carry those.
c10::Device carrier(const Group& group) {
  const auto devices = core_of(group).process_group()->getDeviceTypes();
  const bool cpu = devices.empty() || std::ranges::any_of(devices, [](c10::Device device) { return device.is_cpu(); });
  return cpu ? c10::Device(c10::kCPU) : devices.front();
}

at::Tensor numbers(const Group& group, int64_t own, c10::Device device) {
  return group.all_gather(at::tensor({own}, at::kLong).to(device)).cpu();
}

}  // namespace

std::vector<int64_t> all_gather_numbers(const Group& group, int64_t own) {
  if (group.size() == 1) return {own};
  const at::Tensor all = numbers(group, own, carrier(group));
  return {all.const_data_ptr<int64_t>(), all.const_data_ptr<int64_t>() + all.numel()};
}

GatheredBytes gather_bytes(const Group& group, std::string_view own) {
  const auto ranks = static_cast<size_t>(group.size());
  const c10::Device device = group.size() == 1 ? c10::Device(c10::kCPU) : carrier(group);
  // Length and bytes in one block; only where somebody's do not fit all go again.
  constexpr size_t kBlock = 2048;
  const uint64_t length = own.size();
  at::Tensor block = at::zeros({kBlock}, at::kByte);
  std::memcpy(block.mutable_data_ptr<uint8_t>(), &length, sizeof length);
  const auto starts_of = [](const at::Tensor& all) { return reinterpret_cast<const char*>(all.const_data_ptr()); };
  if (length <= kBlock - sizeof length && length > 0) {
    std::memcpy(block.mutable_data_ptr<uint8_t>() + sizeof length, own.data(), length);
  }
  GatheredBytes gathered{.memory = group.all_gather(block.to(device)).cpu()};
  std::vector<uint64_t> lengths(ranks);
  for (size_t rank = 0; rank < ranks; ++rank) {
    std::memcpy(&lengths[rank], starts_of(gathered.memory) + rank * kBlock, sizeof length);
  }
  const uint64_t longest = *std::ranges::max_element(lengths);
  size_t begin = sizeof length, step = kBlock;
  if (longest > kBlock - sizeof length) {
    // Not copied where it is long enough.
    const auto whole = static_cast<int64_t>(longest);
    at::Tensor padded = length == longest ? at::from_blob(const_cast<char*>(own.data()), {whole}, at::kByte)
                                          : at::zeros({whole}, at::kByte);
    if (length < longest && length > 0) std::memcpy(padded.mutable_data_ptr<uint8_t>(), own.data(), length);
    gathered.memory = group.all_gather(padded.to(device)).cpu();
    if (ranks == 1) gathered.memory = gathered.memory.clone();
    begin = 0;
    step = longest;
  }
  for (size_t rank = 0; rank < ranks; ++rank) {
    gathered.ranks.emplace_back(starts_of(gathered.memory) + rank * step + begin, lengths[rank]);
  }
  return gathered;
}

std::vector<std::string> all_gather_bytes(const Group& group, std::string_view own) {
  if (group.size() == 1) return {std::string(own)};
  const GatheredBytes gathered = gather_bytes(group, own);
  return {gathered.ranks.begin(), gathered.ranks.end()};
}

std::string broadcast_bytes(const Group& group, std::string own, int64_t from) {
  if (group.size() == 1) return own;
  const c10::Device device = carrier(group);
  at::Tensor size = at::tensor({static_cast<int64_t>(own.size())}, at::kLong).to(device);
  group.broadcast(size, from).wait();
  const auto length = static_cast<size_t>(size.item<int64_t>());
  if (length == 0) return {};
  at::Tensor bytes = at::empty({static_cast<int64_t>(length)}, at::kByte);
  if (group.rank() == from) std::memcpy(bytes.mutable_data_ptr<uint8_t>(), own.data(), length);
  at::Tensor travelling = bytes.to(device);
  group.broadcast(travelling, from).wait();
  bytes = travelling.cpu();
  return {reinterpret_cast<const char*>(bytes.const_data_ptr<uint8_t>()), length};
}

void require_type(const char* operation, const std::string& sent, const char* own) {
  if (sent == own) return;
  throw CommError({.place = operation,
                   .what = "The processes pass objects of different types",
                   .got = c10::demangle(sent.c_str()) + " from another process",
                   .expected = c10::demangle(own) + " as on this one",
                   .remedy = "Call the verb with the same type everywhere"});
}

// Each text with its length in front, eight bytes, as this host writes them: the ranks of a group run one binary.
std::string join_texts(const std::vector<std::string>& texts) {
  std::string bytes;
  for (const std::string& text : texts) {
    const uint64_t size = text.size();
    bytes.append(reinterpret_cast<const char*>(&size), sizeof size);
    bytes += text;
  }
  return bytes;
}

std::vector<std::string> split_texts(std::string_view bytes) {
  std::vector<std::string> texts;
  while (!bytes.empty()) {
    uint64_t size = 0;
    std::memcpy(&size, bytes.data(), sizeof size);
    texts.emplace_back(bytes.substr(sizeof size, size));
    bytes.remove_prefix(sizeof size + size);
  }
  return texts;
}

}  // namespace accelerate::internal
