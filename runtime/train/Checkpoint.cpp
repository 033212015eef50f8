// See Checkpoint.h.
#include "runtime/train/Checkpoint.h"
#include "runtime/base/Checked.h"
#include "runtime/base/Log.h"
#include "runtime/plan/PlanFacts.h"
#include "runtime/train/CheckpointParts.h"
#include "runtime/weights/Json.h"
#include "runtime/weights/ModelConfig.h"

#include <algorithm>
#include <cstring>
#include <fcntl.h>
#include <set>
#include <sys/file.h>
#include <unistd.h>

namespace lmc::runtime {

namespace fs = std::filesystem;
using nlohmann::json;

Checkpointer::Checkpointer(const TrainOptions &options)
    : options(options), folder(options.checkpointFolder) {}

Checkpointer::~Checkpointer() {
  join();
  if (lockFile >= 0)
    ::close(lockFile);
}

/// Two runs in one folder would remove each other's checkpoints. One that was
/// killed may take a moment to go; a file system without locks has none.
Status Checkpointer::lockFolder() {
  if (lockFile >= 0)
    return Status();
  std::string path = (folder / ".lock").string();
  lockFile = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (lockFile < 0)
    return fileError("write", path);
  for (int tries = 0; ::flock(lockFile, LOCK_EX | LOCK_NB) != 0; ++tries) {
    if (errno != EWOULDBLOCK)
      return Status();
    if (tries == 40)
      return wrongInput("the checkpoint folder {} is in use by another run",
                        folder.string())
          .help("wait for its end, or name another --checkpoint folder");
    ::usleep(50000);
  }
  return Status();
}

void Checkpointer::join() {
  if (writer.joinable())
    writer.join();
}

/// Of steps and samples; sums of two fit 63 bits.
constexpr int64_t mostCounted = int64_t(1) << 62;

/// The N of "step_N", or -1.
static int64_t stepOf(const std::string &name) {
  if (name.compare(0, 5, "step_") != 0 || name.size() == 5 ||
      name.size() > 20 ||
      name.find_first_not_of("0123456789", 5) != std::string::npos)
    return -1;
  return std::stoll(name.substr(5));
}

/// Of a checkpoint that has to have it.
static StatusOr<MappedFile> openPart(const fs::path &folder,
                                     const std::string &file) {
  std::error_code error;
  if (!fs::exists(folder / file, error))
    return corrupt("the checkpoint {} is damaged: {} is missing",
                   folder.string(), file);
  return MappedFile::open((folder / file).string());
}

static StatusOr<json> readManifest(const fs::path &folder) {
  LMC_ASSIGN_OR_RETURN(MappedFile text, openPart(folder, "manifest.json"));
  LMC_ASSIGN_OR_RETURN(json manifest, parseJson(text.bytes(), text.path()));
  if (!manifest.is_object() || !manifest.contains("version") ||
      !manifest.contains("files") || !manifest["files"].is_object())
    return corrupt("{} is no manifest", text.path());
  return std::move(manifest);
}

/// What another version wrote is no damage: the work of a newer lmrun is not
/// to be passed over for an older checkpoint.
static Status checkVersion(const json &manifest, const fs::path &folder) {
  if (manifest["version"] == 1)
    return Status();
  return corrupt("the checkpoint {} is of version {}; this build reads "
                 "version 1",
                 folder.string(), manifest["version"].dump())
      .help("go on with the lmrun that wrote it, or start from its weights "
            "alone: --weights {} without --resume, and another --checkpoint "
            "folder",
            folder.string());
}

StatusOr<CheckpointState> verifyCheckpoint(const std::string &name) {
  fs::path folder = name;
  LMC_ASSIGN_OR_RETURN(json manifest, readManifest(folder));
  LMC_RETURN_IF_ERROR(checkVersion(manifest, folder));
  for (const char *file :
       {"model.safetensors", "optimizer.safetensors", "trainer.json"})
    if (!manifest["files"].contains(file))
      return corrupt("{} does not list {}", (folder / "manifest.json").string(),
                     file);
  for (auto &[file, entry] : manifest["files"].items()) {
    if (file.find('/') != std::string::npos || !entry.is_object() ||
        !entry.contains("bytes") || !entry.contains("xxh3_128"))
      return corrupt("{} has a bad entry", (folder / "manifest.json").string());
    LMC_ASSIGN_OR_RETURN(MappedFile content, openPart(folder, file));
    WrittenFile found = describe(content.bytes());
    content.release(0, content.bytes().size());
    if (entry["bytes"] != found.bytes || entry["xxh3_128"] != found.checksum)
      return corrupt("{} is damaged: it does not match its manifest",
                     content.path());
  }
  LMC_ASSIGN_OR_RETURN(MappedFile trainerText,
                       openPart(folder, "trainer.json"));
  LMC_ASSIGN_OR_RETURN(json trainer,
                       parseJson(trainerText.bytes(), trainerText.path()));
  CheckpointState state;
  state.folder = name;
  for (const char *key : {"step", "samples", "seed"})
    if (!trainer.is_object() || !trainer.contains(key) ||
        !trainer[key].is_number_unsigned())
      return corrupt("{} is no training state of lmrun: it has no {}",
                     trainerText.path(), key);
  for (const char *key : {"step", "samples"})
    if (trainer[key].get<uint64_t>() > uint64_t(mostCounted))
      return corrupt("{} is no training state of lmrun: {} {}",
                     trainerText.path(), trainer[key].dump(), key);
  state.step = trainer["step"].get<int64_t>();
  state.samples = trainer["samples"].get<int64_t>();
  if (int64_t named = stepOf(folder.filename().string());
      manifest.value("step", json()) != state.step ||
      (named >= 0 && named != state.step))
    return corrupt("the checkpoint {} is of step {} by its trainer.json, of "
                   "step {} by its manifest.json",
                   folder.string(), state.step,
                   manifest.value("step", json()).dump())
        .help("if it was renamed, call it step_{} again", state.step);
  state.seed = trainer["seed"].get<uint64_t>();
  auto readFacts = [&](const char *name) {
    std::map<std::string, std::string> facts;
    if (trainer.contains(name) && trainer[name].is_object())
      for (auto &[key, value] : trainer[name].items())
        if (value.is_string())
          facts[key] = value.get<std::string>();
    return facts;
  };
  state.order = readFacts("order");
  state.rate = readFacts("rate");
  return state;
}

std::vector<int64_t> savedSteps(const fs::path &folder) {
  std::vector<int64_t> steps;
  std::error_code error;
  for (const fs::directory_entry &entry :
       fs::directory_iterator(folder, error)) {
    int64_t step = stepOf(entry.path().filename().string());
    if (step >= 0)
      steps.push_back(step);
  }
  std::sort(steps.rbegin(), steps.rend());
  return steps;
}

fs::path Checkpointer::folderOf(int64_t step) const {
  return folder / fmt::format("step_{}", step);
}

int64_t Checkpointer::newestUpTo(int64_t step) {
  join();
  for (int64_t saved : savedSteps(folder))
    if (saved <= step)
      return saved;
  return -1;
}

/// The one that --resume=step_N names, and no other.
StatusOr<CheckpointState>
Checkpointer::chooseStep(const std::vector<int64_t> &steps) {
  if (std::find(steps.begin(), steps.end(), options.resumeStep) != steps.end())
    return verifyCheckpoint(folderOf(options.resumeStep).string());
  Status status = wrongInput("--resume=step_{}: {} has no such checkpoint",
                             options.resumeStep, folder.string());
  if (steps.empty())
    return std::move(status).note("it has none");
  return std::move(status).note("it has step_{}", fmt::join(steps, ", step_"));
}

/// Also when a run goes on: the one before may have been killed between a
/// checkpoint and this.
Status Checkpointer::pointLatestTo(int64_t step) {
  std::string path = (folder / "latest").string();
  std::string text = fmt::format("step_{}\n", step);
  StatusOr<MappedFile> before = MappedFile::open(path);
  if (before.ok() && before->bytes() == text)
    return Status();
  return writeWholeFile(path, text);
}

/// The run takes another way from `step` on: checkpoints of later steps are
/// not its own, and --resume and --keep would take them for the newest.
Status Checkpointer::setAsideAfter(int64_t step) {
  std::vector<std::string> moved;
  for (int64_t later : savedSteps(folder)) {
    if (later <= step)
      break;
    std::error_code error;
    std::string name = folderOf(later).string(), aside = name + ".aside";
    for (int i = 2; fs::exists(aside, error); ++i)
      aside = fmt::format("{}.aside{}", name, i);
    fs::rename(name, aside, error);
    if (error)
      return jobFailed("cannot rename {} to {}: {}", name, aside,
                       error.message());
    moved.push_back(aside);
  }
  if (!moved.empty())
    logWarning("{} checkpoint{} later than step_{} {} set aside, the newest as "
               "{}",
               moved.size(), moved.size() == 1 ? "" : "s", step,
               moved.size() == 1 ? "is" : "are", moved[0]);
  return Status();
}

StatusOr<std::optional<CheckpointState>> Checkpointer::choose(bool resume) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error)
    return wrongInput("cannot make the checkpoint folder {}: {}",
                      folder.string(), error.message());
  if (fs::exists(folder / "manifest.json", error))
    return wrongInput("--checkpoint {}: this is a checkpoint, not a folder of "
                      "checkpoints",
                      folder.string())
        .help("name the folder around it; --resume=step_N goes on from one");
  LMC_RETURN_IF_ERROR(lockFolder());
  std::vector<int64_t> steps = savedSteps(folder);
  if (!resume && !steps.empty())
    return wrongInput("{} already holds checkpoints, up to step {}",
                      folder.string(), steps[0])
        .help("go on from them with --resume, or name another --checkpoint "
              "folder");
  // Left behind by a run that was killed while it saved.
  std::vector<fs::path> leftOver;
  for (const fs::directory_entry &entry :
       fs::directory_iterator(folder, error)) {
    std::string name = entry.path().filename().string();
    if (name.compare(0, 6, ".step_") == 0 || name.compare(0, 7, "latest.") == 0)
      leftOver.push_back(entry.path());
  }
  for (const fs::path &path : leftOver)
    fs::remove_all(path, error);
  if (resume && options.resumeStep >= 0) {
    LMC_ASSIGN_OR_RETURN(CheckpointState state, chooseStep(steps));
    return std::optional<CheckpointState>(std::move(state));
  }
  Status firstFailure;
  for (int64_t step : steps) {
    std::string name = folderOf(step).string();
    StatusOr<CheckpointState> state = verifyCheckpoint(name);
    if (state.ok())
      return std::optional<CheckpointState>(*state);
    if (StatusOr<json> manifest = readManifest(name); manifest.ok())
      LMC_RETURN_IF_ERROR(checkVersion(*manifest, name));
    logWarning("checkpoint {} is passed over: {}", name,
               state.status().message());
    if (firstFailure.ok())
      firstFailure = state.status();
  }
  if (!firstFailure.ok())
    return firstFailure; // do not silently begin anew over damaged work
  return std::optional<CheckpointState>();
}

