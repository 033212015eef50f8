// How a checkpoint is written: rank 0 gathers the states into the pages of two
// files, and a thread does the rest while training goes on. Nothing has the
// name of a checkpoint before all of it is on the disk.
#include "runtime/base/Checked.h"
#include "runtime/base/Log.h"
#include "runtime/train/Checkpoint.h"
#include "runtime/train/CheckpointParts.h"
#include "runtime/weights/Json.h"

#include <fcntl.h>
#include <unistd.h>

namespace lmc::runtime {

namespace fs = std::filesystem;
using nlohmann::json;

fs::path Checkpointer::partOf(int64_t step) const {
  return folder / fmt::format(".step_{}.part", step);
}

Status Checkpointer::createFiles(const plan::Plan &plan, int64_t step) {
  fs::path part = partOf(step);
  std::error_code error;
  fs::remove_all(part, error);
  fs::create_directories(part, error);
  if (error)
    return jobFailed("cannot make {}: {}", part.string(), error.message());
  LMC_ASSIGN_OR_RETURN(
      model,
      createFileOf(plan, modelStates(), (part / "model.safetensors").string()));
  LMC_ASSIGN_OR_RETURN(optimizer,
                       createFileOf(plan, optimizerStates(),
                                    (part / "optimizer.safetensors").string()));
  return Status();
}

static std::string noSuffix(const plan::State &) { return ""; }

std::vector<Selection> Checkpointer::modelStates() const {
  return {{isParameter, noSuffix,
           options.saveBf16 ? DataType::BF16 : DataType::F32, 1}};
}

std::vector<Selection> Checkpointer::optimizerStates() const {
  std::vector<Selection> states = {
      {isOptimizer, roleSuffix, DataType::Invalid, 1}};
  if (options.saveBf16)
    states.push_back(
        {isParameter,
         [](const plan::State &) -> std::string { return masterSuffix; },
         DataType::Invalid, 1});
  return states;
}

/// What a save leaves behind that did not end well.
void Checkpointer::giveUp(int64_t step, Status status) {
  model.reset();
  optimizer.reset();
  std::error_code ignored;
  fs::remove_all(partOf(step), ignored);
  logWarning("the checkpoint of step {} was not saved: {}", step,
             status.message());
  lastSave = std::move(status);
}

/// The plan's config.json, which says that weights are float32.
static std::string configOf(const plan::Plan &plan, bool saveBf16) {
  std::string config = plan.model_config();
  const std::string said = R"("torch_dtype": "float32")";
  if (size_t at = config.find(said); saveBf16 && at != std::string::npos)
    config.replace(at, said.size(), R"("torch_dtype": "bfloat16")");
  return config;
}

Status Checkpointer::save(Executor &executor, CheckpointState state) {
  uint8_t mayGather = 1;
  if (executor.rank() == 0) {
    join();
    Status status = createFiles(executor.plan(), state.step);
    mayGather = status.ok();
    if (!status.ok())
      giveUp(state.step, std::move(status));
  }
  LMC_RETURN_IF_ERROR(tellAll(executor, &mayGather, 1));
  if (!mayGather)
    return Status();
  LMC_RETURN_IF_ERROR(
      gather(executor, modelStates(), model ? &*model : nullptr));
  LMC_RETURN_IF_ERROR(
      gather(executor, optimizerStates(), optimizer ? &*optimizer : nullptr));
  if (executor.rank() != 0)
    return Status();
  modelConfig = configOf(executor.plan(), options.saveBf16);
  auto writeAll = [this, state] {
    if (Status status = write(state); !status.ok())
      giveUp(state.step, std::move(status));
    else
      lastSave = Status();
  };
  StatusOr<std::thread> started = startThread("lmc-checkpoint", writeAll);
  if (started.ok())
    writer = *std::move(started);
  else
    writeAll(); // the step waits for it then
  return Status();
}

static Status meet(Executor &executor) {
  return executor.comm() ? executor.comm()->barrier() : Status();
}

Status Checkpointer::finish(Executor &executor) {
  join();
  LMC_RETURN_IF_ERROR(lastSave);
  return meet(executor);
}

static Status syncFolder(const fs::path &path) {
  int fd = ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0)
    return fileError("open", path.string());
  Status status =
      ::fsync(fd) == 0 ? Status() : fileError("flush", path.string());
  ::close(fd);
  return status;
}

