// Round trips through the safetensors container, and its bytes as the reference writer lays them out.
#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <cstring>
#include <nlohmann/json.hpp>

#include "tests/support/storage.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/tensors.h"
#include "tests/support/throws_error.h"

namespace accelerate {
namespace {

using support::format_named;
using support::load;
using support::read_text;
using support::same_bytes;
using support::save;
using support::TemporaryFolder;
using support::Tensors;
using support::ThrowsError;
using support::write_text;
using ::testing::ElementsAre;

const std::vector<at::ScalarType>& dtypes() {
  static const std::vector<at::ScalarType> all{at::kBool,
                                               at::kByte,
                                               at::kChar,
                                               at::kFloat8_e5m2,
                                               at::kFloat8_e4m3fn,
                                               at::kFloat8_e8m0fnu,
                                               at::kFloat8_e4m3fnuz,
                                               at::kFloat8_e5m2fnuz,
                                               at::kShort,
                                               at::kUInt16,
                                               at::kHalf,
                                               at::kBFloat16,
                                               at::kInt,
                                               at::kUInt32,
                                               at::kFloat,
                                               at::kComplexFloat,
                                               at::kDouble,
                                               at::kLong,
                                               at::kUInt64};
  return all;
}

/// A tensor of any bytes; NaN payloads and denormal numbers have to survive as well.
at::Tensor any_tensor(at::ScalarType dtype, const std::vector<int64_t>& shape) {
  at::Tensor tensor = at::empty(shape, at::TensorOptions(dtype));
  const int64_t count = static_cast<int64_t>(tensor.nbytes());
  const at::Tensor raw = dtype == at::kBool ? at::randint(2, {count}, at::TensorOptions(at::kByte))
                                            : at::randint(256, {count}, at::TensorOptions(at::kByte));
  if (count > 0) std::memcpy(tensor.data_ptr(), raw.data_ptr(), static_cast<size_t>(count));
  return tensor;
}

nlohmann::json header_of(const std::string& file) {
  uint64_t length = 0;
  std::memcpy(&length, file.data(), sizeof(length));
  return nlohmann::json::parse(file.substr(8, length));
}

RC_GTEST_PROP(Safetensors, AnyTensorsComeBackByteForByte, ()) {
  const TemporaryFolder folder;
  const auto format = format_named("safetensors");
  const auto names = *rc::gen::unique<std::vector<std::string>>(
      rc::gen::nonEmpty(rc::gen::container<std::string>(rc::gen::inRange<char>(1, 127))));
  Tensors tensors;
  for (const std::string& name : names) {
    const auto rank = *rc::gen::inRange<size_t>(0, 5);
    tensors[name] = any_tensor(*rc::gen::elementOf(dtypes()),
                               *rc::gen::container<std::vector<int64_t>>(rank, rc::gen::inRange<int64_t>(0, 5)));
  }
  save(format, folder / "a", tensors);
  const Tensors back = load(format, folder / "a");
  RC_ASSERT(back.size() == tensors.size());
  for (const auto& [name, tensor] : tensors) RC_ASSERT(static_cast<bool>(same_bytes(back.at(name), tensor)));
}

TEST(Safetensors, EveryDtypeKeepsItsNameInTheHeader) {
  const TemporaryFolder folder;
  const std::vector<std::string> names{"BOOL",        "U8",  "I8",  "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ",
                                       "F8_E5M2FNUZ", "I16", "U16", "F16",     "BF16",    "I32",     "U32",
                                       "F32",         "C64", "F64", "I64",     "U64"};
  ASSERT_EQ(names.size(), dtypes().size());
  for (size_t i = 0; i < names.size(); ++i) {
    const Tensors tensors{{"x", any_tensor(dtypes()[i], {3, 2})}};
    save(format_named("safetensors"), folder / "a", tensors);
    EXPECT_EQ(header_of(read_text(folder / "a"))["x"]["dtype"], names[i]);
    EXPECT_TRUE(same_bytes(load(format_named("safetensors"), folder / "a").at("x"), tensors.at("x"))) << names[i];
  }
}

TEST(Safetensors, NumbersEmptyAndStridedTensors) {
  const TemporaryFolder folder;
  const at::Tensor grid = support::numbered_rows(4, 6);
  const Tensors tensors{
      {"number", at::full({}, 3.5)},
      {"no_rows", at::zeros({0, 3})},
      {"no_columns", at::zeros({3, 0}, at::kHalf)},
      {"transposed", grid.t()},
      {"every_second", grid.slice(1, 0, 6, 2)},
      {"expanded", at::full({}, 2, at::kInt).expand({2, 3})},
      {"channels_last", at::arange(48).view({2, 2, 3, 4}).contiguous(at::MemoryFormat::ChannelsLast)}};
  save(format_named("safetensors"), folder / "a", tensors);
  const Tensors back = load(format_named("safetensors"), folder / "a");
  for (const auto& [name, tensor] : tensors) EXPECT_TRUE(same_bytes(back.at(name), tensor)) << name;
}

TEST(Safetensors, NoTensorsAtAllIsAFileToo) {
  const TemporaryFolder folder;
  save(format_named("safetensors"), folder / "a", {});
  EXPECT_TRUE(format_named("safetensors").open(folder / "a")->entries().empty());
}

// The whole file by hand, so that a reader elsewhere finds what it expects: length, padded header with metadata first,
// descending dtype then name, bytes without gaps.
TEST(Safetensors, TheBytesAreThoseOfTheReferenceWriter) {
  const TemporaryFolder folder;
  const Tensors tensors{{"b", at::tensor({1.0F, 2.0F})},
                        {"a", at::tensor({3.0F})},
                        {"flag", at::ones({1}, at::kBool)},
                        {"long", at::full({}, 258, at::kLong)}};
  save(format_named("safetensors"), folder / "a", tensors, {{"format", "pt"}});
  std::string header = R"({"__metadata__":{"format":"pt"},)"
                       R"("long":{"dtype":"I64","shape":[],"data_offsets":[0,8]},)"
                       R"("a":{"dtype":"F32","shape":[1],"data_offsets":[8,12]},)"
                       R"("b":{"dtype":"F32","shape":[2],"data_offsets":[12,20]},)"
                       R"("flag":{"dtype":"BOOL","shape":[1],"data_offsets":[20,21]}})";
  while (header.size() % 8 != 0) header += ' ';
  const uint64_t length = header.size();
  std::string expected(reinterpret_cast<const char*>(&length), 8);
  expected += header;
  expected += std::string("\x02\x01\x00\x00\x00\x00\x00\x00", 8);
  expected += std::string("\x00\x00\x40\x40", 4);
  expected += std::string("\x00\x00\x80\x3f\x00\x00\x00\x40", 8);
  expected += std::string("\x01", 1);
  EXPECT_EQ(read_text(folder / "a"), expected);
}

RC_GTEST_PROP(Safetensors, TensorBytesBeginAlignedAndFollowEachOther, ()) {
  const TemporaryFolder folder;
  Tensors tensors;
  const auto count = *rc::gen::inRange<int>(0, 12);
  for (int i = 0; i < count; ++i) {
    tensors[std::string(*rc::gen::inRange<size_t>(1, 20), 'x') + std::to_string(i)] =
        any_tensor(*rc::gen::elementOf(dtypes()), {*rc::gen::inRange<int64_t>(0, 9)});
  }
  save(format_named("safetensors"), folder / "a", tensors);
  const std::string file = read_text(folder / "a");
  uint64_t length = 0;
  std::memcpy(&length, file.data(), sizeof(length));
  RC_ASSERT(length % 8 == 0U);
  const auto reader = format_named("safetensors").open(folder / "a");
  uint64_t position = 8 + length;
  size_t previous = SIZE_MAX;
  for (const StorageEntry& entry : reader->entries()) {
    const auto bytes = static_cast<size_t>(entry.bytes());
    if (bytes > 0) RC_ASSERT(c10::elementSize(entry.dtype) <= previous);
    if (bytes > 0) previous = c10::elementSize(entry.dtype);
    const at::Tensor dense = tensors.at(entry.name).contiguous();
    if (bytes > 0) RC_ASSERT(std::memcmp(file.data() + position, dense.data_ptr(), bytes) == 0);
    position += bytes;
  }
  RC_ASSERT(position == file.size());
}

TEST(Safetensors, MetadataComesBackAndNeedNotExist) {
  const TemporaryFolder folder;
  const std::map<std::string, std::string> metadata{{"format", "pt"}, {"", ""}, {"text", "\"quoted\"\n\xc3\xa4"}};
  save(format_named("safetensors"), folder / "a", {{"x", at::zeros({2})}}, metadata);
  EXPECT_EQ(format_named("safetensors").open(folder / "a")->metadata(), metadata);
  save(format_named("safetensors"), folder / "b", {{"x", at::zeros({2})}});
  EXPECT_TRUE(format_named("safetensors").open(folder / "b")->metadata().empty());
  EXPECT_EQ(read_text(folder / "b").find("__metadata__"), std::string::npos);
}

TEST(Safetensors, AnyTextIsAName) {
  const TemporaryFolder folder;
  const Tensors tensors{{"with \"quotes\" and \\", at::zeros({1})},
                        {"line\nbreak\t\x01", at::ones({1})},
                        {"\xc3\xa4\xe6\x97\xa5", at::full({1}, 2.0)},
                        {"", at::full({1}, 3.0)}};
  save(format_named("safetensors"), folder / "a", tensors);
  const Tensors back = load(format_named("safetensors"), folder / "a");
  ASSERT_EQ(back.size(), tensors.size());
  for (const auto& [name, tensor] : tensors) EXPECT_TRUE(same_bytes(back.at(name), tensor)) << name;
}

TEST(Safetensors, ANameThatIsNoUtf8IsRefusedBeforeAnythingIsWritten) {
  const TemporaryFolder folder;
  EXPECT_THAT(
      [&] {
        save(format_named("safetensors"), folder / "a", {{"\xff", at::zeros({1})}});
      },
      ThrowsError<UsageError>({.place = "safetensors",
                               .what = "not valid UTF-8",
                               .got = "UTF-8",
                               .expected = "UTF-8, as JSON demands",
                               .remedy = "Rename"}));
  EXPECT_TRUE(folder.names().empty());
}

TEST(Safetensors, ADtypeWithoutANameIsRefused) {
  const TemporaryFolder folder;
  EXPECT_THAT(
      [&] {
        save(format_named("safetensors"), folder / "a", {{"x", at::zeros({1}, at::kComplexDouble)}});
      },
      ThrowsError<UsageError>({.place = "safetensors",
                               .what = "no name for this dtype",
                               .got = "ComplexDouble",
                               .expected = "such as Float, BFloat16 or Long",
                               .remedy = "Convert the tensor before saving"}));
  EXPECT_TRUE(folder.names().empty());
}

// Files of other writers: any order of entries, spaces, fields we do not know, lengths that are no multiple of eight.
TEST(Safetensors, FilesOfOtherWritersAreRead) {
  const TemporaryFolder folder;
  const std::string header =
      "{ \"b\" :{\"data_offsets\": [4, 8], \"shape\":[1],\"dtype\":\"F32\",\"more\":1},\n"
      "\"a\":{\"shape\":[2,1],\"dtype\":\"I16\",\"data_offsets\":[0,4]},\"empty\":{\"shape\":[0],\"dtype\":\"F64\","
      "\"data_offsets\":[4,4]}}   ";
  const uint64_t length = header.size();
  std::string file(reinterpret_cast<const char*>(&length), 8);
  file += header + std::string("\x01\x00\x02\x00", 4) + std::string("\x00\x00\x80\x3f", 4);
  write_text(folder / "a", file);
  const Tensors back = load(format_named("safetensors"), folder / "a");
  ASSERT_EQ(back.size(), 3U);
  EXPECT_TRUE(same_bytes(back.at("a"), at::tensor({1, 2}).to(at::kShort).view({2, 1})));
  EXPECT_TRUE(same_bytes(back.at("b"), at::tensor({1.0F})));
  EXPECT_TRUE(same_bytes(back.at("empty"), at::zeros({0}, at::kDouble)));
}

}  // namespace
}  // namespace accelerate
