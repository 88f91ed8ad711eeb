#include "accelerate/comm/backends/shm/call.h"

#include <algorithm>
#include <cctype>
#include <utility>
#include <vector>

namespace accelerate::internal::shm {
namespace {

const char* name_of(c10d::ReduceOp::RedOpType reduction) {
  switch (reduction) {
    case c10d::ReduceOp::SUM:
      return "sum";
    case c10d::ReduceOp::AVG:
      return "mean";
    case c10d::ReduceOp::PRODUCT:
      return "product";
    case c10d::ReduceOp::MIN:
      return "min";
    case c10d::ReduceOp::MAX:
      return "max";
    case c10d::ReduceOp::BAND:
      return "bitwise and";
    case c10d::ReduceOp::BOR:
      return "bitwise or";
    case c10d::ReduceOp::BXOR:
      return "bitwise xor";
    case c10d::ReduceOp::PREMUL_SUM:
      return "scaled sum";
    case c10d::ReduceOp::UNUSED:
      break;
  }
  return "";
}

}  // namespace

std::string name_of(c10d::OpType operation) {
  switch (operation) {
    case c10d::OpType::ALLREDUCE:
      return "all_reduce";
    case c10d::OpType::ALLREDUCE_COALESCED:
      return "all_reduce_coalesced";
    case c10d::OpType::ALLGATHER:
      return "all_gather";
    case c10d::OpType::_ALLGATHER_BASE:
      return "all_gather_into_tensor";
    case c10d::OpType::ALLGATHER_COALESCED:
      return "all_gather_coalesced";
    case c10d::OpType::REDUCE_SCATTER:
      return "reduce_scatter";
    case c10d::OpType::_REDUCE_SCATTER_BASE:
      return "reduce_scatter_tensor";
    case c10d::OpType::ALLTOALL:
      return "all_to_all";
    case c10d::OpType::ALLTOALL_BASE:
      return "all_to_all_single";
    default: {
      std::string name = c10d::opTypeToString(operation);
      std::transform(name.begin(), name.end(), name.begin(), [](unsigned char c) { return std::tolower(c); });
      return name;
    }
  }
}

std::string describe(const Call& call) {
  std::string details = name_of(call.reduction);
  if (call.root >= 0) details += (details.empty() ? "root " : ", root ") + std::to_string(call.root);
  std::string text = name_of(call.operation);
  if (!details.empty()) text += "(" + details + ")";
  if (call.dtype != c10::ScalarType::Undefined) {
    text += " of ";
    if (call.elements != Call::kVaries) text += std::to_string(call.elements) + " x ";
    text += c10::toString(call.dtype);
  }
  return text;
}

std::string describe(std::span<const Call> calls) {
  std::vector<std::pair<std::string, Call>> groups;  // the ranks of each distinct call
  for (size_t rank = 0; rank < calls.size(); ++rank) {
    const auto same = [&](const auto& group) { return group.second == calls[rank]; };
    const auto found = std::find_if(groups.begin(), groups.end(), same);
    if (found == groups.end()) {
      groups.emplace_back("rank " + std::to_string(rank), calls[rank]);
    } else {
      if (found->first.find(',') == std::string::npos) found->first.insert(4, "s");
      found->first += ", " + std::to_string(rank);
    }
  }
  std::string text;
  for (const auto& [ranks, call] : groups) text += (text.empty() ? "" : "; ") + ranks + ": " + describe(call);
  return text;
}

}  // namespace accelerate::internal::shm
