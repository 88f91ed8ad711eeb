#include "tests/ranks/shm_case.h"

#include <cmath>
#include <cstring>
#include <sstream>
#include <vector>

namespace accelerate::ranks_test {
namespace {

using c10d::OpType;
using c10d::ReduceOp;
using Tensors = std::vector<at::Tensor>;

// What ranks have, without a random generator, which would take longer than the exchange: integers from -9 to 9, and
// for floating point those with fractions that need rounding, and sometimes a NaN.
at::Tensor values(const Case& test, int64_t salt, int64_t elements) {
  const at::Tensor index = at::arange(elements, at::kLong) + (test.seed * 7919 + salt * 104'729);
  const at::Tensor numbers = index.remainder(1009).mul_(17).remainder_(19).sub_(9);
  if (test.dtype == at::kBool) return numbers > 0;
  if (at::isIntegralType(test.dtype, false)) {
    const bool is_signed = c10::isSignedType(test.dtype);
    return (is_signed ? numbers * 13 : numbers.abs() * 27).to(test.dtype);
  }
  at::Tensor real = numbers.to(at::kDouble) / 2 + index.remainder(97).to(at::kDouble) / 388;
  if (at::isComplexType(test.dtype)) {
    return at::complex(real, index.remainder(89).to(at::kDouble) / 44.5 - 1).to(test.dtype);
  }
  if (test.seed % 5 == 0 && elements > 3) real[elements / 2] = NAN;
  return real.to(test.dtype);
}

// The same elements in the memory layout under test.
at::Tensor laid_out(const at::Tensor& plain, Shape shape) {
  const int64_t n = plain.numel();
  switch (shape) {
    case Shape::kPlain:
      return plain.clone();
    case Shape::kTransposed: {
      const int64_t rows = n % 3 == 0 ? 3 : 1;
      at::Tensor result = at::empty({n / rows, rows}, plain.options()).t();
      return result.copy_(plain.view({rows, n / rows}));
    }
    case Shape::kEverySecond: {
      const at::Tensor whole = at::zeros({2 * n + 1}, plain.options());
      at::Tensor result = whole.slice(0, 1, 2 * n + 1, 2);
      return result.copy_(plain);
    }
    case Shape::kOffset: {
      const at::Tensor whole = at::zeros({n + 1}, plain.options());
      at::Tensor result = whole.slice(0, 1);
      return result.copy_(plain);
    }
  }
  return plain;
}

at::ScalarType accumulator(at::ScalarType dtype) {
  if (at::isIntegralType(dtype, true)) return at::kLong;
  return at::isReducedFloatingType(dtype) ? at::kFloat : dtype;
}

// In the order of the ranks, in the type that the transport accumulates in.
at::Tensor reduced(const Case& test, const Tensors& inputs) {
  at::Tensor sum = inputs[0].to(accumulator(test.dtype));
  for (size_t i = 1; i < inputs.size(); ++i) {
    const at::Tensor next = inputs[i].to(accumulator(test.dtype));
    switch (test.reduction) {
      case ReduceOp::PRODUCT:
        sum = sum * next;
        break;
      case ReduceOp::MIN:
        sum = at::minimum(sum, next);
        break;
      case ReduceOp::MAX:
        sum = at::maximum(sum, next);
        break;
      case ReduceOp::BAND:
        sum = at::bitwise_and(sum, next);
        break;
      case ReduceOp::BOR:
        sum = at::bitwise_or(sum, next);
        break;
      case ReduceOp::BXOR:
        sum = at::bitwise_xor(sum, next);
        break;
      default:
        sum = sum + next;
    }
  }
  if (test.reduction == ReduceOp::AVG) sum = sum / static_cast<double>(inputs.size());
  return sum.to(test.dtype);
}

std::string compare(const Case& test, const std::string& what, const at::Tensor& got, const at::Tensor& expected) {
  const at::Tensor a = got.contiguous().view({-1}), b = expected.contiguous().view({-1});
  const bool moved = !is_reduction(test.operation);
  bool equal = false;
  if (a.numel() == b.numel() && (moved || !at::isFloatingType(test.dtype))) {
    const bool close = test.reduction == ReduceOp::PRODUCT || test.reduction == ReduceOp::AVG;
    if (at::isComplexType(test.dtype) && !moved && close) {
      equal = at::allclose(a, b, 1e-5, 1e-5);
    } else {
      equal = a.nbytes() == 0 || std::memcmp(a.const_data_ptr(), b.const_data_ptr(), a.nbytes()) == 0;
    }
  } else if (a.numel() == b.numel()) {
    equal = at::allclose(a.to(at::kDouble), b.to(at::kDouble), 0, 0, /*equal_nan=*/true);
  }
  if (equal) return {};
  std::ostringstream text;
  text << test << ": " << what << " differs";
  if (a.numel() <= 16) text << ": got " << a.to(at::kDouble) << ", expected " << b.to(at::kDouble);
  return text.str();
}

std::string compare(const Case& test, const std::string& what, const Tensors& got, const Tensors& expected) {
  for (size_t i = 0; i < expected.size(); ++i) {
    const std::string text = compare(test, what + " " + std::to_string(i), got.at(i), expected[i]);
    if (!text.empty()) return text;
  }
  return {};
}

Tensors empty_parts(const Case& test, int count) {
  Tensors parts;
  for (int i = 0; i < count; ++i) {
    parts.push_back(laid_out(at::zeros({test.elements}, at::kByte).to(test.dtype), test.shape));
  }
  return parts;
}

// Tensors of other sizes and dtypes around the one under test, and one that stands in its own result.
std::string list_of_tensors(const Case& test, c10d::Backend& backend, const at::Tensor& own) {
  const int rank = backend.getRank(), size = backend.getSize();
  const Case bytes{.dtype = at::kByte, .elements = 3, .seed = test.seed};
  Tensors expected(3), parts;
  for (int i = 0; i < size; ++i) {
    const Tensors theirs{values(bytes, i, 3), values(test, i, test.elements), values(test, 30 + i, 5)};
    for (size_t k = 0; k < theirs.size(); ++k) {
      expected[k] = i == 0 ? theirs[k] : at::cat({expected[k], theirs[k]});
    }
  }
  Tensors outputs;
  for (const at::Tensor& all : expected) outputs.push_back(laid_out(at::zeros_like(all), test.shape));
  const at::Tensor in_place = outputs[2].reshape({-1});
  Tensors inputs{values(bytes, rank, 3), own, in_place.narrow(0, 5 * rank, 5)};
  inputs[2].copy_(values(test, 30 + rank, 5));
  const auto work = backend.allgather_into_tensor_coalesced(outputs, inputs);
  work->wait();
  if (!work->result().at(1).is_same(outputs[1])) return "the result is another tensor";
  return compare(test, "list", outputs, expected);
}

}  // namespace

std::ostream& operator<<(std::ostream& out, const Case& test) {
  return out << c10d::opTypeToString(test.operation) << " reduction " << static_cast<int>(test.reduction) << " of "
             << test.elements << " " << test.dtype << ", root " << test.root << ", layout "
             << static_cast<int>(test.shape) << ", seed " << test.seed;
}

bool promised(at::ScalarType dtype, ReduceOp::RedOpType reduction) {
  const bool integral = at::isIntegralType(dtype, true), complex = at::isComplexType(dtype);
  if (at::isFloat8Type(dtype)) return false;
  switch (reduction) {
    case ReduceOp::SUM:
    case ReduceOp::PRODUCT:
      return true;
    case ReduceOp::AVG:
      return !integral;
    case ReduceOp::MIN:
    case ReduceOp::MAX:
      return !complex;
    default:
      return integral && reduction < ReduceOp::PREMUL_SUM;
  }
}

bool is_reduction(OpType operation) {
  return operation == OpType::ALLREDUCE || operation == OpType::ALLREDUCE_COALESCED || operation == OpType::REDUCE ||
         operation == OpType::REDUCE_SCATTER || operation == OpType::_REDUCE_SCATTER_BASE;
}

std::string check_case(c10d::Backend& backend, int rank, const Case& test) {
  const int size = backend.getSize();
  Tensors inputs;  // of each rank
  for (int i = 0; i < size; ++i) inputs.push_back(values(test, i, test.elements));
  const auto part_of = [&](int from, int to) { return values(test, 100 + from * size + to, test.elements); };
  const auto run = [](const c10::intrusive_ptr<c10d::Work>& work) { work->wait(); };
  const at::Tensor own = laid_out(inputs[rank], test.shape);

  switch (test.operation) {
    case OpType::ALLREDUCE: {
      Tensors tensors{own};
      const auto work = backend.allreduce(tensors, {.reduceOp = test.reduction});
      work->wait();
      if (!work->isCompleted() || !work->getFuture()->completed()) return "the work is not complete";
      if (!work->result().at(0).is_same(own)) return "the result is another tensor";
      if (!work->getFuture()->value().toTensorVector().at(0).is_same(own)) return "the future has another tensor";
      return compare(test, "result", own, reduced(test, inputs));
    }
    case OpType::ALLREDUCE_COALESCED: {
      Tensors tensors{own, laid_out(inputs[rank].slice(0, 0, test.elements / 2), test.shape),
                      values(test, 50 + rank, 7)};
      c10d::AllreduceCoalescedOptions options;
      options.reduceOp = test.reduction;
      run(backend.allreduce_coalesced(tensors, options));
      Tensors sevens;
      for (int i = 0; i < size; ++i) sevens.push_back(values(test, 50 + i, 7));
      const at::Tensor whole = reduced(test, inputs);
      return compare(test, "tensor", tensors, {whole, whole.slice(0, 0, test.elements / 2), reduced(test, sevens)});
    }
    case OpType::REDUCE: {
      Tensors tensors{own};
      run(backend.reduce(tensors, {.reduceOp = test.reduction, .rootRank = test.root}));
      return compare(test, "result", own, rank == test.root ? reduced(test, inputs) : inputs[rank]);
    }
    case OpType::BROADCAST: {
      Tensors tensors{own};
      run(backend.broadcast(tensors, {.rootRank = test.root}));
      return compare(test, "result", own, inputs[test.root]);
    }
    case OpType::ALLGATHER: {
      std::vector<Tensors> outputs{empty_parts(test, size)};
      Tensors tensors{own};
      run(backend.allgather(outputs, tensors));
      return compare(test, "rank", outputs[0], inputs);
    }
    case OpType::ALLGATHER_COALESCED: {
      std::vector<Tensors> outputs;
      for (int i = 0; i < size; ++i) outputs.push_back(empty_parts(test, 2));
      Tensors tensors{own, part_of(rank, 0)};
      run(backend.allgather_coalesced(outputs, tensors));
      for (int i = 0; i < size; ++i) {
        const auto text = compare(test, "rank " + std::to_string(i), outputs[i], {inputs[i], part_of(i, 0)});
        if (!text.empty()) return text;
      }
      return list_of_tensors(test, backend, own);
    }
    case OpType::_ALLGATHER_BASE: {
      at::Tensor output = at::cat(empty_parts({.dtype = test.dtype, .elements = test.elements}, size));
      at::Tensor input = own;
      if (test.shape == Shape::kOffset && test.elements > 0) {  // in place
        input = output.narrow(0, rank * test.elements, test.elements).copy_(inputs[rank]);
      }
      run(backend._allgather_base(output, input));
      return compare(test, "result", output, at::cat(inputs));
    }
    case OpType::GATHER: {
      std::vector<Tensors> outputs;
      if (rank == test.root) outputs.push_back(empty_parts(test, size));
      Tensors tensors{own};
      run(backend.gather(outputs, tensors, {.rootRank = test.root}));
      return rank == test.root ? compare(test, "rank", outputs[0], inputs) : "";
    }
    case OpType::SCATTER: {
      std::vector<Tensors> parts(rank == test.root ? 1 : 0);
      for (int i = 0; rank == test.root && i < size; ++i) parts[0].push_back(laid_out(part_of(rank, i), test.shape));
      Tensors outputs = empty_parts(test, 1);
      run(backend.scatter(outputs, parts, {.rootRank = test.root}));
      return compare(test, "result", outputs[0], part_of(test.root, rank));
    }
    case OpType::REDUCE_SCATTER:
    case OpType::_REDUCE_SCATTER_BASE: {
      Tensors parts, mine;
      for (int i = 0; i < size; ++i) {
        parts.push_back(laid_out(part_of(rank, i), test.shape));
        mine.push_back(part_of(i, rank));
      }
      Tensors outputs = empty_parts(test, 1);
      if (test.operation == OpType::REDUCE_SCATTER) {
        std::vector<Tensors> list{parts};
        run(backend.reduce_scatter(outputs, list, {.reduceOp = test.reduction}));
      } else {
        for (at::Tensor& part : parts) part = part.reshape({-1});
        at::Tensor input = at::cat(parts);
        if (test.shape == Shape::kOffset)
          outputs[0] = input.narrow(0, rank * test.elements, test.elements);  // in place
        run(backend._reduce_scatter_base(outputs[0], input, {.reduceOp = test.reduction}));
      }
      return compare(test, "result", outputs[0], reduced(test, mine));
    }
    case OpType::ALLTOALL: {
      Tensors outputs = empty_parts(test, size), parts, expected;
      for (int i = 0; i < size; ++i) {
        parts.push_back(laid_out(part_of(rank, i), test.shape));
        expected.push_back(part_of(i, rank));
      }
      run(backend.alltoall(outputs, parts));
      return compare(test, "from rank", outputs, expected);
    }
    case OpType::ALLTOALL_BASE: {  // rank a sends a + b rows to rank b, in the last elements nothing
      const int64_t row = std::max<int64_t>(1, test.elements / (2 * size));
      const auto piece = [&](int from, int to) { return values(test, 200 + from * size + to, (from + to) * row); };
      Tensors sent, expected;
      std::vector<int64_t> input_splits, output_splits;
      for (int i = 0; i < size; ++i) {
        sent.push_back(piece(rank, i));
        expected.push_back(piece(i, rank));
        input_splits.push_back(rank + i);
        output_splits.push_back(rank + i);
      }
      at::Tensor input = at::cat(sent).view({-1, row});
      at::Tensor output = at::zeros_like(input);
      run(backend.alltoall_base(output, input, output_splits, input_splits));
      return compare(test, "result", output, at::cat(expected));
    }
    case OpType::BARRIER:
      run(backend.barrier());
      return {};
    default:
      return "no such case";
  }
}

}  // namespace accelerate::ranks_test
