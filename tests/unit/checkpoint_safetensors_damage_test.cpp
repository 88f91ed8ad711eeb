// Damaged and hostile safetensors files: an error that says what is wrong, never a crash and never other numbers.
#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <cstring>

#include "tests/support/storage.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/tensors.h"
#include "tests/support/throws_error.h"

namespace accelerate {
namespace {

using support::format_named;
using support::load;
using support::read_text;
using support::save;
using support::TemporaryFolder;
using support::Tensors;
using support::ThrowsError;
using support::write_text;

const char* const kRemedy = "write or copy it again";

std::string file_of(const std::string& header, const std::string& data = "", std::optional<uint64_t> length = {}) {
  const uint64_t said = length.value_or(header.size());
  return std::string(reinterpret_cast<const char*>(&said), 8) + header + data;
}

/// A small file with several dtypes, an empty tensor, a number and metadata.
std::string good_file() {
  const TemporaryFolder folder;
  save(format_named("safetensors"), folder / "a",
       {{"weight", at::arange(6, at::kFloat).view({2, 3})},
        {"steps", at::full({}, 7, at::kLong)},
        {"none", at::zeros({0, 2})}},
       {{"format", "pt"}});
  return read_text(folder / "a");
}

/// Opens the text as a file and reads all of it.
Tensors read_back(const std::string& text) {
  const TemporaryFolder folder;
  write_text(folder / "a", text);
  return load(format_named("safetensors"), folder / "a");
}

void expect_refusal(const std::string& text, const std::string& what, const std::string& got,
                    const std::string& expected) {
  const TemporaryFolder folder;
  const std::string path = folder / "model.safetensors";
  write_text(path, text);
  EXPECT_THAT(
      [&] { format_named("safetensors").open(path); },
      ThrowsError<DataError>({.place = path, .what = what, .got = got, .expected = expected, .remedy = kRemedy}));
}

TEST(SafetensorsDamage, TruncationAtEveryByteIsRefused) {
  const std::string whole = good_file();
  EXPECT_EQ(read_back(whole).size(), 3U);
  for (size_t length = 0; length < whole.size(); ++length) {
    EXPECT_THROW(read_back(whole.substr(0, length)), DataError)
        << "cut to " << length << " of " << whole.size() << " bytes";
  }
}

TEST(SafetensorsDamage, BytesAddedAtTheEndAreRefused) {
  const std::string whole = good_file();
  for (const size_t extra : {1U, 7U, 8U, 4096U}) {
    EXPECT_THROW(read_back(whole + std::string(extra, '\0')), DataError) << extra;
  }
}

// Every bit of the length and header: an error, or a file that is consistent with itself and holds the same bytes.
TEST(SafetensorsDamage, EveryFlippedBitOfTheHeaderIsAnErrorOrAConsistentFile) {
  const std::string whole = good_file();
  uint64_t header = 0;
  std::memcpy(&header, whole.data(), sizeof(header));
  const std::string data = whole.substr(8 + header);
  int64_t refused = 0, consistent = 0;
  for (size_t byte = 0; byte < 8 + header; ++byte) {
    for (int bit = 0; bit < 8; ++bit) {
      std::string damaged = whole;
      damaged[byte] = static_cast<char>(damaged[byte] ^ (1 << bit));
      try {
        size_t total = 0;
        for (const auto& [name, tensor] : read_back(damaged)) {
          total += tensor.nbytes();
          const std::string bytes(static_cast<const char*>(tensor.data_ptr()), tensor.nbytes());
          EXPECT_NE(data.find(bytes), std::string::npos) << "byte " << byte << " bit " << bit << " " << name;
        }
        EXPECT_EQ(total, data.size()) << "byte " << byte << " bit " << bit;
        ++consistent;
      } catch (const DataError&) {
        ++refused;
      }
    }
  }
  EXPECT_GT(refused, consistent) << "most flips destroy the structure; the rest change letters of names";
}

RC_GTEST_PROP(SafetensorsDamage, RandomBytesInTheHeaderNeverCrash, ()) {
  static const std::string whole = good_file();
  uint64_t header = 0;
  std::memcpy(&header, whole.data(), sizeof(header));
  std::string damaged = whole;
  const auto places =
      *rc::gen::nonEmpty(rc::gen::container<std::vector<size_t>>(rc::gen::inRange<size_t>(0, 8 + header)));
  for (const size_t place : places) damaged[place] = *rc::gen::arbitrary<char>();
  size_t total = 0;
  try {
    for (const auto& [name, tensor] : read_back(damaged)) total += tensor.nbytes();
  } catch (const DataError& error) {
    RC_ASSERT(!error.text().got.empty() && !error.text().expected.empty() &&
              error.text().remedy.find(kRemedy) != std::string::npos);
    return;
  }
  RC_ASSERT(total == whole.size() - 8 - header);
}

RC_GTEST_PROP(SafetensorsDamage, RandomFilesAreRefused, (std::string text)) {
  RC_ASSERT_THROWS_AS(read_back(text), DataError);
  RC_ASSERT_THROWS_AS(read_back(file_of(text, "", text.size())), DataError);
}

RC_GTEST_PROP(SafetensorsDamage, DamageBehindTheHeaderChangesThatTensorOnly, ()) {
  static const std::string whole = good_file();
  static const Tensors original = read_back(whole);
  uint64_t header = 0;
  std::memcpy(&header, whole.data(), sizeof(header));
  std::string damaged = whole;
  const auto place = *rc::gen::inRange<size_t>(8 + header, whole.size());
  damaged[place] = static_cast<char>(damaged[place] ^ 0x10);
  int changed = 0;
  for (const auto& [name, tensor] : read_back(damaged)) changed += !support::same_bytes(tensor, original.at(name));
  RC_ASSERT(changed == 1);
}

TEST(SafetensorsDamage, TooShortForALength) {
  expect_refusal("", "too short for a header", "0 bytes", "at least 8");
  expect_refusal("1234567", "too short for a header", "7 bytes", "at least 8");
}

TEST(SafetensorsDamage, HeaderLengthsThatCannotBeTrue) {
  for (const uint64_t length : {uint64_t{3}, uint64_t{100'000'001}, uint64_t{1} << 63, UINT64_MAX, UINT64_MAX - 7}) {
    expect_refusal(file_of("{}", "", length), "The header length cannot be true", std::to_string(length) + " bytes",
                   "the rest of the file, 2");
  }
  expect_refusal(file_of("", "", 0), "no JSON object", "first byte", "{");
}

TEST(SafetensorsDamage, ForeignFiles) {
  expect_refusal(std::string("PK\x03\x04\x00\x00\x08\x08", 8) + std::string(100, 'x'), "header length", "bytes",
                 "rest of the file");
  expect_refusal(std::string("\x93NUMPY\x01\x00", 8) + std::string(100, 'x'), "header length", "bytes",
                 "rest of the file");
  expect_refusal("<!DOCTYPE html><html>404 not found</html>", "header length", "bytes", "rest of the file");
  expect_refusal(std::string(64, '\0'), "no JSON object", "first byte", "{");
}

TEST(SafetensorsDamage, HeadersThatAreNoJsonObject) {
  for (const std::string header : {"[]", "\"text\"", " {}", "null", "7"}) {
    expect_refusal(file_of(header), "The header is no JSON object", "first byte", "{");
  }
  for (const std::string header : {"{", "{}}", "{\"a\"}", "{\"a\":}", "{'a':1}", "{}x", "{\"\xff\":1}", "{\"a\":1,}"}) {
    expect_refusal(file_of(header), "The header is not valid JSON", "parse error", "the header of a safetensors file");
  }
  expect_refusal(file_of(std::string("{}\0x", 4)), "The header is not valid JSON", "a zero byte at 2", "text");
}

TEST(SafetensorsDamage, DuplicateNames) {
  const std::string entry = R"("a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]})";
  expect_refusal(file_of("{" + entry + "," + entry + "}", "x"), "names a tensor twice", "\"a\"", "unique names");
  expect_refusal(file_of(R"({"__metadata__":{},"__metadata__":{}})"), "names a tensor twice", "__metadata__",
                 "unique names");
  // The same name with an escape in it.
  expect_refusal(file_of("{" + entry + R"(,"\u0061":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})", "xy"), "twice",
                 "\"a\"", "unique names");
}

