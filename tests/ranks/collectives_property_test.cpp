// Collectives of random values, against the same computed in one process from every rank's value: random structures,
// dtypes, shapes, strides, ranks and transports.
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>
#include <torch/torch.h>

#include <algorithm>
#include <map>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "accelerate/accelerate.h"
#include "accelerate/testing/ranks.h"
#include "tests/support/tensors.h"

namespace {

using accelerate::Accelerator;
using accelerate::support::same_bytes;
using accelerate::testing::Rank;
using accelerate::testing::run_ranks;
using Sizes = std::vector<int64_t>;

/// Every level that a structure can have.
struct Tree {
  at::Tensor first;
  std::vector<at::Tensor> list;
  std::map<std::string, std::tuple<at::Tensor, std::optional<at::Tensor>>> named;
  torch::data::Example<> example;
  int64_t number = 0;
};

/// What is the same on every rank.
struct TensorForm {
  Sizes shape;
  at::ScalarType dtype = at::kFloat;
  bool transposed = false;
};
struct TreeForm {
  std::vector<TensorForm> forms;  ///< in the order of the tensors
  size_t list = 0;
  std::vector<std::pair<std::string, bool>> named;  ///< and whether the optional is there
};

constexpr at::ScalarType kDtypes[] = {
    at::kFloat, at::kDouble, at::kHalf, at::kBFloat16,     at::kChar,          at::kByte,          at::kShort,
    at::kInt,   at::kLong,   at::kBool, at::kComplexFloat, at::kComplexDouble, at::kFloat8_e4m3fn, at::kFloat8_e5m2};

rc::Gen<TensorForm> any_form(int64_t least_dims) {
  return rc::gen::map(
      rc::gen::tuple(rc::gen::inRange<int64_t>(least_dims, 4),
                     rc::gen::container<Sizes>(
                         3, rc::gen::weightedElement<int64_t>({{1, 0}, {4, 1}, {6, 2}, {6, 3}, {2, 7}, {1, 130}})),
                     rc::gen::elementOf(std::vector<at::ScalarType>(std::begin(kDtypes), std::end(kDtypes))),
                     rc::gen::arbitrary<bool>()),
      [](std::tuple<int64_t, Sizes, at::ScalarType, bool> drawn) {
        auto [dims, shape, dtype, transposed] = std::move(drawn);
        shape.resize(static_cast<size_t>(dims));
        return TensorForm{.shape = std::move(shape), .dtype = dtype, .transposed = transposed};
      });
}

TreeForm any_tree(int64_t least_dims) {
  TreeForm form;
  form.list = *rc::gen::inRange<size_t>(0, 4);
  for (const char* name : {"a", "b", "c"}) {
    if (*rc::gen::arbitrary<bool>()) form.named.emplace_back(name, *rc::gen::arbitrary<bool>());
  }
  size_t tensors = 3 + form.list;
  for (const auto& [name, has] : form.named) tensors += has ? 2 : 1;
  form.forms = *rc::gen::container<std::vector<TensorForm>>(tensors, any_form(least_dims));
  return form;
}

/// Small whole numbers, which sums of few ranks hold exactly in every dtype.
at::Tensor numbers(const TensorForm& form, int64_t rank, size_t which) {
  Sizes shape = form.shape;
  if (form.transposed) std::reverse(shape.begin(), shape.end());
  const int64_t count = c10::multiply_integers(shape);
  at::Tensor made = ((torch::arange(count) * 5 + 3 * rank + static_cast<int64_t>(which)) % 4).view(shape);
  made = made.to(form.dtype);
  if (!form.transposed) return made;
  Sizes backwards;
  for (int64_t dim = made.dim() - 1; dim >= 0; --dim) backwards.push_back(dim);
  return made.permute(backwards);
}

Tree tree_of(const TreeForm& form, int64_t rank) {
  size_t which = 0;
  const auto next = [&] {
    const size_t own = which++;
    return numbers(form.forms.at(own), rank, own);
  };
  Tree tree;
  tree.first = next();
  for (size_t i = 0; i < form.list; ++i) tree.list.push_back(next());
  for (const auto& [name, has] : form.named) {
    const at::Tensor required = next();
    tree.named[name] = {required, has ? std::optional(next()) : std::nullopt};
  }
  tree.example.data = next();
  tree.example.target = next();
  tree.number = rank;
  return tree;
}

std::vector<at::Tensor> list_of(Tree tree) {
  std::vector<at::Tensor> list;
  for (const at::Tensor* tensor : accelerate::internal::tensors_of(tree)) list.push_back(*tensor);
  return list;
}

/// Tensor `which` of every rank.
std::vector<at::Tensor> column(const TreeForm& form, int64_t ranks, size_t which) {
  std::vector<at::Tensor> column;
  for (int64_t rank = 0; rank < ranks; ++rank) column.push_back(numbers(form.forms[which], rank, which));
  return column;
}

/// Concatenation by bytes where LibTorch has none.
at::Tensor joined(std::vector<at::Tensor> parts) {
  const at::ScalarType dtype = parts.front().scalar_type();
  for (at::Tensor& part : parts) {
    part = part.contiguous();
    if (part.dim() == 0) part = part.view({1});
    if (c10::isFloat8Type(dtype)) part = part.view(at::kByte);
  }
  const at::Tensor all = torch::cat(parts);
  return c10::isFloat8Type(dtype) ? all.view(dtype) : all;
}

struct Setting {
  int64_t ranks = 2;
  std::string backend;
};

Setting any_setting() {
  return {.ranks = *rc::gen::element<int64_t>(1, 2, 4), .backend = *rc::gen::element<std::string>("gloo", "shm")};
}

/// Every rank's result as a list of tensors, compared with `expected(which)`.
template <class Verb, class Expected>
void check(const TreeForm& form, const Setting& setting, const Verb& verb, const Expected& expected) {
  std::vector<std::vector<at::Tensor>> results(static_cast<size_t>(setting.ranks));
  std::vector<int64_t> kept(static_cast<size_t>(setting.ranks));
  run_ranks(setting.ranks,
            [&](const Rank& rank) {
              const Accelerator accelerator(rank.options());
              const auto index = static_cast<size_t>(rank.rank());
              const Tree result = verb(accelerator, tree_of(form, rank.rank()));
              kept[index] = result.number;
              results[index] = list_of(result);
            },
            {.backend = setting.backend});
  for (size_t rank = 0; rank < results.size(); ++rank) {
    RC_ASSERT(kept[rank] == static_cast<int64_t>(rank));
    RC_ASSERT(results[rank].size() == form.forms.size());
    for (size_t which = 0; which < form.forms.size(); ++which) {
      const auto same = same_bytes(results[rank][which], expected(which, static_cast<int64_t>(rank)));
      RC_LOG() << "tensor " << which << " on rank " << rank << ": " << same.message() << "\n";
      RC_ASSERT(static_cast<bool>(same));
    }
  }
}

RC_GTEST_PROP(CollectivesOfRandomTrees, GatherJoinsAlongTheFirstDimension, ()) {
  const Setting setting = any_setting();
  const TreeForm form = any_tree(0);
  check(
      form, setting, [](const Accelerator& accelerator, const Tree& tree) { return accelerator.gather(tree); },
      [&](size_t which, int64_t) {
        const auto parts = column(form, setting.ranks, which);
        return setting.ranks == 1 ? parts.front() : joined(parts);
      });
}

RC_GTEST_PROP(CollectivesOfRandomTrees, BroadcastGivesOneRanksValues, ()) {
  const Setting setting = any_setting();
  const TreeForm form = any_tree(0);
  const int64_t from = *rc::gen::inRange<int64_t>(0, setting.ranks);
  check(
      form, setting,
      [&](const Accelerator& accelerator, const Tree& tree) { return accelerator.broadcast(tree, from); },
      [&](size_t which, int64_t) { return numbers(form.forms[which], from, which); });
}

RC_GTEST_PROP(CollectivesOfRandomTrees, ReduceCombinesElementByElement, ()) {
  const Setting setting = any_setting();
  const TreeForm form = any_tree(0);
  const auto reduction = *rc::gen::element<std::string>("sum", "max", "none");
  const auto whole = [](const TensorForm& one) { return at::isComplexType(one.dtype); };
  if (reduction == "max") RC_PRE(std::ranges::none_of(form.forms, whole));
  check(
      form, setting,
      [&](const Accelerator& accelerator, const Tree& tree) {
        return accelerator.reduce(tree, {.reduction = reduction});
      },
      [&](size_t which, int64_t rank) {
        std::vector<at::Tensor> wide;
        const at::ScalarType dtype = form.forms[which].dtype;
        for (const at::Tensor& part : column(form, setting.ranks, which)) {
          wide.push_back(at::isComplexType(dtype) ? part.to(at::kComplexDouble) : part.to(at::kDouble));
        }
        if (reduction == "none") return wide[static_cast<size_t>(rank)].to(dtype);
        const at::Tensor stacked = torch::stack(wide);
        return (reduction == "sum" ? stacked.sum(0) : stacked.amax(0)).to(dtype);
      });
}

RC_GTEST_PROP(CollectivesOfRandomTrees, PaddingReachesTheLongestRank, ()) {
  const Setting setting = any_setting();
  const TreeForm form = any_tree(0);
  const int64_t dim = *rc::gen::inRange<int64_t>(-4, 4);
  const bool first = *rc::gen::arbitrary<bool>();
  const std::vector<int64_t> lengths =
      *rc::gen::container<std::vector<int64_t>>(static_cast<size_t>(setting.ranks), rc::gen::inRange<int64_t>(0, 4));
  const int64_t longest = *std::ranges::max_element(lengths);
  // Each rank has its own length along `dim` where there is one.
  const auto own = [&](size_t which, int64_t rank) {
    TensorForm one = form.forms[which];
    const auto dims = static_cast<int64_t>(one.shape.size());
    if (dim >= -dims && dim < dims) {
      one.shape[static_cast<size_t>(dim < 0 ? dim + dims : dim)] = lengths[static_cast<size_t>(rank)];
    }
    return numbers(one, rank, which);
  };
  check(
      form, setting,
      [&](const Accelerator& accelerator, Tree tree) {
        size_t which = 0;
        for (at::Tensor* tensor : accelerate::internal::tensors_of(tree)) {
          *tensor = own(which++, accelerator.process_index());
        }
        return accelerator.pad_across_processes(tree, {.dim = dim, .pad_index = 1, .pad_first = first});
      },
      [&](size_t which, int64_t rank) {
        const at::Tensor part = own(which, rank);
        if (dim < -part.dim() || dim >= part.dim()) return part;
        Sizes shape = part.sizes().vec();
        shape[static_cast<size_t>(dim < 0 ? dim + part.dim() : dim)] = longest;
        const auto wide = at::isComplexType(part.scalar_type()) ? at::kComplexDouble : at::kDouble;
        at::Tensor expected = torch::ones(shape, wide);
        const int64_t begin = first ? longest - part.size(dim) : 0;
        expected.narrow(dim, begin, part.size(dim)).copy_(part.to(wide));
        return expected.to(part.scalar_type());
      });
}

// What one process computes from all values is what every process gets: gather is concatenate, a slice of it the own
// part.
RC_GTEST_PROP(CollectivesOfRandomTrees, GatherIsConcatenateAndASliceOfItIsTheOwnPart, ()) {
  const Setting setting = any_setting();
  using Batch = std::map<std::string, std::vector<at::Tensor>>;
  const auto rows = *rc::gen::inRange<int64_t>(0, 5);
  const auto forms = *rc::gen::container<std::vector<TensorForm>>(3, any_form(1));
  const auto batch_of = [&](int64_t rank) {
    Batch batch;
    for (size_t which = 0; which < forms.size(); ++which) {
      TensorForm one = forms[which];
      one.shape[0] = rows;
      if (c10::isFloat8Type(one.dtype)) one.dtype = at::kHalf;  // at::cat does not take all of them
      batch[which == 0 ? "x" : "y"].push_back(numbers(one, rank, which));
    }
    return batch;
  };
  std::vector<Batch> all;
  for (int64_t rank = 0; rank < setting.ranks; ++rank) all.push_back(batch_of(rank));
  const Batch expected = accelerate::concatenate(all);
  RC_ASSERT(accelerate::find_batch_size(expected) == rows * setting.ranks);
  run_ranks(setting.ranks,
            [&](const Rank& rank) {
              const Accelerator accelerator(rank.options());
              const Batch gathered = accelerator.gather(batch_of(rank.rank()));
              const Batch mine =
                  accelerate::slice_tensors(gathered, {.start = rank.rank() * rows, .stop = (rank.rank() + 1) * rows});
              for (const auto& [key, list] : expected) {
                for (size_t i = 0; i < list.size(); ++i) {
                  EXPECT_TRUE(same_bytes(gathered.at(key)[i], list[i]));
                  EXPECT_TRUE(same_bytes(mine.at(key)[i], batch_of(rank.rank()).at(key)[i]));
                }
              }
            },
            {.backend = setting.backend});
}

}  // namespace
