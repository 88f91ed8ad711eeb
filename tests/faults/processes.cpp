#include "tests/faults/processes.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <memory>
#include <sstream>
#include <stdexcept>

namespace accelerate::faults {
namespace {

using Clock = std::chrono::steady_clock;
constexpr std::chrono::seconds kLimit{30};

std::vector<char*> pointers(const std::vector<std::string>& words) {
  std::vector<char*> result;
  for (const std::string& word : words) result.push_back(const_cast<char*>(word.c_str()));
  result.push_back(nullptr);
  return result;
}

/// One process, the leader of a process group of its own.
class Process {
 public:
  explicit Process(const Command& command) {
    std::vector<std::string> variables{"PATH=/usr/local/bin:/usr/bin:/bin"};
    for (const auto& [name, value] : command.environment) variables.push_back(name + "=" + value);
    const std::vector<char*> argv = pointers(command.words), envp = pointers(variables);
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0) throw std::runtime_error("no pipe");
    id_ = ::fork();
    if (id_ == 0) {
      ::setpgid(0, 0);
      ::dup2(ends[1], 1);
      ::dup2(ends[1], 2);
      ::execve(argv[0], argv.data(), envp.data());
      ::_exit(125);
    }
    ::setpgid(id_, id_);
    ::close(ends[1]);
    end_ = ends[0];
  }
  ~Process() {
    ::kill(-id_, SIGKILL);
    if (!over_) ::waitpid(id_, nullptr, 0);
    if (end_ >= 0) ::close(end_);
  }
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  int pipe() const { return end_; }
  bool over() const { return over_; }
  bool stopped() const { return stopped_; }

  void read_some() {
    char bytes[65'536];
    const ssize_t size = ::read(end_, bytes, sizeof bytes);
    if (size > 0) {
      ended_.text.append(bytes, static_cast<size_t>(size));
    } else {
      ::close(end_);
      end_ = -1;
    }
  }
  void look() {
    int status = 0;
    if (over_ || ::waitpid(id_, &status, WNOHANG | WUNTRACED | WCONTINUED) != id_) return;
    stopped_ = WIFSTOPPED(status);
    if (!WIFEXITED(status) && !WIFSIGNALED(status)) return;
    over_ = true;
    ended_.exit_code = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
  }
  void kill() {
    ended_.by_us = true;
    ::kill(-id_, SIGKILL);
  }
  /// Once it is over and its pipe is at its end.
  Ended ended() {
    ended_.leftover = ::kill(-id_, 0) == 0;
    return ended_;
  }

 private:
  pid_t id_ = -1;
  int end_ = -1;
  bool over_ = false, stopped_ = false;
  Ended ended_;
};

}  // namespace

std::vector<Ended> run(const std::vector<Command>& commands) {
  std::vector<std::unique_ptr<Process>> processes;
  for (const Command& command : commands) {
    if (!command.words.empty()) processes.push_back(std::make_unique<Process>(command));
  }
  const auto end = Clock::now() + kLimit;
  const auto over = [](const Process& process) { return process.over() && process.pipe() < 0; };
  while (true) {
    bool all_over = true, others_over = true;
    std::vector<pollfd> ready;
    for (const auto& process : processes) {
      process->look();
      if (process->pipe() >= 0) ready.push_back({process->pipe(), POLLIN, 0});
      all_over = all_over && over(*process);
      others_over = others_over && (over(*process) || process->stopped());
    }
    if (all_over) break;
    if (others_over || Clock::now() > end) {
      for (const auto& process : processes) {
        if (!over(*process)) process->kill();
      }
    }
    ::poll(ready.data(), ready.size(), 20);
    for (const pollfd& one : ready) {
      for (const auto& process : processes) {
        if (one.revents != 0 && process->pipe() == one.fd) process->read_some();
      }
    }
  }
  std::vector<Ended> ended;
  for (const auto& process : processes) ended.push_back(process->ended());
  return ended;
}

int free_port() {
  const int socket = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  const bool bound = ::bind(socket, reinterpret_cast<sockaddr*>(&address), size) == 0 &&
                     ::getsockname(socket, reinterpret_cast<sockaddr*>(&address), &size) == 0;
  ::close(socket);
  if (!bound) throw std::runtime_error("no free port");
  return ntohs(address.sin_port);
}

namespace {

std::vector<std::string> words_of(const Run& run) { return {FAULTS_RANK, run.fault, std::to_string(run.faulty)}; }

Variables variables_of(const Run& run) {
  // What a rank gives up on it leaves to the end of the process, which a leak checker would call noise.
  Variables variables{{"OMP_NUM_THREADS", "1"}, {"CUDA_VISIBLE_DEVICES", ""}, {"ASAN_OPTIONS", "detect_leaks=0"}};
  if (!run.backend.empty()) variables["FAULTS_BACKEND"] = run.backend;
  return variables;
}

}  // namespace

std::vector<Ended> run_ranks(const Run& run, int port) {
  const std::string meeting = std::to_string(port == 0 ? free_port() : port);
  std::vector<Command> commands;
  for (int rank = 0; rank < run.ranks; ++rank) {
    Command command{words_of(run), variables_of(run)};
    command.environment["RANK"] = command.environment["LOCAL_RANK"] = std::to_string(rank);
    command.environment["WORLD_SIZE"] = command.environment["LOCAL_WORLD_SIZE"] = std::to_string(run.ranks);
    command.environment["MASTER_ADDR"] = "127.0.0.1";
    command.environment["MASTER_PORT"] = meeting;
    if (run.change != nullptr) run.change(rank, command);
    commands.push_back(std::move(command));
  }
  return faults::run(commands);
}

Ended run_launched(const Run& run) {
  std::vector<std::string> words{ACCELERATE_CPP, "launch", "--num-processes", std::to_string(run.ranks)};
  for (const std::string& word : words_of(run)) words.push_back(word);
  return faults::run({{words, variables_of(run)}}).front();
}

std::vector<std::string> lines(const std::string& text) {
  std::vector<std::string> found;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) found.push_back(line);
  return found;
}

std::vector<std::string> shared_memory() {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator("/dev/shm")) {
    const std::string name = entry.path().filename();
    if (name.find("accelerate") != std::string::npos) names.push_back(name);
  }
  return names;
}

}  // namespace accelerate::faults