TEST(SafetensorsDamage, Metadata) {
  expect_refusal(file_of(R"({"__metadata__":[]})"), "The metadata is no object", "array", "texts by name");
  expect_refusal(file_of(R"({"__metadata__":{"a":1}})"), "A metadata value is no text", "\"a\"", "a text");
  expect_refusal(file_of(R"({"__metadata__":{"a":{"b":"c"}}})"), "A metadata value is no text", "\"a\"", "a text");
}

struct BadEntry {
  const char* entry;
  const char* got;
  const char* expected;
};
constexpr const char* kParts = "dtype, shape and two data_offsets";
constexpr const char* kNumbers = "whole numbers from 0 to 2^63 - 1";

TEST(SafetensorsDamage, EntriesThatAreWrongAreNamed) {
  const std::vector<BadEntry> entries{
      BadEntry{"1", "1", kParts},
      BadEntry{"null", "null", kParts},
      BadEntry{"[]", "[]", kParts},
      BadEntry{"{}", "{}", kParts},
      BadEntry{R"({"dtype":"U8","shape":[1]})", "shape", kParts},
      BadEntry{R"({"dtype":"U8","data_offsets":[0,1]})", "data_offsets", kParts},
      BadEntry{R"({"shape":[1],"data_offsets":[0,1]})", "shape", kParts},
      BadEntry{R"({"dtype":8,"shape":[1],"data_offsets":[0,1]})", "8", kParts},
      BadEntry{R"({"dtype":"U8","shape":1,"data_offsets":[0,1]})", "shape", kParts},
      BadEntry{R"({"dtype":"U8","shape":[1],"data_offsets":[0]})", "[0]", kParts},
      BadEntry{R"({"dtype":"U8","shape":[1],"data_offsets":[0,1,2]})", "[0,1,2]", kParts},
      BadEntry{R"({"dtype":"U8","shape":[1],"data_offsets":{"0":0,"1":1}})", "data_offsets", kParts},
      BadEntry{R"({"dtype":"u8","shape":[1],"data_offsets":[0,1]})", "dtype u8", "a dtype that LibTorch has"},
      BadEntry{R"({"dtype":"F4","shape":[1],"data_offsets":[0,1]})", "dtype F4", "a dtype that LibTorch has"},
      BadEntry{R"({"dtype":"U8","shape":[-1],"data_offsets":[0,1]})", "-1", kNumbers},
      BadEntry{R"({"dtype":"U8","shape":[1.0],"data_offsets":[0,1]})", "1.0", kNumbers},
      BadEntry{R"({"dtype":"U8","shape":["1"],"data_offsets":[0,1]})", "\"1\"", kNumbers},
      BadEntry{R"({"dtype":"U8","shape":[true],"data_offsets":[0,1]})", "true", kNumbers},
      BadEntry{R"({"dtype":"U8","shape":[9223372036854775808],"data_offsets":[0,1]})", "9223372036854775808", kNumbers},
      BadEntry{R"({"dtype":"U8","shape":[1e99],"data_offsets":[0,1]})", "1e+99", kNumbers},
      BadEntry{R"({"dtype":"U8","shape":[1],"data_offsets":[-1,0]})", "-1", kNumbers},
      BadEntry{R"({"dtype":"U8","shape":[1],"data_offsets":[0,18446744073709551615]})", "18446744073709551615",
               kNumbers},
      BadEntry{R"({"dtype":"U8","shape":[2],"data_offsets":[0,1]})", "data_offsets [0,1]", "2 bytes"},
      BadEntry{R"({"dtype":"U8","shape":[1],"data_offsets":[1,0]})", "data_offsets [1,0]", "1 bytes"},
      BadEntry{R"({"dtype":"F32","shape":[1],"data_offsets":[0,1]})", "data_offsets [0,1]", "4 bytes"},
      BadEntry{R"({"dtype":"F64","shape":[4611686018427387904,4],"data_offsets":[0,0]})",
               "shape [4611686018427387904,4]", "fits into a file"},
      BadEntry{R"({"dtype":"F32","shape":[9223372036854775807],"data_offsets":[0,1]})", "shape [9223372036854775807]",
               "fits into a file"}};
  for (const auto& [entry, got, expected] : entries) {
    expect_refusal(file_of(std::string("{\"the.tensor\":") + entry + "}", "x"), "\"the.tensor\" is wrong", got,
                   expected);
  }
}

