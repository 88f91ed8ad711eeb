#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <ostream>
#include <string>
#include <torch/csrc/distributed/c10d/Backend.hpp>

namespace accelerate::ranks_test {

enum class Shape { kPlain, kTransposed, kEverySecond, kOffset };

/// One collective with the inputs of all ranks known from a seed, so that each rank can work out the results alone.
struct Case {
  c10d::OpType operation = c10d::OpType::ALLREDUCE;
  c10d::ReduceOp::RedOpType reduction = c10d::ReduceOp::SUM;
  at::ScalarType dtype = at::kFloat;
  int64_t elements = 1;  ///< of one rank's share
  int root = 0;
  Shape shape = Shape::kPlain;  ///< how the tensors lie in memory
  int64_t seed = 0;
};
std::ostream& operator<<(std::ostream& out, const Case& test);

/// Whether the transport promises this pair of dtype and reduction.
bool promised(at::ScalarType dtype, c10d::ReduceOp::RedOpType reduction);

bool is_reduction(c10d::OpType operation);

/// Runs `test` as `rank` and compares every result with a straightforward reference: bit by bit, except for products of
/// complex numbers, which compilers may contract. Empty, or what differs.
std::string check_case(c10d::Backend& backend, int rank, const Case& test);

}  // namespace accelerate::ranks_test
