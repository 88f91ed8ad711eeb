#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

#include "accelerate/tensor/parameters.h"

namespace accelerate {

/// A tensor to save or to load into, in global coordinates: what it is as a whole and which part of it is here.
struct ShardedTensor {
  std::string name;
  std::vector<int64_t> global_shape;
  Range held;        ///< elements of the flattened global tensor
  at::Tensor local;  ///< the held elements; with a full range, the tensor itself
};

/// Takes what an object saves. Entries may be declared in any order; a name is declared once.
class StateWriter {
 public:
  virtual ~StateWriter() = default;
  virtual void write(const ShardedTensor& tensor) = 0;
};

/// Gives back what was saved. An implementation validates everything it was asked for before it changes any tensor.
class StateReader {
 public:
  virtual ~StateReader() = default;
  /// Asks for `tensor.local` to be filled; the values are there once the whole load has finished.
  virtual void read(const ShardedTensor& tensor) = 0;
};

/// Something with a state of its own that belongs to a checkpoint: it names its tensors, whoever stores them moves the
/// bytes. What `save` wrote, `load` of an object built alike asks for, under the same names.
/// Source: the objects with `state_dict` and `load_state_dict` that `Accelerator.register_for_checkpointing` takes.
class Stateful {
 public:
  virtual ~Stateful() = default;
  virtual void save(StateWriter& writer) const = 0;
  /// The values are there once the whole load has finished.
  virtual void load(StateReader& reader) = 0;

 protected:
  Stateful() = default;
  Stateful(const Stateful&) = default;
  Stateful(Stateful&&) = default;
  Stateful& operator=(const Stateful&) = default;
  Stateful& operator=(Stateful&&) = default;
};

}  // namespace accelerate
