#include "accelerate/comm/collectives.h"

#include <ATen/ATen.h>
#include <ATen/DimVector.h>
#include <ATen/EmptyTensor.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <optional>
#include <sstream>
#include <utility>
#include <vector>

#include "accelerate/comm/group_core.h"
#include "accelerate/comm/objects.h"
#include "accelerate/core/error.h"

namespace accelerate::internal {
namespace {

std::vector<at::Tensor*> defined(TensorList tensors) {
  std::vector<at::Tensor*> kept;
  kept.reserve(tensors.size());
  for (at::Tensor* tensor : tensors) {
    if (tensor->defined()) kept.push_back(tensor);
  }
  return kept;
}

std::string describe(TensorList tensors) {
  std::ostringstream out;
  const char* separator = "";
  for (const at::Tensor* tensor : tensors) {
    out << separator;
    separator = ", ";
    if (tensor->defined()) {
      out << tensor->sizes() << " " << tensor->scalar_type();
    } else {
      out << "undefined";
    }
  }
  return out.str();
}

// FNV-1a over what has to be the same on every rank.
int64_t fingerprint(const std::vector<at::Tensor>& tensors) {
  uint64_t hash = 0xcbf29ce484222325;
  const auto add = [&](int64_t number) { hash = (hash ^ static_cast<uint64_t>(number)) * 0x100000001b3; };
  for (const at::Tensor& tensor : tensors) {
    add(static_cast<int64_t>(tensor.scalar_type()));
    if (!tensor.defined()) continue;
    add(tensor.dim());
    for (const int64_t size : tensor.sizes()) add(size);
  }
  return static_cast<int64_t>(hash);
}

template <class T>
bool all_equal(const std::vector<T>& values) {
  return std::ranges::all_of(values, [&](const T& value) { return value == values.front(); });
}

/// Tensors in one buffer of bytes, each at a place where every dtype may start.
class Packing {
 public:
  int64_t add(size_t bytes) {
    const int64_t offset = size_;
    constexpr int64_t kAlignment = 16;
    size_ += (static_cast<int64_t>(bytes) + kAlignment - 1) / kAlignment * kAlignment;
    return offset;
  }
  int64_t size() const { return size_; }

  static at::Tensor bytes_of(const at::Tensor& contiguous) { return contiguous.view({-1}).view(at::kByte); }
  /// Both contiguous. The host's own memory is copied without LibTorch's cost of a call.
  static void copy(const at::Tensor& from, int64_t from_offset, const at::Tensor& to, int64_t to_offset,
                   int64_t bytes) {
    if (bytes == 0) return;
    if (from.is_cpu() && to.is_cpu()) {
      std::memcpy(static_cast<char*>(to.mutable_data_ptr()) + to_offset,
                  static_cast<const char*>(from.const_data_ptr()) + from_offset, static_cast<size_t>(bytes));
    } else {
      bytes_of(to).narrow(0, to_offset, bytes).copy_(bytes_of(from).narrow(0, from_offset, bytes));
    }
  }

 private:
  int64_t size_ = 0;
};

/// Like `at::empty`, which costs as much as the exchange of a small tensor when it is called for each of many.
at::Tensor empty(at::IntArrayRef shape, const at::Tensor& like) {
  if (!like.is_cpu()) return at::empty(shape, like.options());
  return at::Tensor(at::detail::empty_cpu(shape, like.scalar_type()));
}

/// The gather of one value's tensors on one device: as a list where the transport takes one, else the small ones
/// packed.
class Gathering {
 public:
  Gathering(const Group& group, std::vector<at::Tensor*> tensors) : group_(group), tensors_(std::move(tensors)) {
    own_.reserve(tensors_.size());
    for (const at::Tensor* tensor : tensors_) {
      at::Tensor own = (tensor->requires_grad() ? tensor->detach() : *tensor).contiguous();
      if (own.is_conj() || own.is_neg()) own = own.resolve_conj().resolve_neg();  // its bytes are not its values
      own_.push_back(own.dim() == 0 ? own.view({1}) : std::move(own));
    }
    // Only the host can compare it, and would have to wait for a GPU.
    if (own_.front().is_cpu()) header_ = fingerprint(own_);
  }

