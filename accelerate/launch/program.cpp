#include "accelerate/launch/program.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <fstream>
#include <string_view>
#include <system_error>

namespace accelerate::internal::launch {
namespace {

constexpr int kNotFound = 127, kNotStartable = 126;

bool is_file(const std::string& path) {
  struct stat status;
  return ::stat(path.c_str(), &status) == 0 && S_ISREG(status.st_mode);
}

bool is_executable_file(const std::string& path) { return is_file(path) && ::access(path.c_str(), X_OK) == 0; }

std::string in_quotes(const std::string& word) { return "\"" + word + "\""; }

void require_startable(const std::string& path) {
  struct stat status;
  if (::stat(path.c_str(), &status) != 0) {
    const int number = errno;
    const bool absent = number == ENOENT || number == ENOTDIR;
    throw ProgramError(absent ? kNotFound : kNotStartable,
                       {.place = "launch",
                        .what = absent ? "The program does not exist" : "The program cannot be reached",
                        .got = in_quotes(path) + (absent ? "" : ": " + std::generic_category().message(number)),
                        .expected = "an executable file",
                        .remedy = "Build it, or correct the path"});
  }
  if (S_ISDIR(status.st_mode)) {
    throw ProgramError(kNotStartable, {.place = "launch",
                                       .what = "The program is a folder",
                                       .got = in_quotes(path),
                                       .expected = "an executable file",
                                       .remedy = "Name the program inside it"});
  }
  if (::access(path.c_str(), X_OK) != 0) {
    throw ProgramError(kNotStartable, {.place = "launch",
                                       .what = "The program is not executable",
                                       .got = in_quotes(path),
                                       .expected = "a file with the execute permission",
                                       .remedy = "Type: chmod +x " + path +
                                                 "  (or put its interpreter in front, such as python3 " + path + ")"});
  }
}

}  // namespace

std::string find_program(const std::string& name, const Environment& environment) {
  if (name.find('/') != std::string::npos) {
    require_startable(name);
    return name;
  }
  const std::string path = environment.text("PATH").value_or("/usr/local/bin:/usr/bin:/bin");
  for (size_t begin = 0; !name.empty() && begin <= path.size();) {
    const size_t end = std::min(path.find(':', begin), path.size());
    // An empty part of PATH is the working folder.
    const std::string folder = end == begin ? "." : path.substr(begin, end - begin);
    const std::string candidate = folder + "/" + name;
    if (is_executable_file(candidate)) return candidate;
    begin = end + 1;
  }
  const std::string here = "./" + name;
  throw ProgramError(kNotFound,
                     {.place = "launch",
                      .what = "The program was not found in PATH",
                      .got = in_quotes(name),
                      .expected = "a program in PATH, or a path with a slash",
                      .remedy = !name.empty() && is_file(here) ? "Type " + here + " for the file in this folder"
                                                               : "Correct the name, or give the path"});
}

ProgramError exec_failure(const std::string& file, int number) {
  char first[2] = {};
  std::ifstream(file, std::ios::binary).read(first, sizeof(first));
  const bool has_interpreter_line = std::string_view(first, sizeof(first)) == "#!";
  if (number == ENOEXEC && !has_interpreter_line) {
    return {kNotStartable,
            {.place = "launch",
             .what = "The program is no format that this system starts",
             .got = in_quotes(file) + " without a first line such as #!/bin/sh",
             .expected = "a program for this machine, or a script that names its interpreter",
             .remedy = "Add the line, or put the interpreter in front, such as sh " + file}};
  }
  if (number == ENOENT && has_interpreter_line) {
    std::string line;
    std::ifstream script(file);
    std::getline(script, line);
    return {kNotStartable,
            {.place = "launch",
             .what = "The interpreter that the script names does not exist",
             .got = in_quotes(line) + " in " + file,
             .expected = "an interpreter that is installed",
             .remedy = "Install it, or correct the script's first line"}};
  }
  return {kNotStartable,
          {.place = "launch",
           .what = "The program could not be started",
           .got = in_quotes(file) + ": " + std::generic_category().message(number),
           .expected = "a program that this system starts",
           .remedy = "Start it by hand to see more"}};
}

}  // namespace accelerate::internal::launch
