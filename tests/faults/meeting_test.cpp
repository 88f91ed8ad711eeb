// Ranks that do not find each other.
#include "tests/faults/expectations.h"

#include <arpa/inet.h>
#include <sys/socket.h>
#include <unistd.h>

namespace accelerate::faults {
namespace {

using ::testing::AllOf;
using ::testing::AnyOf;
using ::testing::Each;
using ::testing::HasSubstr;
using ::testing::StartsWith;

TEST(Meeting, ARankThatNeverComesIsNamed) {
  const auto ended = run_ranks({.fault = "never_comes", .ranks = 3, .faulty = 2});
  for (const int rank : {0, 1}) {
    EXPECT_THAT(
        failure(ended[rank]),
        AllOf(HasSubstr("[rendezvous] "),
              AnyOf(HasSubstr("Not every rank came: got rank 2 missing after 3 s, expected 3 ranks. Look at the "
                              "output of the missing ones; .init_process_group = {.rendezvous_timeout"),
                    HasSubstr("The store where the ranks are to meet does not answer"))));
  }
  EXPECT_THAT(ended[0].text, HasSubstr("got rank 2 missing after 3 s"));
}

TEST(Meeting, WithoutRankZeroTheAddressIsNamed) {
  const auto ended = run_ranks({.fault = "never_comes", .faulty = 0});
  EXPECT_THAT(failure(ended[1]),
              AllOf(HasSubstr("[rendezvous] The store where the ranks are to meet does not answer: got 127.0.0.1:"),
                    HasSubstr("expected rank 0 to listen there. Start rank 0, and check MASTER_ADDR, MASTER_PORT")));
}

TEST(Meeting, RanksThatCountOnDifferentNumbersOfProcesses) {
  const auto ended = run_ranks({.fault = "none", .change = [](int rank, Command& command) {
                                  if (rank == 1) command.environment["WORLD_SIZE"] = "3";
                                }});
  EXPECT_THAT(
      failure(ended[0]),
      AllOf(HasSubstr("[rendezvous] The ranks count on different numbers of processes: got WORLD_SIZE=2 on rank "
                      "0, 3 on rank 1, expected the same on every rank. Start all processes with one launch.")));
  EXPECT_THAT(failure(ended[1]), HasSubstr("got WORLD_SIZE=3 on rank 1, 2 on rank 0"));
}

TEST(Meeting, TwoProcessesOfOneRank) {
  const auto ended = run_ranks({.fault = "none", .ranks = 3, .change = [](int rank, Command& command) {
                                  if (rank == 2) command.environment["RANK"] = "1";
                                }});
  int refused = 0;
  for (const Ended& rank : ended) {
    const std::string said = failure(rank);
    if (said.find("[rendezvous] Two processes say that they are rank 1: got RANK=1 in ") != std::string::npos)
      ++refused;
  }
  EXPECT_EQ(refused, 1);
}

TEST(Meeting, APortThatIsTaken) {
  const int taken = ::socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in6 address{};
  address.sin6_family = AF_INET6;
  socklen_t size = sizeof address;
  ASSERT_EQ(::bind(taken, reinterpret_cast<sockaddr*>(&address), size), 0);
  ASSERT_EQ(::listen(taken, 1), 0);
  ASSERT_EQ(::getsockname(taken, reinterpret_cast<sockaddr*>(&address), &size), 0);
  const auto ended = run_ranks({.fault = "none"}, ntohs(address.sin6_port));
  ::close(taken);
  EXPECT_THAT(failure(ended[0]), AllOf(HasSubstr("[rendezvous] The port is taken by another program: got 127.0.0.1:" +
                                                 std::to_string(ntohs(address.sin6_port))),
                                       HasSubstr("Choose another MASTER_PORT, the same for every rank.")));
  EXPECT_THAT(failure(ended[1]), HasSubstr("[rendezvous] "));
}

TEST(Meeting, ABackendThatIsNotKnown) {
  for (const Ended& rank : run_ranks({.fault = "unknown_backend"})) {
    EXPECT_THAT(failure(rank),
                AllOf(HasSubstr("[init_process_group] The backend is not built in: got .backend = \"carrier_pigeon\", "
                                "expected one of \"shm\" (cpu), \"gloo\" (cpu)"),
                      HasSubstr("Leave .backend unset to get the best one that works.")));
  }
}

// NCCL is there in builds with CUDA, and refuses a CPU.
TEST(Meeting, ABackendForAnotherDevice) {
  for (const Ended& rank : run_ranks({.fault = "backend_not_built"})) {
    EXPECT_THAT(failure(rank),
                AllOf(HasSubstr("[init_process_group] The backend "), HasSubstr("got .backend = \"nccl\"")));
  }
}

}  // namespace
}  // namespace accelerate::faults
