#pragma once

#include <chrono>
#include <functional>
#include <optional>
#include <string>
#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <vector>

#include "accelerate/comm/backend.h"

namespace accelerate::ranks_test {

using BackendPtr = c10::intrusive_ptr<c10d::Backend>;

/// What a test runs on every rank. It returns what it found wrong, or nothing; exceptions become `[thrown] <text>`.
using RankFunction = std::function<std::string(c10d::Backend& backend, int rank)>;

struct RankSetting {
  std::chrono::milliseconds timeout = std::chrono::seconds(30);
  std::function<std::optional<std::string>()> lost = {};
};

/// The entry of the plug-in folder.
const internal::BackendEntry& shm_entry();

/// Ranks as threads of this process over a store in memory; what each returned.
std::vector<std::string> run_threads(int ranks, const RankFunction& function, const RankSetting& setting = {});

struct Ended {
  std::string text;  ///< what the function returned; empty after a signal
  int signal = 0;    ///< that ended the process
};

/// Ranks as forked processes over a store in a file. A rank that stopped itself counts as not ended: it is killed when
/// all others have ended.
std::vector<Ended> run_processes(int ranks, const RankFunction& function, const RankSetting& setting = {});

}  // namespace accelerate::ranks_test
