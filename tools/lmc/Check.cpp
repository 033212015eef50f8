// See Check.h.
#include "tools/lmc/Check.h"

#include "runtime/base/Log.h"
#include "runtime/plan/PlanFacts.h"
#include "runtime/plan/PlanFile.h"
#include "runtime/weights/Safetensors.h"
#include "tools/lmc/StepExchanges.h"

#include <nlohmann/json.hpp>

#include <cmath>
#include <cstdlib>
#include <fcntl.h>
#include <filesystem>
#include <fstream>
#include <numeric>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

using namespace lmc;
using namespace lmc::runtime;
namespace fs = std::filesystem;

extern char **environ;

namespace {

constexpr int kSteps = 3;
constexpr double kLossBound = 1e-5;     // of the loss
constexpr double kGradientBound = 1e-5; // of the gradient's norm
constexpr double kOfAllBound = 1e-7;    // of all gradients' norm

// Plans and what their runs gave.
struct Side {
  std::string plan;
  int64_t ranks = 1;
  std::vector<double> losses;
  std::optional<WeightFiles> gradients;
};

// A folder that goes with its owner, unless somebody wants it.
class Folder {
public:
  static StatusOr<Folder> make(const std::string &keep) {
    std::error_code error;
    Folder folder;
    folder.isKept = !keep.empty();
    std::string name =
        (fs::temp_directory_path(error) / "lmc-check-XXXXXX").string();
    if (folder.isKept)
      fs::create_directories(folder.path = keep, error);
    else if (::mkdtemp(name.data()))
      folder.path = name;
    else
      return jobFailed("cannot make the folder {}: {}", name,
                       std::strerror(errno));
    if (error)
      return wrongInput("cannot make the folder {}: {}", folder.path,
                        error.message());
    return folder;
  }
  Folder(Folder &&other) noexcept
      : path(std::exchange(other.path, "")), isKept(other.isKept) {}
  ~Folder() {
    std::error_code error;
    if (!path.empty() && !isKept)
      fs::remove_all(path, error);
  }
  std::string operator/(const std::string &name) const {
    return (fs::path(path) / name).string();
  }

private:
  Folder() = default;
  std::string path;
  bool isKept = false;
};

// 1 for axes that are not named; what is no size is compile's to refuse.
int64_t axisSize(const std::string &mesh, const std::string &axis) {
  size_t at = ("," + mesh).find("," + axis + "=");
  if (at == std::string::npos)
    return 1;
  int64_t size = std::atoll(mesh.c_str() + at + axis.size() + 1);
  return size >= 1 && size <= 65536 ? size : 1;
}

// Enough blocks for every chunk to have one, and micro-batches for every stage.
CompileSettings meshSettings(CompileSettings settings) {
  int64_t stages = axisSize(settings.mesh, "pp");
  int64_t dataRanks =
      axisSize(settings.mesh, "dp") * axisSize(settings.mesh, "fsdp");
  settings.shrinkDivisor = axisSize(settings.mesh, "tp");
  settings.shrinkBlocks = std::accumulate(settings.stages.begin(),
                                          settings.stages.end(), int64_t(0));
  if (settings.shrinkBlocks == 0)
    settings.shrinkBlocks =
        std::max<int64_t>(2, stages * settings.virtualStages);
  if (settings.microBatch == 0)
    settings.microBatch = 1;
  if (settings.globalBatch == 0)
    settings.globalBatch =
        settings.microBatch * dataRanks * std::max<int64_t>(2, stages);
  return settings;
}

// The same step on one rank; a micro-batch is that of all data ranks together.
CompileSettings oneRankSettings(CompileSettings settings) {
  settings.microBatch *=
      axisSize(settings.mesh, "dp") * axisSize(settings.mesh, "fsdp");
  CompileSettings none;
  settings.mesh = none.mesh;
  settings.sharding = none.sharding;
  settings.sequenceParallel = none.sequenceParallel;
  settings.zero = none.zero;
  settings.pipelineSchedule = none.pipelineSchedule;
  settings.virtualStages = none.virtualStages;
  settings.stages = none.stages;
  return settings;
}

// llm.c's format: a header of 256 integers, then 16 or 32 bits for a token.
Status writeTokens(const std::string &path, const plan::Plan &plan) {
  int64_t count =
      (kSteps + 1) * plan.global_batch() * plan.sequence_length() + 1;
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
StatusOr<int> runProgram(const std::vector<std::string> &arguments,
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

std::string lastLines(const std::string &path) {
  std::ifstream file(path);
  std::string text((std::istreambuf_iterator<char>(file)), {});
  size_t begin = text.size() > 2000 ? text.size() - 2000 : 0;
  return text.substr(begin);
}

Status train(Side &side, const std::string &data, const std::string &stem) {
  std::error_code error;
  fs::path self = fs::read_symlink("/proc/self/exe", error);
  std::string log = stem + ".log", metrics = stem + ".jsonl";
  std::string gradients = stem + ".safetensors";
  LMC_ASSIGN_OR_RETURN(
      int code,
      runProgram({(self.parent_path() / "lmrun").string(), "train", side.plan,
                  "--data", data, "--steps", std::to_string(kSteps), "--nproc",
                  std::to_string(side.ranks), "--comm=local", "--no-pin",
                  "--metrics", metrics, "--dump-gradients", gradients},
                 log));
  if (code != 0)
    return jobFailed("lmrun on {} rank{} ended with {}", side.ranks,
                     side.ranks == 1 ? "" : "s", code)
        .note("{}", lastLines(log));
  std::ifstream lines(metrics);
  for (std::string line; std::getline(lines, line);) {
    auto json = nlohmann::json::parse(line, nullptr, false);
    if (json.is_object() && json.contains("loss"))
      side.losses.push_back(
          json["loss"].is_number() ? json["loss"].get<double>() : std::nan(""));
  }
  if (side.losses.size() != size_t(kSteps))
    return makeError(ErrorKind::Bug, "{} losses of {} steps",
                     side.losses.size(), kSteps);
  LMC_ASSIGN_OR_RETURN(side.gradients, WeightFiles::openFile(gradients));
  return Status();
}

struct Difference {
  std::string tensor;
  std::string place; // in the model's description
  double distance = 0, norm = 0;
};

double squares(const float *a, const float *b, size_t count) {
  double sum = 0;
  for (size_t i = 0; i < count; ++i) {
    double difference = double(a[i]) - (b ? double(b[i]) : 0.0);
    sum += difference * difference;
  }
  return sum;
}

const float *floats(const TensorView &view) {
  return reinterpret_cast<const float *>(view.data.data());
}

// The layer with the longest name that the parameter's name begins with.
std::string placeOfParameter(const plan::Plan &plan, const std::string &name) {
  int best = -1;
  size_t length = 0;
  for (int i = 0; i < plan.locations_size(); ++i) {
    const std::string &layer = plan.locations(i).layer();
    if (layer.size() > length && name.rfind(layer + ".", 0) == 0) {
      best = i;
      length = layer.size();
    }
  }
  return best < 0 ? "" : placeOf(plan, uint32_t(best));
}

// The parameters' gradients in the model's order, of those that are trained.
StatusOr<std::vector<Difference>>
compareGradients(const plan::Plan &plan, const Side &mesh, const Side &one) {
  std::vector<Difference> all;
  std::set<std::string> known;
  for (const plan::State &state : plan.states()) {
    if (state.kind() != plan::State::PARAMETER || !state.trainable())
      continue;
    for (const plan::State::Box &box : state.boxes()) {
      const std::string &name = box.names(0);
      if (!known.insert(name).second)
        continue;
      const TensorView *a = mesh.gradients->find(name);
      const TensorView *b = one.gradients->find(name);
      if (!a || !b || a->shape != b->shape || a->dtype != DataType::F32 ||
          b->dtype != DataType::F32)
        return makeError(ErrorKind::Bug,
                         "the gradient of {} is not there, or has another "
                         "shape or type on the mesh than on one rank",
                         name);
      size_t count = a->data.size() / 4;
      Difference difference{name, placeOfParameter(plan, state.name())};
      difference.distance = std::sqrt(squares(floats(*a), floats(*b), count));
      difference.norm = std::sqrt(squares(floats(*b), nullptr, count));
      all.push_back(std::move(difference));
    }
  }
  return all;
}

// Not a comparison with `>`: a NaN differs.
bool isWithin(double distance, double bound) { return distance <= bound; }

void printDifference(const Difference &d) {
  fmt::print("  {:<40} {:>10.2e} of {:<10.2e} {}\n", d.tensor, d.distance,
             d.norm, d.place);
}

// 0 or 1, and the table.
int compare(const std::string &title, const plan::Plan &plan, const Side &mesh,
            const Side &one, const std::vector<Difference> &gradients) {
  fmt::print("{}\n", title);
  fmt::print("{} samples of {} tokens in a step, in {} micro-batch{}; "
             "vocabulary {}\n\n",
             plan.global_batch(), plan.sequence_length(), plan.micro_batches(),
             plan.micro_batches() == 1 ? "" : "es", plan.vocabulary());
  fmt::print("{:<10} {:>14} {:>14} {:>12}\n", "loss", "mesh", "one rank",
             "difference");
  int wrongStep = 0;
  for (int i = 0; i < kSteps; ++i) {
    double a = mesh.losses[size_t(i)], b = one.losses[size_t(i)];
    double relative = std::abs(a - b) / std::abs(b);
    fmt::print("step {:<5} {:>14.8f} {:>14.8f} {:>12.1e}\n", i + 1, a, b,
               relative);
    if (wrongStep == 0 && !isWithin(relative, kLossBound))
      wrongStep = i + 1;
  }
  double sum = 0;
  for (const Difference &d : gradients)
    sum += d.norm * d.norm;
  std::vector<const Difference *> wrong;
  const Difference *largest = nullptr;
  for (const Difference &d : gradients) {
    if (!isWithin(d.distance,
                  kGradientBound * d.norm + kOfAllBound * std::sqrt(sum)))
      wrong.push_back(&d);
    if (!largest || d.distance * largest->norm > largest->distance * d.norm)
      largest = &d;
  }
  if (largest && wrong.empty())
    fmt::print("\n{} gradients, the largest difference of its norm:\n",
               gradients.size());
  else
    fmt::print("\n{} of {} gradients differ, by their norms:\n", wrong.size(),
               gradients.size());
  if (largest && wrong.empty())
    printDifference(*largest);
  // The backward comes to the last parameters of the model first.
  for (size_t i = 0; i < wrong.size() && i < 12; ++i)
    printDifference(*wrong[wrong.size() - 1 - i]);
  if (wrong.size() > 12)
    fmt::print("  and {} more\n", wrong.size() - 12);
  if (wrong.empty() && wrongStep == 0) {
    fmt::print("\nthe mesh agrees with one rank\n");
    return 0;
  }
  if (wrongStep == 1)
    fmt::print("\ndiffers first: the loss of step 1, in the forward\n");
  else if (!wrong.empty())
    fmt::print("\ndiffers first: the gradient of {}{}, in the backward\n",
               wrong.back()->tensor,
               wrong.back()->place.empty() ? "" : ", " + wrong.back()->place);
  else
    fmt::print("\ndiffers first: the loss of step {}, by the update, for the "
               "gradients of step 1 agree\n",
               wrongStep);
  return 1;
}

int checkIn(const Folder &folder, const CompileSettings &settings) {
  CompileSettings meshOnes = meshSettings(settings);
  CompileSettings oneRank = oneRankSettings(meshOnes);
  Side mesh, one;
  meshOnes.output = mesh.plan = folder / "mesh.plan";
  oneRank.output = one.plan = folder / "one.plan";
  for (const CompileSettings *each : {&oneRank, &meshOnes})
    if (int status = compile(*each))
      return status;
  StatusOr<plan::Plan> plan = readPlanFile(mesh.plan);
  if (!plan.ok())
    return report(plan.status());
  mesh.ranks = worldSize(*plan);
  std::string data = folder / "tokens.bin";
  if (Status status = writeTokens(data, *plan); !status.ok())
    return report(status);
  if (Status status = train(one, data, folder / "one"); !status.ok())
    return report(status);
  if (Status status = train(mesh, data, folder / "mesh"); !status.ok())
    return report(status);
  auto gradients = compareGradients(*plan, mesh, one);
  if (!gradients.ok())
    return report(gradients.status());
  std::string title =
      fmt::format("{}, made small, on {} rank{}{} and on one", settings.model,
                  mesh.ranks, mesh.ranks == 1 ? "" : "s",
                  settings.mesh.empty() ? "" : " (" + settings.mesh + ")");
  int result = compare(title, *plan, mesh, one, *gradients);
  Status written = flushStdout();
  return written.ok() ? result : report(written);
}

} // namespace

int lmc::check(const CompileSettings &settings, const std::string &keep) {
  StatusOr<Folder> folder = Folder::make(keep);
  return folder.ok() ? checkIn(*folder, settings) : report(folder.status());
}
