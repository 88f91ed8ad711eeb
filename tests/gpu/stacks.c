// To be preloaded where there is no debugger: SIGUSR1 prints the stack of every thread, and what crashes its own.
#define _GNU_SOURCE
#include <dirent.h>
#include <execinfo.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

static atomic_flag printing = ATOMIC_FLAG_INIT;

static void say(const char* text) {
  if (write(STDERR_FILENO, text, strlen(text)) < 0) return;
}

static void print_stack(const char* title) {
  void* frames[64];
  char name[17] = "";
  const int count = backtrace(frames, 64);
  prctl(PR_GET_NAME, name);
  while (atomic_flag_test_and_set(&printing)) usleep(1000);
  say(title);
  say(name);
  say("\n");
  backtrace_symbols_fd(frames, count, STDERR_FILENO);
  atomic_flag_clear(&printing);
}

static void on_thread(int signal) {
  (void)signal;
  print_stack("--- thread ");
}

static void on_process(int signal) {
  (void)signal;
  DIR* tasks = opendir("/proc/self/task");
  if (tasks == NULL) return;
  const struct dirent* task;
  while ((task = readdir(tasks)) != NULL) {
    const long id = atol(task->d_name);
    if (id > 0) syscall(SYS_tgkill, getpid(), id, SIGUSR2);
  }
  closedir(tasks);
}

static void on_crash(int number) {
  print_stack("--- crashed: thread ");
  signal(number, SIG_DFL);
  raise(number);
}

static void handle(int number, void (*handler)(int)) {
  struct sigaction action;
  memset(&action, 0, sizeof action);
  action.sa_handler = handler;
  action.sa_flags = SA_RESTART;
  sigaction(number, &action, NULL);
}

__attribute__((constructor)) static void start(void) {
  void* frames[4];
  backtrace(frames, 4);  // loads what it takes, now
  handle(SIGUSR1, on_process);
  handle(SIGUSR2, on_thread);
  handle(SIGSEGV, on_crash);
  handle(SIGABRT, on_crash);
}