/// The samples of the steps to come would not be those that the run before
/// would have taken.
static Status compareOrder(const CheckpointState &saved,
                           const TrainOptions &now,
                           const std::map<std::string, std::string> &order) {
  std::vector<std::string> differences;
  for (const auto &[name, value] : order) {
    auto before = saved.order.find(name);
    if (before != saved.order.end() && before->second != value)
      differences.push_back(
          fmt::format("{} was {}, now {}", name, before->second, value));
  }
  if (now.seedGiven && now.seed != saved.seed)
    differences.push_back(
        fmt::format("--seed was {}, now {}", saved.seed, now.seed));
  if (differences.empty())
    return Status();
  Status status = wrongInput("{} was saved by a run of other data or another "
                             "order: {}",
                             saved.folder, differences[0]);
  for (size_t i = 1; i < differences.size(); ++i)
    status = std::move(status).note("{}", differences[i]);
  return std::move(status).help("to start from its weights alone: --weights {} "
                                "without --resume, and another --checkpoint "
                                "folder",
                                saved.folder);
}

/// Moments of a parameter that is frozen now.
static void warnOfUnused(const plan::Plan &plan, const WeightFiles &optimizer,
                         const std::string &folder) {
  std::set<std::string> used;
  for (const plan::State &state : plan.states())
    if (isOptimizer(state) || isParameter(state))
      for (const BoxMap &box :
           boxesOf(plan, state,
                   isParameter(state) ? std::string(masterSuffix)
                                      : roleSuffix(state)))
        used.insert(box.names.begin(), box.names.end());
  std::vector<std::string> unused;
  for (const auto &[name, view] : optimizer.tensors())
    if (!used.count(name))
      unused.push_back(name);
  if (!unused.empty())
    logWarning("the plan has no place for {} optimizer tensor{} of {}; the "
               "first is {}; what belongs to parameters that are frozen now "
               "is dropped",
               unused.size(), unused.size() == 1 ? "" : "s", folder, unused[0]);
}