Status Checkpointer::writeFiles(const CheckpointState &state) {
  fs::path part = partOf(state.step);
  json files = json::object();
  auto record = [&](const std::string &name, const WrittenFile &file) {
    files[name] = {{"bytes", file.bytes}, {"xxh3_128", file.checksum}};
  };
  auto writeText = [&](const std::string &name, const std::string &text) {
    record(name, describe(text));
    return writeWholeFile((part / name).string(), text);
  };
  json map = json::object();
  int64_t total = 0;
  for (const TensorToWrite &tensor : model->tensors()) {
    map[tensor.name] = "model.safetensors";
    total += *checkedElements(tensor.shape) *
             lookUpDataType(int(tensor.dtype))->sizeBytes;
  }
  for (auto [name, file] : {std::pair("model.safetensors", &model),
                            std::pair("optimizer.safetensors", &optimizer)}) {
    LMC_ASSIGN_OR_RETURN(WrittenFile written, (*file)->finish());
    file->reset();
    record(name, written);
  }
  json index = {{"metadata", {{"total_size", total}}}, {"weight_map", map}};
  LMC_RETURN_IF_ERROR(
      writeText("model.safetensors.index.json", index.dump(2) + "\n"));
  if (!modelConfig.empty())
    LMC_RETURN_IF_ERROR(writeText("config.json", modelConfig));
  for (const auto &[name, content] : companions)
    LMC_RETURN_IF_ERROR(writeText(name, content));
  json trainer = {
      {"step", state.step}, {"samples", state.samples}, {"seed", state.seed}};
  if (!state.order.empty())
    trainer["order"] = state.order;
  if (!state.rate.empty())
    trainer["rate"] = state.rate;
  LMC_RETURN_IF_ERROR(writeText("trainer.json", trainer.dump(2) + "\n"));
  json manifest = {{"version", 1}, {"step", state.step}, {"files", files}};
  return writeWholeFile((part / "manifest.json").string(),
                        manifest.dump(2) + "\n");
}

Status Checkpointer::write(const CheckpointState &state) {
  std::string name = fmt::format("step_{}", state.step);
  fs::path part = partOf(state.step);
  LMC_RETURN_IF_ERROR(writeFiles(state));
  LMC_RETURN_IF_ERROR(syncFolder(part));
  std::error_code error;
  // A checkpoint of the same step is there only if it was passed over as
  // damaged when this run resumed.
  fs::remove_all(folder / name, error);
  fs::rename(part, folder / name, error);
  if (error)
    return jobFailed("cannot rename {} to {}: {}", part.string(), name,
                     error.message());
  LMC_RETURN_IF_ERROR(syncFolder(folder));
  LMC_RETURN_IF_ERROR(pointLatestTo(state.step));
  LMC_RETURN_IF_ERROR(syncFolder(folder));
  prune(name);
  return Status();
}

void Checkpointer::prune(const std::string &newest) {
  if (options.keep <= 0)
    return;
  int64_t kept = 0;
  for (int64_t step : savedSteps(folder)) {
    std::string name = fmt::format("step_{}", step);
    if (kept++ < options.keep || name == newest)
      continue;
    // Out of the way in one move, so that no half checkpoint has its name.
    std::error_code error;
    fs::path gone = folder / fmt::format(".{}.gone", name);
    fs::rename(folder / name, gone, error);
    if (!error)
      fs::remove_all(gone, error);
  }
}

Status dumpGradients(Executor &executor, const std::string &path,
                     double scale) {
  std::vector<Selection> states = {{[](const plan::State &state) {
                                      return state.kind() ==
                                             plan::State::ACCUMULATOR;
                                    },
                                    noSuffix, DataType::F32, scale}};
  if (executor.rank() != 0)
    return gather(executor, states, nullptr);
  LMC_ASSIGN_OR_RETURN(SafetensorsFile file,
                       createFileOf(executor.plan(), states, path));
  LMC_RETURN_IF_ERROR(gather(executor, states, &file));
  return file.finish().status();
}

} // namespace lmc::runtime