  void start() {
    all_.reserve(own_.size());
    for (const at::Tensor& own : own_) all_.push_back(empty_for_all(own));
    header_&& group_.core()->gathers_lists() ? start_list() : start_packed();
  }

  void finish() {
    if (!works_.empty()) works_.front().wait();
    if (header_) require_equal_headers();
    for (size_t i = 0; i < offsets_.size(); ++i) {
      if (offsets_[i] == kApart) continue;
      const auto bytes = static_cast<int64_t>(own_[i].nbytes());
      for (int64_t rank = 0; rank < group_.size(); ++rank) {
        Packing::copy(packed_all_, rank * packing_.size() + offsets_[i], all_[i], rank * bytes, bytes);
      }
    }
    for (Work& work : works_) work.wait();
    for (size_t i = 0; i < tensors_.size(); ++i) *tensors_[i] = std::move(all_[i]);
  }

 private:
  static constexpr int64_t kApart = -1;
  static bool is_large(const at::Tensor& tensor) { return tensor.nbytes() >= 128 * 1024; }

  at::Tensor empty_for_all(const at::Tensor& own) const {
    at::DimVector shape(own.sizes());
    shape[0] *= group_.size();
    return empty(shape, own);
  }

  void start_list() {
    packing_.add(sizeof *header_);
    make_packed();
    std::vector<at::Tensor> all(all_);
    all.push_back(packed_all_);
    own_.push_back(packed_);
    works_.push_back(group_.all_gather_into(std::move(all), std::move(own_)));
  }

  void start_packed() {
    if (header_) packing_.add(sizeof *header_);
    for (const at::Tensor& own : own_) offsets_.push_back(is_large(own) ? kApart : packing_.add(own.nbytes()));
    make_packed();
    for (size_t i = 0; i < own_.size(); ++i) {
      if (offsets_[i] == kApart) continue;
      Packing::copy(own_[i], 0, packed_, offsets_[i], static_cast<int64_t>(own_[i].nbytes()));
    }
    if (packing_.size() > 0) works_.push_back(group_.all_gather_into(packed_all_, packed_));
    for (size_t i = 0; i < own_.size(); ++i) {
      if (offsets_[i] != kApart) continue;
      works_.push_back(group_.all_gather_into(Packing::bytes_of(all_[i]), Packing::bytes_of(own_[i])));
    }
  }

  void make_packed() {
    const auto bytes = own_.front().options().dtype(at::kByte);
    packed_ = at::empty({packing_.size()}, bytes);
    packed_all_ = at::empty({group_.size() * packing_.size()}, bytes);
    if (header_) std::memcpy(packed_.mutable_data_ptr(), &*header_, sizeof *header_);
  }

  void require_equal_headers() {
    for (int64_t rank = 0; rank < group_.size(); ++rank) {
      int64_t header = 0;
      std::memcpy(&header, packed_all_.const_data_ptr<uint8_t>() + rank * packing_.size(), sizeof header);
      if (header == *header_) continue;
      // Every rank has found it.
      for (Work& work : works_) work.wait();
      require_equal_shapes(group_, "gather", tensors_);
    }
  }