StatusOr<std::optional<CheckpointState>>
Checkpointer::restore(Executor &executor, bool resume,
                      const std::map<std::string, std::string> &order) {
  std::optional<CheckpointState> chosen;
  if (executor.rank() == 0) {
    modelConfig = executor.plan().model_config();
    LMC_ASSIGN_OR_RETURN(chosen, choose(resume));
    if (chosen)
      LMC_RETURN_IF_ERROR(compareOrder(*chosen, options, order));
  }
  struct {
    int64_t isChosen, step, samples;
    uint64_t seed;
  } told = {};
  if (chosen)
    told = {1, chosen->step, chosen->samples, chosen->seed};
  LMC_RETURN_IF_ERROR(tellAll(executor, &told, sizeof told));
  if (!told.isChosen)
    return chosen;
  if (!chosen)
    chosen.emplace();
  chosen->step = told.step;
  chosen->samples = told.samples;
  chosen->seed = told.seed;
  chosen->folder = folderOf(told.step).string();
  fs::path from = chosen->folder;
  LMC_ASSIGN_OR_RETURN(
      WeightFiles optimizerFile,
      WeightFiles::openFile((from / "optimizer.safetensors").string(),
                            WeightFiles::Verify::No)); // rank 0 has done so
  LMC_ASSIGN_OR_RETURN(
      WeightFiles weights,
      WeightFiles::open(from.string(), WeightFiles::Verify::No));
  LMC_RETURN_IF_ERROR(compareWithRank0(executor, optimizerFile));
  LMC_RETURN_IF_ERROR(compareWithRank0(executor, weights));
  const plan::Plan &plan = executor.plan();
  struct Load {
    const plan::State *state;
    const WeightFiles *file;
    std::string suffix;
  };
  std::vector<Load> loads;
  std::vector<std::string> problems;
  for (const plan::State &state : plan.states()) {
    if (isOptimizer(state)) {
      loads.push_back({&state, &optimizerFile, roleSuffix(state)});
    } else if (isParameter(state)) {
      bool master =
          optimizerFile.find(boxesOf(plan, state, masterSuffix)[0].names[0]);
      loads.push_back({&state, master ? &optimizerFile : &weights,
                       master ? masterSuffix : ""});
    } else {
      continue;
    }
    checkState(plan, state, *loads.back().file, loads.back().suffix, problems);
  }
  std::vector<std::string> unused = unusedTensors(plan, weights);
  if (!unused.empty())
    problems.push_back(fmt::format("the model has no place for {} tensor{}; "
                                   "the first is {}",
                                   unused.size(), unused.size() == 1 ? "" : "s",
                                   unused[0]));
  if (!problems.empty()) {
    Status status = wrongInput("the checkpoint {} is not of this model or "
                               "optimizer",
                               chosen->folder);
    for (const std::string &problem : problems)
      status = std::move(status).note("{}", problem);
    return status;
  }
  LMC_RETURN_IF_ERROR(checkModelConfig(plan, weights));
  if (executor.rank() == 0)
    warnOfUnused(plan, optimizerFile, chosen->folder);
  for (const Load &load : loads)
    if (isOnStage(*load.state, executor.stage()))
      loadState(executor, *load.state, *load.file, load.suffix);
  bool isLatest = options.resumeStep < 0;
  if (executor.rank() == 0 && (isLatest || chosen->step < options.steps)) {
    LMC_RETURN_IF_ERROR(pointLatestTo(chosen->step));
    if (!isLatest)
      LMC_RETURN_IF_ERROR(setAsideAfter(chosen->step));
  }
  return chosen;
}

} // namespace lmc::runtime
