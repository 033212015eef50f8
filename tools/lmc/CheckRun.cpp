// See CheckRun.h.
#include "tools/lmc/CheckRun.h"

#include "runtime/base/MappedFile.h"

#include <nlohmann/json.hpp>

#include <cmath>
#include <cstring>
#include <fcntl.h>
#include <filesystem>
#include <fstream>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

using namespace lmc;
using namespace lmc::runtime;
namespace fs = std::filesystem;

extern char **environ;

// llm.c's format: a header of 256 integers, then 16 or 32 bits for a token.
Status lmc::writeTokens(const std::string &path, const plan::Plan &plan,
                        int steps) {
  int64_t count =
      (steps + 1) * plan.global_batch() * plan.sequence_length() + 1;
  bool wide = plan.vocabulary() > 65536;
  std::vector<uint32_t> header(256);
  header[0] = wide ? 20240801 : 20240520;
  header[1] = wide ? 7 : 1;
  header[2] = uint32_t(count);
  std::string bytes(reinterpret_cast<const char *>(header.data()), 1024);
  uint64_t state = 1;
  for (int64_t i = 0; i < count; ++i) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    uint32_t token = uint32_t((state >> 33) % uint64_t(plan.vocabulary()));
    bytes.append(reinterpret_cast<const char *>(&token), wide ? 4 : 2);
  }
  return writeWholeFile(path, bytes);
}

// Runs a program to its end, what it prints goes to `log`.
static StatusOr<int> runProgram(const std::vector<std::string> &arguments,
                                const std::string &log) {
  std::vector<char *> argv;
  for (const std::string &argument : arguments)
    argv.push_back(const_cast<char *>(argument.c_str()));
  argv.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawn_file_actions_addopen(&actions, 1, log.c_str(),
                                     O_WRONLY | O_CREAT | O_TRUNC, 0666);
  ::posix_spawn_file_actions_adddup2(&actions, 1, 2);
  pid_t child = 0;
  int error =
      ::posix_spawn(&child, argv[0], &actions, nullptr, argv.data(), environ);
  ::posix_spawn_file_actions_destroy(&actions);
  if (error)
    return jobFailed("cannot run {}: {}", arguments[0], std::strerror(error))
        .help("lmrun has to lie beside lmc");
  int status = 0;
  while (::waitpid(child, &status, 0) < 0)
    if (errno != EINTR)
      return jobFailed("cannot wait for {}: {}", arguments[0],
                       std::strerror(errno));
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static std::string lastLines(const std::string &path) {
  std::ifstream file(path);
  std::string text((std::istreambuf_iterator<char>(file)), {});
  size_t begin = text.size() > 2000 ? text.size() - 2000 : 0;
  return text.substr(begin);
}

StatusOr<std::vector<double>> lmc::train(const Side &side,
                                         const std::string &data, int steps,
                                         const std::string &stem,
                                         const std::vector<std::string> &more) {
  std::error_code error;
  fs::path self = fs::read_symlink("/proc/self/exe", error);
  std::string log = stem + ".log", metrics = stem + ".jsonl";
  std::vector<std::string> command = {(self.parent_path() / "lmrun").string(),
                                      "train",
                                      side.plan,
                                      "--data",
                                      data,
                                      "--steps",
                                      std::to_string(steps),
                                      "--nproc",
                                      std::to_string(side.ranks),
                                      "--comm=local",
                                      "--no-pin",
                                      "--metrics",
                                      metrics};
  command.insert(command.end(), more.begin(), more.end());
  LMC_ASSIGN_OR_RETURN(int code, runProgram(command, log));
  if (code != 0)
    return makeError(code == int(ErrorKind::DoesNotFit) ? ErrorKind::DoesNotFit
                                                        : ErrorKind::JobFailed,
                     "lmrun on {} rank{} ended with {}", side.ranks,
                     side.ranks == 1 ? "" : "s", code)
        .note("{}", lastLines(log));
  std::vector<double> losses;
  std::ifstream lines(metrics);
  for (std::string line; std::getline(lines, line);) {
    auto json = nlohmann::json::parse(line, nullptr, false);
    if (json.is_object() && json.contains("loss"))
      losses.push_back(json["loss"].is_number() ? json["loss"].get<double>()
                                                : std::nan(""));
  }
  if (losses.size() != size_t(steps))
    return makeError(ErrorKind::Bug, "{} losses of {} steps", losses.size(),
                     steps);
  return std::move(losses);
}