  const Group& group_;
  std::vector<at::Tensor*> tensors_;
  std::vector<at::Tensor> own_, all_;
  std::optional<int64_t> header_;  ///< stands first in what is packed
  at::Tensor packed_, packed_all_;
  Packing packing_;
  std::vector<int64_t> offsets_;  ///< of what is packed; empty for a list
  std::vector<Work> works_;
};

/// Lists in an order that is the same on every rank.
template <class Key, class KeyOf>
std::map<Key, std::vector<at::Tensor*>> grouped(TensorList tensors, KeyOf key_of) {
  std::map<Key, std::vector<at::Tensor*>> lists;
  for (at::Tensor* tensor : tensors) lists[key_of(*tensor)].push_back(tensor);
  return lists;
}

int device_type_of(const at::Tensor& tensor) { return static_cast<int>(tensor.device().type()); }

constexpr const char* kNone = "none";

ReduceOp reduce_op(const std::string& reduction) {
  if (reduction == "sum" || reduction == "mean" || reduction == kNone) return ReduceOp::kSum;
  if (reduction == "max") return ReduceOp::kMax;
  throw UsageError({.place = "reduce",
                    .what = "The reduction is not known",
                    .got = "\"" + reduction + "\"",
                    .expected = "\"sum\", \"mean\", \"max\" or \"none\"",
                    .remedy = "Pass one of them as {.reduction = \"sum\"}"});
}

bool is_fractional(const at::Tensor& tensor) { return tensor.is_floating_point() || tensor.is_complex(); }

/// Dtypes that every transport adds up.
bool transports_reduce(at::ScalarType dtype) {
  switch (dtype) {
    case at::kFloat:
    case at::kDouble:
    case at::kHalf:
    case at::kBFloat16:
    case at::kChar:
    case at::kByte:
    case at::kInt:
    case at::kLong:
      return true;
    default:
      return false;
  }
}

/// Tensors of one dtype on one device, joined for the exchange.
class Reduction {
 public:
  Reduction(const Group& group, std::vector<at::Tensor*> tensors, ReduceOp op)
      : group_(group), tensors_(std::move(tensors)), op_(op) {
    const at::Tensor& first = *tensors_.front();
    const bool transported = transports_reduce(first.scalar_type());
    in_place_ = transported && tensors_.size() == 1 && first.is_contiguous();
    if (in_place_) {
      joined_ = first.detach();
    } else {
      std::vector<at::Tensor> flat;
      for (const at::Tensor* tensor : tensors_) flat.push_back(tensor->detach().reshape({-1}));
      joined_ = at::cat(flat);
    }
    if (transported) {
      work_ = group_.all_reduce(joined_, op_);
    } else {
      ranks_ = at::empty({group_.size() * joined_.numel()}, joined_.options());
      work_ = group_.all_gather_into(Packing::bytes_of(ranks_), Packing::bytes_of(joined_));
    }
  }

  void finish() {
    work_.wait();
    if (in_place_) return;
    if (ranks_.defined()) joined_ = combined(ranks_.view({group_.size(), joined_.numel()}));
    int64_t offset = 0;
    for (at::Tensor* tensor : tensors_) {
      tensor->detach().copy_(joined_.narrow(0, offset, tensor->numel()).view(tensor->sizes()));
      offset += tensor->numel();
    }
  }

 private:
  at::Tensor combined(const at::Tensor& ranks) const {
    const at::ScalarType dtype = ranks.scalar_type();
    if (op_ == ReduceOp::kMax) return ranks.amax(0);
    return ranks.sum(0, /*keepdim=*/false, at::isIntegralType(dtype, true) ? at::kLong : dtype).to(dtype);
  }

