#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "accelerate/comm/group.h"

namespace accelerate::internal {

/// Every rank's bytes, in rank order. Lengths may differ.
std::vector<std::string> all_gather_bytes(const Group& group, std::string_view own);

/// Every rank's number, in rank order.
std::vector<int64_t> all_gather_numbers(const Group& group, int64_t own);

/// The bytes of rank `from`, on every rank.
std::string broadcast_bytes(const Group& group, std::string own, int64_t from);

/// A list of texts as bytes and back.
std::string join_texts(const std::vector<std::string>& texts);
std::vector<std::string> split_texts(std::string_view bytes);

}  // namespace accelerate::internal