std::string two_entries(const std::string& first, const std::string& second, int64_t size) {
  const auto entry = [&](const std::string& name, const std::string& offsets) {
    return "\"" + name + R"(":{"dtype":"U8","shape":[)" + std::to_string(size) + R"(],"data_offsets":)" + offsets + "}";
  };
  return "{" + entry("a", first) + "," + entry("b", second) + "}";
}

TEST(SafetensorsDamage, OverlapsGapsAndTrailingBytes) {
  const std::string what = "Tensor bytes overlap or leave a gap";
  EXPECT_EQ(read_back(file_of(two_entries("[0,4]", "[4,8]", 4), std::string(8, 'x'))).size(), 2U);
  EXPECT_EQ(read_back(file_of(two_entries("[4,8]", "[0,4]", 4), std::string(8, 'x'))).size(), 2U);
  expect_refusal(file_of(two_entries("[0,4]", "[0,4]", 4), std::string(4, 'x')), what, "\"b\" at 0", "at 4");
  expect_refusal(file_of(two_entries("[0,4]", "[2,6]", 4), std::string(6, 'x')), what, "\"b\" at 2", "at 4");
  expect_refusal(file_of(two_entries("[0,4]", "[5,9]", 4), std::string(9, 'x')), what, "\"b\" at 5", "at 4");
  expect_refusal(file_of(two_entries("[1,5]", "[5,9]", 4), std::string(9, 'x')), what, "\"a\" at 1", "at 0");
  expect_refusal(file_of(two_entries("[0,4]", "[4,8]", 4), std::string(9, 'x')), "length does not fit its header",
                 "9 bytes", "8");
  expect_refusal(file_of(two_entries("[0,4]", "[4,8]", 4), std::string(7, 'x')), "length does not fit its header",
                 "7 bytes", "8");
  expect_refusal(file_of("{}", "x"), "length does not fit its header", "1 bytes", "0");
}

