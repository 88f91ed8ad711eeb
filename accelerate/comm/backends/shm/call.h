#pragma once

#include <c10/core/ScalarType.h>

#include <cstdint>
#include <span>
#include <string>
#include <torch/csrc/distributed/c10d/Types.hpp>
#include <torch/csrc/distributed/c10d/Work.hpp>

namespace accelerate::internal::shm {

/// What a rank asks of its group: it stands in shared memory beside the rank's arrival, so that ranks that call
/// different things find out before a byte is exchanged. Every field must be equal on all ranks.
struct Call {
  static constexpr uint64_t kVaries = ~uint64_t{0};  ///< `elements` of calls whose shares differ

  c10d::OpType operation = c10d::OpType::UNKNOWN;
  c10d::ReduceOp::RedOpType reduction = c10d::ReduceOp::UNUSED;
  c10::ScalarType dtype = c10::ScalarType::Undefined;
  int32_t root = -1;      ///< -1: the operation has none
  uint64_t elements = 0;  ///< of one rank's share

  bool operator==(const Call&) const = default;
};

/// "all_reduce", "broadcast", ...: what error messages call an operation.
std::string name_of(c10d::OpType operation);

/// "all_reduce(sum) of 12 x Float", "broadcast(root 0) of 3 x Long", "barrier".
std::string describe(const Call& call);

/// "rank 0: barrier; ranks 1, 2: broadcast(root 0) of 3 x Long": every rank, equal calls together.
std::string describe(std::span<const Call> calls);

}  // namespace accelerate::internal::shm