  const Group& group_;
  std::vector<at::Tensor*> tensors_;
  ReduceOp op_;
  bool in_place_ = false;
  at::Tensor joined_, ranks_;
  Work work_;
};

[[noreturn]] void throw_integer(const std::string& what, const at::Tensor& tensor, const std::string& remedy) {
  throw UsageError({.place = "reduce",
                    .what = what,
                    .got = std::string("a tensor of dtype ") + at::toString(tensor.scalar_type()),
                    .expected = "a floating or complex one",
                    .remedy = remedy});
}

void check_reduced(const at::Tensor& tensor, int64_t divisor, const ReduceOptions& options) {
  if (options.reduction == "max" && tensor.is_complex()) {
    throw UsageError({.place = "reduce",
                      .what = "Complex numbers have no largest one",
                      .got = std::string("a tensor of dtype ") + at::toString(tensor.scalar_type()),
                      .expected = "a real one for \"max\"",
                      .remedy = "Take the sum, or pass at::view_as_real(tensor)"});
  }
  if (is_fractional(tensor)) return;
  if (divisor != 1) {
    throw_integer("Whole numbers have no mean of their dtype", tensor, "Convert it, or take the sum");
  }
  if (options.scale != 1.0) {
    throw_integer("Whole numbers cannot be scaled", tensor, "Convert it, or leave out scale");
  }
}

bool pads(const at::Tensor& tensor, int64_t dim) { return dim >= -tensor.dim() && dim < tensor.dim(); }

void check_pad(const at::Tensor& tensor, const PadOptions& options) {
  if (is_fractional(tensor) || options.pad_index == std::floor(options.pad_index)) return;
  std::ostringstream got;
  got << ".pad_index = " << options.pad_index << " for a tensor of dtype " << tensor.scalar_type();
  throw UsageError({.place = "pad_across_processes",
                    .what = "The value that is padded with is no value of the tensor",
                    .got = got.str(),
                    .expected = "a whole number",
                    .remedy = "Change pad_index, or convert the tensor"});
}

at::Tensor padded(const at::Tensor& tensor, int64_t dim, int64_t longest, const PadOptions& options) {
  std::vector<int64_t> shape = tensor.sizes().vec();
  shape[static_cast<size_t>(dim)] = longest - tensor.size(dim);
  const at::Tensor added = at::full(shape, options.pad_index, tensor.options().requires_grad(false));
  return options.pad_first ? at::cat({added, tensor}, dim) : at::cat({tensor, added}, dim);
}

/// Their bytes in one buffer, from rank `from` to the others'.
void broadcast_packed(const Group& group, const std::vector<at::Tensor*>& tensors, int64_t from) {
  Packing packing;
  std::vector<int64_t> offsets;
  for (const at::Tensor* tensor : tensors) offsets.push_back(packing.add(tensor->nbytes()));
  if (packing.size() == 0) return;
  const auto options = tensors.front()->options().dtype(at::kByte).requires_grad(false);
  const at::Tensor packed = at::empty({packing.size()}, options);
  for (size_t i = 0; i < tensors.size() && group.rank() == from; ++i) {
    const at::Tensor own = tensors[i]->detach().contiguous();
    Packing::copy(own, 0, packed, offsets[i], static_cast<int64_t>(own.nbytes()));
  }
  group.broadcast(packed, from).wait();
  for (size_t i = 0; i < tensors.size() && group.rank() != from; ++i) {
    const at::Tensor own = tensors[i]->detach();
    const at::Tensor received = own.is_contiguous() ? own : at::empty(own.sizes(), own.options());
    Packing::copy(packed, offsets[i], received, 0, static_cast<int64_t>(received.nbytes()));
    if (!received.is_same(own)) own.copy_(received);
  }
}

}  // namespace

void require_process(const char* operation, const Group& group, int64_t from) {
  if (from >= 0 && from < group.size()) return;
  throw UsageError({.place = operation,
                    .what = "There is no such process",
                    .got = "from_process = " + std::to_string(from),
                    .expected = "0 to " + std::to_string(group.size() - 1),
                    .remedy = "Pass the index of the process that has the values"});
}

bool needs_comparison(const Group& group) { return group.core() != nullptr && group.core()->needs_comparison(); }

void require_equal_shapes(const Group& group, const char* operation, TensorList tensors) {
  std::vector<at::Tensor> values;
  for (const at::Tensor* tensor : tensors) values.push_back(*tensor);
  if (all_equal(all_gather_numbers(group, fingerprint(values)))) return;
  const std::vector<std::string> shapes = all_gather_bytes(group, describe(tensors));
  if (all_equal(shapes)) return;
  std::string got;
  for (size_t rank = 0; rank < shapes.size(); ++rank) {
    got += (rank == 0 ? "process " : "; process ") + std::to_string(rank) + ": " + shapes[rank];
  }
  throw CommError({.place = operation,
                   .what = "The processes pass tensors of different shapes or dtypes",
                   .got = got,
                   .expected = "the same shapes and dtypes everywhere",
                   .remedy = "Bring them to one shape with pad_across_processes()"});
}

void gather_all(const Group& group, TensorList tensors) {
  if (group.core() == nullptr) return;
  const std::vector<at::Tensor*> present = defined(tensors);
  std::vector<Gathering> gatherings;
  for (auto& [device, list] : grouped<int>(present, device_type_of)) gatherings.emplace_back(group, list);
  for (Gathering& gathering : gatherings) gathering.start();
  for (Gathering& gathering : gatherings) gathering.finish();
}

void reduce_all(const Group& group, TensorList tensors, const ReduceOptions& options) {
  const ReduceOp op = reduce_op(options.reduction);
  const std::vector<at::Tensor*> present = defined(tensors);
  const int64_t divisor = options.reduction == "mean" ? group.size() : 1;
  for (at::Tensor* tensor : present) check_reduced(*tensor, divisor, options);
  for (at::Tensor* tensor : present) *tensor = tensor->clone();
  // No transport adds float8 up.
  std::vector<std::pair<at::Tensor*, at::ScalarType>> rounded;
  for (at::Tensor* tensor : present) {
    if (!c10::isFloat8Type(tensor->scalar_type())) continue;
    rounded.emplace_back(tensor, tensor->scalar_type());
    *tensor = tensor->to(at::kFloat);
  }
  if (group.core() != nullptr && options.reduction != kNone) {
    std::vector<Reduction> reductions;
    const auto kind = [](const at::Tensor& tensor) { return std::pair(device_type_of(tensor), tensor.scalar_type()); };
    for (auto& [key, list] : grouped<std::pair<int, at::ScalarType>>(present, kind)) {
      reductions.emplace_back(group, list, op);
    }
    for (Reduction& reduction : reductions) reduction.finish();
  }
  for (at::Tensor* tensor : present) {
    if (divisor != 1) tensor->detach().div_(divisor);
    if (options.scale != 1.0) tensor->detach().mul_(options.scale);
  }
  for (const auto& [tensor, dtype] : rounded) *tensor = tensor->to(dtype);
}

void broadcast_all(const Group& group, TensorList tensors, int64_t from) {
  require_process("broadcast", group, from);
  if (group.core() == nullptr) return;
  const std::vector<at::Tensor*> present = defined(tensors);
  for (auto& [device, list] : grouped<int>(present, device_type_of)) {
    if (list.size() == 1 && list.front()->is_contiguous() && list.front()->numel() > 0) {
      group.broadcast(Packing::bytes_of(list.front()->detach()), from).wait();
    } else {
      broadcast_packed(group, list, from);
    }
  }
}

void pad_all(const Group& group, TensorList tensors, const PadOptions& options) {
  if (group.core() == nullptr) return;
  std::vector<at::Tensor*> present = defined(tensors);
  if (std::erase_if(present, [](const at::Tensor* tensor) { return tensor->is_nested(); }) > 0) {
    group.core()->log().warning(
        "pad_across_processes: ragged tensors cannot be padded without more information and stay what they are");
  }
  if (needs_comparison(group) && !all_equal(all_gather_numbers(group, static_cast<int64_t>(present.size())))) {
    require_equal_shapes(group, "pad_across_processes", tensors);
  }
  if (present.empty()) return;
  std::vector<int64_t> own;
  for (const at::Tensor* tensor : present) {
    check_pad(*tensor, options);
    own.push_back(tensor->dim());
    own.push_back(pads(*tensor, options.dim) ? tensor->size(options.dim) : 0);
  }
  const at::Tensor row = at::tensor(own, at::kLong).unsqueeze(0).to(present.front()->device());
  const at::Tensor table = group.all_gather(row).cpu();
  const at::Tensor longest = std::get<0>(table.max(0));
  const at::Tensor shortest = std::get<0>(table.min(0));
  for (size_t i = 0; i < present.size(); ++i) {
    const auto column = static_cast<int64_t>(2 * i);
    if (longest[column].item<int64_t>() != shortest[column].item<int64_t>()) {
      require_equal_shapes(group, "pad_across_processes", tensors);
    }
    if (!pads(*present[i], options.dim)) continue;
    const int64_t dim = options.dim < 0 ? options.dim + present[i]->dim() : options.dim;
    const int64_t length = longest[column + 1].item<int64_t>();
    if (present[i]->size(dim) < length) *present[i] = padded(*present[i], dim, length, options);
  }
}

}  // namespace accelerate::internal
