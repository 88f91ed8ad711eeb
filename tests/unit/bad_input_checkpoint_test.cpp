// What save_model and load_model refuse, as the user reads it, and what is left afterwards.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cstring>

#include "accelerate/accelerate.h"
#include "tests/support/failing_disk.h"
#include "tests/support/storage.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/tensors.h"
#include "tests/support/throws_error.h"

namespace accelerate {
namespace {

using support::FullDisk;
using support::OrdinaryUser;
using support::read_text;
using support::same_bytes;
using support::TemporaryFolder;
using support::Tensors;
using support::ThrowsError;
using support::write_text;
using ::testing::ElementsAre;

struct BadCheckpoint : ::testing::Test {
  TemporaryFolder folder;
  Accelerator accelerator;
  Model<torch::nn::LinearImpl> model = accelerator.prepare(torch::nn::Linear(3, 2));
  torch::Tensor weight = model->weight.detach().clone(), bias = model->bias.detach().clone();
  std::string file() const { return folder / "model.safetensors"; }
  void write(const Tensors& tensors) const { support::save(support::format_named("safetensors"), file(), tensors); }

  /// Loading `path` fails as said and the model keeps every byte.
  void refuses(const std::string& path, const ErrorText& said, LoadModelOptions options = {}) {
    EXPECT_THAT([&] { accelerator.load_model(model, path, options); }, ThrowsError<DataError>(said));
    EXPECT_TRUE(same_bytes(model->weight, weight));
    EXPECT_TRUE(same_bytes(model->bias, bias));
  }
};

const char* const kDoesNotFit = "The file does not fit the model";
const char* const kOwnKeys = "the model's own keys and shapes";
const char* const kNothingLoaded = "Nothing was loaded";

TEST_F(BadCheckpoint, MissingKeysAreAllListed) {
  write({});
  refuses(file(), {.place = file(),
                   .what = kDoesNotFit,
                   .got = "missing keys: weight, bias",
                   .expected = kOwnKeys,
                   .remedy = kNothingLoaded});
}

TEST_F(BadCheckpoint, UnexpectedKeysAreAllListed) {
  write({{"weight", torch::zeros({2, 3})},
         {"bias", torch::zeros({2})},
         {"x", torch::zeros({1})},
         {"y", torch::zeros({1})}});
  refuses(file(), {.place = file(),
                   .what = kDoesNotFit,
                   .got = "unexpected keys: x, y",
                   .expected = kOwnKeys,
                   .remedy = "{.strict = false}"});
}

TEST_F(BadCheckpoint, WrongShapesAreAllListedWithBothShapes) {
  write({{"weight", torch::zeros({3, 2})}, {"bias", torch::zeros({})}});
  const ErrorText said{.place = file(),
                       .what = kDoesNotFit,
                       .got = "wrong shapes: weight [3, 2] where the model has [2, 3], bias [] where the model has [2]",
                       .expected = kOwnKeys,
                       .remedy = kNothingLoaded};
  refuses(file(), said);
  refuses(file(), said, {.strict = false});
}

TEST_F(BadCheckpoint, AllThreeKindsStandInOneMessage) {
  write({{"weight", torch::zeros({6})}, {"other", torch::zeros({1})}});
  refuses(file(),
          {.place = file(),
           .what = kDoesNotFit,
           .got = "missing keys: bias; unexpected keys: other; wrong shapes: weight [6] where the model has [2, 3]",
           .expected = kOwnKeys,
           .remedy = "Build the model as it was saved"});
}

TEST_F(BadCheckpoint, AShapeOfTheSameSizeIsStillWrong) {
  write({{"weight", torch::zeros({2, 3, 1})}, {"bias", torch::zeros({2})}});
  refuses(file(), {.place = file(),
                   .what = kDoesNotFit,
                   .got = "weight [2, 3, 1] where the model has [2, 3]",
                   .expected = kOwnKeys,
                   .remedy = kNothingLoaded});
}

TEST_F(BadCheckpoint, AMissingFile) {
  const ErrorText said{.place = file(),
                       .what = "The file cannot be read",
                       .got = std::strerror(ENOENT),
                       .expected = "a readable file",
                       .remedy = "Check the path"};
  refuses(file(), said);
  refuses(folder.path().string(), said);
}

TEST_F(BadCheckpoint, AMissingFolder) {
  const std::string path = folder / "nowhere";
  refuses(path, {.place = path,
                 .what = "The file cannot be read",
                 .got = std::strerror(ENOENT),
                 .expected = "a readable file",
                 .remedy = "Check the path"});
}

TEST_F(BadCheckpoint, AFolderInPlaceOfTheFile) {
  std::filesystem::create_directories(file());
  refuses(folder.path().string(), {.place = file(),
                                   .what = "The file cannot be read",
                                   .got = "a folder",
                                   .expected = "a readable file",
                                   .remedy = "Check the path"});
}

TEST_F(BadCheckpoint, AForeignFile) {
  write_text(file(), std::string("PK\x03\x04\x14\x00\x08\x08", 8) + "archive/data.pkl and more of a zip file");
  refuses(file(), {.place = file(),
                   .what = "The header length cannot be true",
                   .got = "bytes",
                   .expected = "at most the rest of the file, 39",
                   .remedy = "no safetensors file"});
}

TEST_F(BadCheckpoint, AnEmptyFile) {
  write_text(file(), "");
  refuses(file(), {.place = file(),
                   .what = "The file is too short for a header",
                   .got = "0 bytes",
                   .expected = "at least 8",
                   .remedy = "write or copy it again"});
}

TEST_F(BadCheckpoint, TruncationAtEveryByteChangesNothing) {
  accelerator.save_model(model, folder.path().string());
  const std::string whole = read_text(file());
  for (size_t length = 0; length < whole.size(); ++length) {
    write_text(file(), whole.substr(0, length));
    EXPECT_THROW(accelerator.load_model(model, file()), DataError) << length;
    EXPECT_THROW(accelerator.load_model(model, file(), {.strict = false}), DataError) << length;
  }
  EXPECT_TRUE(same_bytes(model->weight, weight));
  EXPECT_TRUE(same_bytes(model->bias, bias));
}

TEST_F(BadCheckpoint, AFullDiskAtAnyByteKeepsTheOldFile) {
  accelerator.save_model(model, folder.path().string());
  const std::string old = read_text(file());
  {
    const torch::NoGradGuard no_grad;
    model->weight.fill_(1);
  }
  for (size_t room = 0; room < old.size(); ++room) {
    const auto save = [&] {
      const FullDisk disk(room);
      accelerator.save_model(model, folder.path().string());
    };
    EXPECT_THAT(save, ThrowsError<DataError>({.place = file(),
                                              .what = "cannot be written",
                                              .got = std::strerror(EFBIG),
                                              .expected = "room",
                                              .remedy = "What was there before is unchanged"}))
        << room;
    EXPECT_EQ(read_text(file()), old) << room;
    EXPECT_THAT(folder.names(), ElementsAre("model.safetensors")) << room;
  }
  accelerator.save_model(model, folder.path().string());
  EXPECT_NE(read_text(file()), old);
}

TEST_F(BadCheckpoint, SavingIntoAFolderThatIsAFile) {
  write_text(folder / "out", "text");
  const std::string path = folder / "out/model.safetensors";
  EXPECT_THAT([&] { accelerator.save_model(model, folder / "out"); },
              ThrowsError<DataError>({.place = path,
                                      .what = "The folder cannot be created",
                                      .got = std::strerror(ENOTDIR),
                                      .expected = "folder",
                                      .remedy = "Choose a folder that you may write to"}));
  EXPECT_EQ(read_text(folder / "out"), "text");
}

TEST_F(BadCheckpoint, SavingIntoAFolderThatMayNotBeWrittenTo) {
  accelerator.save_model(model, folder.path().string());
  const std::string old = read_text(file());
  std::filesystem::permissions(folder.path(), std::filesystem::perms(0555));
  {
    const OrdinaryUser user;
    EXPECT_THAT([&] { accelerator.save_model(model, folder.path().string()); },
                ThrowsError<DataError>({.place = file(),
                                        .what = "The file cannot be created",
                                        .got = std::strerror(EACCES),
                                        .expected = "permission",
                                        .remedy = "choose another folder"}));
  }
  std::filesystem::permissions(folder.path(), std::filesystem::perms(0755));
  EXPECT_EQ(read_text(file()), old);
  EXPECT_THAT(folder.names(), ElementsAre("model.safetensors"));
}

TEST_F(BadCheckpoint, ATiedTensorOfTheWrongShapeIsNamedAsInTheFile) {
  struct TiedImpl : torch::nn::Module {
    TiedImpl() {
      a = register_parameter("a", torch::zeros({2}));
      b = register_parameter("b", a);
    }
    torch::Tensor a, b;
  };
  const auto tied = accelerator.prepare(std::make_shared<TiedImpl>());
  write({{"b", torch::ones({3})}});
  EXPECT_THAT([&] { accelerator.load_model(tied, file()); },
              ThrowsError<DataError>({.place = file(),
                                      .what = kDoesNotFit,
                                      .got = "wrong shapes: b [3] where the model has [2]",
                                      .expected = kOwnKeys,
                                      .remedy = kNothingLoaded}));
  EXPECT_TRUE(same_bytes(tied->a, torch::zeros({2})));
}

}  // namespace
}  // namespace accelerate
