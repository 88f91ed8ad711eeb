#pragma once

#include <torch/torch.h>

#include <algorithm>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

namespace by_feature {

/// Rows to train on and rows to check with.
struct Fold {
  std::vector<int64_t> train_idxs, valid_idxs;
};

/// Folds that each have every class as often as the whole, within one sample. Every row is checked with in one fold.
/// Source: `sklearn.model_selection.StratifiedKFold` without shuffling.
class StratifiedKFold {
 public:
  explicit StratifiedKFold(int64_t n_splits) : n_splits_(n_splits) {
    if (n_splits < 2) throw std::invalid_argument("n_splits = " + std::to_string(n_splits) + ", expected at least 2");
  }

  /// `labels`: (n) int64.
  std::vector<Fold> split(const at::Tensor& labels) const {
    // Classes count in the order in which they first come.
    std::map<int64_t, size_t> known;
    std::vector<std::vector<int64_t>> members;
    for (int64_t row = 0; row < labels.size(0); ++row) {
      const size_t k = known.emplace(labels[row].item<int64_t>(), members.size()).first->second;
      if (k == members.size()) members.emplace_back();
      members[k].push_back(row);
    }
    size_t most = 0;
    for (const auto& rows : members) most = std::max(most, rows.size());
    if (n_splits_ > static_cast<int64_t>(most)) {
      throw std::invalid_argument("n_splits = " + std::to_string(n_splits_) + ", expected at most " +
                                  std::to_string(most) + ", the members of the largest class");
    }
    // The labels, sorted, are dealt out like cards: of each class a fold has as many as it is dealt.
    std::vector<Fold> folds(static_cast<size_t>(n_splits_));
    size_t card = 0;
    for (const auto& rows : members) {
      std::vector<size_t> share(folds.size());
      for (size_t i = 0; i < rows.size(); ++i) ++share[card++ % folds.size()];
      auto next = rows.begin();
      for (size_t fold = 0; fold < folds.size(); ++fold) {
        for (size_t i = 0; i < share[fold]; ++i, ++next) {
          for (size_t other = 0; other < folds.size(); ++other) {
            (other == fold ? folds[other].valid_idxs : folds[other].train_idxs).push_back(*next);
          }
        }
      }
    }
    for (Fold& fold : folds) {
      std::sort(fold.train_idxs.begin(), fold.train_idxs.end());
      std::sort(fold.valid_idxs.begin(), fold.valid_idxs.end());
    }
    return folds;
  }

 private:
  int64_t n_splits_;
};

}  // namespace by_feature
