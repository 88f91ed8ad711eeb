#include "tests/ranks/processes.h"

#include <sys/wait.h>
#include <unistd.h>

#include <stdexcept>
#include <torch/csrc/distributed/c10d/FileStore.hpp>

#include "tests/support/read_all.h"
#include "tests/support/temporary_folder.h"

namespace ranks {

using accelerate::Accelerator;
using accelerate::AcceleratorOptions;
using accelerate::support::read_all;

std::vector<std::string> run_processes(int size, const AcceleratorOptions& options,
                                       const std::function<std::string(Accelerator&)>& body) {
  const accelerate::support::TemporaryFolder folder;
  const std::string path = (folder.path() / "store").string();
  std::vector<int> pipes;
  for (int rank = 0; rank < size; ++rank) {
    int ends[2];
    if (::pipe(ends) != 0) throw std::runtime_error("no pipe");
    if (::fork() == 0) {
      std::string text;
      try {
        torch::set_num_threads(1);  // a fork has none of the threads that its parent's pools have
        AcceleratorOptions own = options;
        own.world = accelerate::World{.rank = rank, .size = size, .local_rank = rank, .local_size = size};
        own.store = accelerate::StoreHandle(c10::make_intrusive<c10d::FileStore>(path, size));
        accelerate::set_seed(static_cast<uint64_t>(100 + rank));
        Accelerator accelerator(own);
        text = body(accelerator);
      } catch (const std::exception& error) {
        text = std::string("[thrown] ") + error.what();
      }
      const bool written = ::write(ends[1], text.data(), text.size()) == static_cast<ssize_t>(text.size());
      ::_exit(written ? 0 : 1);
    }
    ::close(ends[1]);
    pipes.push_back(ends[0]);
  }
  std::vector<std::string> texts;
  for (const int pipe : pipes) texts.push_back(read_all(pipe));
  for (int rank = 0; rank < size; ++rank) ::wait(nullptr);
  return texts;
}

}  // namespace ranks