// The sum of header and data would not fit into 64 bits.
TEST(SafetensorsDamage, ATensorOfTheLargestSizeThatCanBeCounted) {
  expect_refusal(
      file_of(R"({"a":{"dtype":"U8","shape":[9223372036854775807],"data_offsets":[0,9223372036854775807]}})", "x"),
      "length does not fit its header", "1 bytes", "9223372036854775807");
}

TEST(SafetensorsDamage, AnEmptyShapeOfHugeExtentsIsEmpty) {
  const Tensors back =
      read_back(file_of(R"({"a":{"dtype":"F32","shape":[0,9223372036854775807],"data_offsets":[0,0]}})"));
  EXPECT_EQ(back.at("a").numel(), 0);
}

// Nests that would exhaust the stack of whoever prints or frees them recursively.
TEST(SafetensorsDamage, DeeplyNestedJson) {
  const size_t depth = 1'000'000;
  const std::string what = "nested too deeply", expected = "entries of dtype, shape and data_offsets";
  const std::string nest = std::string(depth, '[') + std::string(depth, ']');
  expect_refusal(file_of("{\"a\":" + nest + "}"), what, "a value inside 3 others", expected);
  expect_refusal(file_of(R"({"a":{"dtype":"U8","shape":)" + nest + R"(,"data_offsets":[0,0]}})"), what, "inside 3",
                 expected);
  expect_refusal(file_of("{\"__metadata__\":" + nest + "}"), what, "inside 3", expected);
  std::string objects;
  for (size_t i = 0; i < depth; ++i) objects += "{\"a\":";
  expect_refusal(file_of(objects + "1" + std::string(depth, '}')), what, "inside 3", expected);
  expect_refusal(file_of(objects), what, "inside 3", expected);
}

TEST(SafetensorsDamage, MessagesAboutLongEntriesStayReadable) {
  const TemporaryFolder folder;
  std::string ones = "1";
  for (int i = 0; i < 100'000; ++i) ones += ",1";
  write_text(folder / "a", file_of("{\"a\":[" + ones + "]}"));
  try {
    format_named("safetensors").open(folder / "a");
    FAIL() << "the file was opened";
  } catch (const DataError& error) {
    EXPECT_LT(error.text().got.size(), 200U);
  }
}

}  // namespace
}  // namespace accelerate
