#include "accelerate/launch/program.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <functional>

#include "tests/launch/running.h"

namespace accelerate::internal::launch {
namespace {

using testing::HasSubstr;

struct Refusal {
  int exit_code = 0;
  std::string text;
};

Refusal refusal(const std::string& name, const std::string& path = "/usr/bin:/bin") {
  try {
    find_program(name, Environment({{"PATH", path}}));
  } catch (const ProgramError& error) {
    return {error.exit_code(), error.what()};
  }
  return {};
}

TEST(LaunchProgram, IsLookedForAsAShellDoes) {
  const Folder first, second;
  first.file("tool", "#!/bin/sh\n", 0644);
  const std::string wanted = second.file("tool", "#!/bin/sh\n", 0755);
  EXPECT_EQ(find_program("tool", Environment({{"PATH", first.path() + ":" + second.path()}})), wanted)
      << "one that is not executable is passed over";
  EXPECT_EQ(find_program(wanted, Environment(std::map<std::string, std::string>{{"PATH", ""}})), wanted);
  EXPECT_EQ(find_program("sh", Environment({})), "/usr/bin/sh");
}

TEST(LaunchProgram, ThatIsNotThereIs127) {
  const Refusal lost = refusal("./no/such/program");
  EXPECT_EQ(lost.exit_code, 127);
  EXPECT_EQ(lost.text,
            "[launch] The program does not exist: got \"./no/such/program\", expected an executable file. Build it, or "
            "correct the path.");
  const Refusal unknown = refusal("no-such-program");
  EXPECT_EQ(unknown.exit_code, 127);
  EXPECT_EQ(
      unknown.text,
      "[launch] The program was not found in PATH: got \"no-such-program\", expected a program in PATH, or a path "
      "with a slash. Correct the name, or give the path.");
  EXPECT_EQ(refusal("").exit_code, 127);
}

TEST(LaunchProgram, InThisFolderIsPointedTo) {
  const Folder folder;
  folder.file("train", "#!/bin/sh\n", 0755);
  const std::unique_ptr<char, void (*)(void*)> before(::getcwd(nullptr, 0), std::free);
  ASSERT_EQ(::chdir(folder.path().c_str()), 0);
  const Refusal missed = refusal("train");
  ASSERT_EQ(::chdir(before.get()), 0);
  EXPECT_THAT(missed.text, HasSubstr("Type ./train for the file in this folder."));
}

TEST(LaunchProgram, ThatCannotBeStartedIs126) {
  const Folder folder;
  EXPECT_EQ(refusal(folder.path()).exit_code, 126);
  EXPECT_THAT(refusal(folder.path()).text, HasSubstr("The program is a folder: got \"" + folder.path()));
  const std::string plain = folder.file("train.py", "print()\n", 0644);
  EXPECT_EQ(refusal(plain).exit_code, 126);
  EXPECT_THAT(refusal(plain).text, HasSubstr("The program is not executable"));
  EXPECT_THAT(refusal(plain).text, HasSubstr("chmod +x " + plain));
}

TEST(LaunchProgram, WithoutItsFirstLineIsSaidToLackIt) {
  const Folder folder;
  const std::string bare = folder.file("bare", "echo hello\n", 0755);
  const Outcome outcome = run({"launch", "--num-processes", "2", bare});
  EXPECT_EQ(outcome.exit_code, 126);
  EXPECT_EQ(outcome.out, "");
  EXPECT_EQ(outcome.err,
            "[launch] The program is no format that this system starts: got \"" + bare +
                "\" without a first line such as #!/bin/sh, expected a program for this machine, or a script "
                "that names its interpreter. Add the line, or put the interpreter in front, such as sh " +
                bare + ".\n");
}

TEST(LaunchProgram, WithAnInterpreterThatIsMissingNamesIt) {
  const Folder folder;
  const std::string script = folder.file("script", "#!/no/such/interpreter\n", 0755);
  const Outcome outcome = run({"launch", script});
  EXPECT_EQ(outcome.exit_code, 126);
  EXPECT_THAT(outcome.err, HasSubstr("got \"#!/no/such/interpreter\" in " + script));
}

TEST(LaunchProgram, ThatDoesNotExistEndsTheCommandAsAShellWould) {
  const Outcome outcome = run({"launch", "--num-processes", "3", "./no-such-program"});
  EXPECT_EQ(outcome.exit_code, 127);
  EXPECT_THAT(outcome.err, HasSubstr("The program does not exist: got \"./no-such-program\""));
}

}  // namespace
}  // namespace accelerate::internal::launch
