#pragma once

#include <c10/core/Device.h>
#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/Store.hpp>

#include <chrono>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace accelerate::internal {

/// What a transport may use while it connects the ranks of one group.
struct BackendContext {
  c10::intrusive_ptr<c10d::Store> store;  ///< keys of this group and transport alone
  int rank = 0;
  int size = 1;
  std::chrono::milliseconds timeout{};  ///< of one collective
  c10::Device device;                   ///< of this rank
  std::string group;                    ///< its name, the same on every rank
  /// The text about a lost rank once one is known; cheap and thread-safe. What blocks for long polls it every 50 ms.
  std::function<std::optional<std::string>()> lost;
};

/// A connected transport, or the reason why it does not work here. All ranks get the same kind of answer.
struct MadeBackend {
  c10::intrusive_ptr<c10d::Backend> backend = {};
  std::string refusal = {};
};

/// One transport: the plug-in folder `comm/backends`.
struct BackendEntry {
  std::string name;
  int preference = 0;  ///< of those that connect the highest is used
  c10::DeviceType device_type;
  /// Reached by every rank of the group. Throws CommError when ranks do not answer.
  std::function<MadeBackend(const BackendContext& context)> make;
  /// Ranks that call different things, or with tensors of different sizes, get errors that say so. Where they do not,
  /// verbs for CPU tensors compare shapes first.
  bool compares_calls = false;
  /// A list of tensors is gathered as fast as one of as many bytes, so that nobody has to pack it.
  bool gathers_lists = false;
};

std::vector<BackendEntry> builtin_backends();

}  // namespace accelerate::internal
