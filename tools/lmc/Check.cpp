// See Check.h.
#include "tools/lmc/Check.h"

#include "runtime/base/Log.h"
#include "runtime/plan/PlanFacts.h"
#include "runtime/plan/PlanFile.h"
#include "runtime/weights/Safetensors.h"
#include "tools/lmc/CheckRun.h"
#include "tools/lmc/StepExchanges.h"

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <numeric>
#include <regex>
#include <set>
#include <unistd.h>

using namespace lmc;
using namespace lmc::runtime;
namespace fs = std::filesystem;

namespace {

constexpr int kSteps = 3;
constexpr double kLossBound = 1e-5;     // of the loss
constexpr double kGradientBound = 1e-5; // of the gradient's norm
constexpr double kOfAllBound = 1e-7;    // of all gradients' norm

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
StatusOr<std::vector<Difference>> compareGradients(const plan::Plan &plan,
                                                   const WeightFiles &mesh,
                                                   const WeightFiles &one) {
  std::vector<Difference> all;
  std::set<std::string> known;
  for (const plan::State &state : plan.states()) {
    if (state.kind() != plan::State::PARAMETER || !state.trainable())
      continue;
    for (const plan::State::Box &box : state.boxes()) {
      const std::string &name = box.names(0);
      if (!known.insert(name).second)
        continue;
      const TensorView *a = mesh.find(name);
      const TensorView *b = one.find(name);
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

// What is compared, and what its runs gave.
struct Pair {
  const Folder &folder;
  plan::Plan plan; // of the mesh
  Side mesh, one;
  std::string data;
  std::vector<double> meshLosses, oneLosses;
  std::vector<Difference> gradients;
};

Status runBoth(Pair &pair) {
  LMC_RETURN_IF_ERROR(writeTokens(pair.data, pair.plan, kSteps));
  auto run = [&](const Side &side, const std::string &stem,
                 std::vector<double> &losses) -> StatusOr<WeightFiles> {
    std::string gradients = stem + ".safetensors";
    LMC_ASSIGN_OR_RETURN(losses, train(side, pair.data, kSteps, stem,
                                       {"--dump-gradients", gradients}));
    return WeightFiles::openFile(gradients);
  };
  LMC_ASSIGN_OR_RETURN(WeightFiles one,
                       run(pair.one, pair.folder / "one", pair.oneLosses));
  LMC_ASSIGN_OR_RETURN(WeightFiles mesh,
                       run(pair.mesh, pair.folder / "mesh", pair.meshLosses));
  LMC_ASSIGN_OR_RETURN(pair.gradients, compareGradients(pair.plan, mesh, one));
  return Status();
}

// Not a comparison with `>`: a NaN differs.
bool isWithin(double distance, double bound) { return distance <= bound; }

bool lossesAgree(double mesh, double one) {
  return isWithin(std::abs(mesh - one) / std::abs(one), kLossBound);
}

// A layer of a block, such as h.3.attn.out.
struct Layer {
  std::string name, place;
  std::set<std::string> tensors; // as checkpoints name them
};

// In the model's order.
std::vector<Layer> layersOfBlocks(const plan::Plan &plan) {
  const std::regex block("\\.[0-9]+\\.");
  std::vector<Layer> layers;
  for (const plan::State &state : plan.states()) {
    if (state.kind() != plan::State::PARAMETER ||
        !std::regex_search(state.name(), block))
      continue;
    std::string name = state.name().substr(0, state.name().rfind('.'));
    if (layers.empty() || layers.back().name != name)
      layers.push_back({name, placeOfParameter(plan, state.name()), {}});
    for (const plan::State::Box &box : state.boxes())
      layers.back().tensors.insert(box.names(0));
  }
  return layers;
}

// The weights, those of the layers from `first` on as zeros.
Status writeWithZeros(const std::string &path, const WeightFiles &weights,
                      const std::vector<Layer> &layers, size_t first) {
  std::set<std::string> zeros;
  for (size_t i = first; i < layers.size(); ++i)
    zeros.insert(layers[i].tensors.begin(), layers[i].tensors.end());
  size_t most = 0;
  for (const auto &[name, view] : weights.tensors())
    most = std::max(most, view.data.size());
  std::string zero(most, '\0');
  std::vector<TensorToWrite> tensors;
  for (const auto &[name, view] : weights.tensors())
    tensors.push_back({name, view.dtype, view.shape,
                       zeros.count(name) ? zero.data() : view.data.data()});
  return writeSafetensors(path, std::move(tensors)).status();
}

// Where the forward goes wrong, in words. A layer of zeros adds nothing to the
// stream, right or wrong: the losses differ as soon as the first wrong layer is
// not zero.
StatusOr<std::string> placeInForward(const Pair &pair) {
  std::vector<Layer> layers = layersOfBlocks(pair.plan);
  if (layers.empty())
    return wrongInput("no parameter is of a block");
  std::string weights = pair.folder / "weights";
  LMC_RETURN_IF_ERROR(
      train(pair.one, pair.data, 1, weights, {"--checkpoint", weights})
          .status());
  LMC_ASSIGN_OR_RETURN(WeightFiles files, WeightFiles::open(weights));
  auto agreeUpTo = [&](size_t first) -> StatusOr<bool> {
    std::string stem = pair.folder / "zeros", path = stem + ".safetensors";
    LMC_RETURN_IF_ERROR(writeWithZeros(path, files, layers, first));
    LMC_ASSIGN_OR_RETURN(
        std::vector<double> one,
        train(pair.one, pair.data, 1, stem, {"--weights", path}));
    LMC_ASSIGN_OR_RETURN(
        std::vector<double> mesh,
        train(pair.mesh, pair.data, 1, stem, {"--weights", path}));
    return lossesAgree(mesh[0], one[0]);
  };
  LMC_ASSIGN_OR_RETURN(bool agree, agreeUpTo(0));
  if (!agree)
    return ", with zeros in all blocks too: the embedding, the head, the loss"
           ", what passes between stages, or the sum of the stream behind " +
           layers.back().place;
  size_t right = 0, wrong = layers.size();
  while (wrong - right > 1) {
    size_t middle = (right + wrong) / 2;
    LMC_ASSIGN_OR_RETURN(agree, agreeUpTo(middle));
    (agree ? right : wrong) = middle;
  }
  return fmt::format(" up to {}: with zeros from there on the losses agree",
                     layers[right].place);
}

void printDifference(const Difference &d) {
  fmt::print("  {:<40} {:>10.2e} of {:<10.2e} {}\n", d.tensor, d.distance,
             d.norm, d.place);
}

// 0 or 1, and the table.
int compare(const std::string &title, const Pair &pair) {
  const plan::Plan &plan = pair.plan;
  const std::vector<Difference> &gradients = pair.gradients;
  fmt::print("{}\n", title);
  fmt::print("{} samples of {} tokens in a step, in {} micro-batch{}; "
             "vocabulary {}\n\n",
             plan.global_batch(), plan.sequence_length(), plan.micro_batches(),
             plan.micro_batches() == 1 ? "" : "es", plan.vocabulary());
  fmt::print("{:<10} {:>14} {:>14} {:>12}\n", "loss", "mesh", "one rank",
             "difference");
  int wrongStep = 0;
  for (int i = 0; i < kSteps; ++i) {
    double a = pair.meshLosses[size_t(i)], b = pair.oneLosses[size_t(i)];
    fmt::print("step {:<5} {:>14.8f} {:>14.8f} {:>12.1e}\n", i + 1, a, b,
               std::abs(a - b) / std::abs(b));
    if (wrongStep == 0 && !lossesAgree(a, b))
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
  if (wrongStep == 1) {
    StatusOr<std::string> place = placeInForward(pair);
    fmt::print("\ndiffers first: the loss of step 1, in the forward{}\n",
               place.ok() ? *place : "");
  } else if (!wrong.empty())
    fmt::print("\ndiffers first: the gradient of {}{}, in the backward\n",
               wrong.back()->tensor,
               wrong.back()->place.empty() ? "" : ", " + wrong.back()->place);
  else
    fmt::print("\ndiffers first: the loss of step {}, by the update, for the "
               "gradients of step 1 agree\n",
               wrongStep);
  return 1;
}

// The step as the flags leave it where they ask for no more than is needed.
CompileSettings leastSettings(CompileSettings settings) {
  settings.globalBatch = settings.microBatch = settings.sequence = 0;
  settings.config.clear();
  for (int64_t &blocks : settings.stages)
    blocks = 1;
  return settings;
}

// Flags of `settings` that ask for more than `least`.
std::string flagsBeyond(const CompileSettings &settings,
                        const CompileSettings &least) {
  std::string flags;
  auto add = [&](bool differs, const std::string &flag) {
    if (differs)
      flags += (flags.empty() ? "" : ", ") + flag;
  };
  add(settings.globalBatch != 0, "--global-batch");
  add(settings.microBatch != 0, "--micro-batch");
  add(settings.sequence != 0, "--seq");
  add(!settings.config.empty(), "--config");
  add(settings.stages != least.stages, "--stages");
  return flags;
}

// What lmrun found wrong, of what train() says it printed.
std::string complaintOf(const Status &failed) {
  for (const std::string &line : failed.lines())
    if (size_t begin = line.find("error: "); begin != std::string::npos)
      return line.substr(begin + 7, line.find('\n', begin) - begin - 7);
  return failed.message();
}

// What would make a model that does not fit small enough; what is said to help
// has run.
Status sayWhatWouldFit(const Pair &pair, const CompileSettings &settings,
                       const Status &failed) {
  Status status =
      makeError(ErrorKind::DoesNotFit,
                "{}, made small, does not fit on this machine", settings.model)
          .note("{}", complaintOf(failed));
  auto stops = pair.plan.settings().find("not_shrunk");
  if (stops != pair.plan.settings().end())
    status = std::move(status).note("{}", stops->second);
  CompileSettings least = leastSettings(settings);
  std::string flags = flagsBeyond(settings, least);
  if (!flags.empty()) {
    CompileSettings small = meshSettings(least);
    small.output = pair.folder / "least.plan";
    Side side{small.output, pair.mesh.ranks};
    StatusOr<plan::Plan> plan =
        compile(small) == 0 ? readPlanFile(small.output)
                            : StatusOr<plan::Plan>(jobFailed("no plan"));
    std::string data = pair.folder / "least.bin";
    if (plan.ok() && writeTokens(data, *plan, 1).ok() &&
        train(side, data, 1, pair.folder / "least", {}).ok())
      return std::move(status).help(
          "without {} it fits: a step of {} samples of {} tokens, {} on each "
          "rank",
          flags, plan->global_batch(), plan->sequence_length(),
          formatBytes(double(allocatedBytes(*plan, plan::DEVICE))));
  }
  if (settings.model.size() > 5 &&
      settings.model.compare(settings.model.size() - 5, 5, ".mlir") == 0)
    return std::move(status).help(
        "a module in lm is not made smaller: write it with smaller shapes");
  return std::move(status).help(
      "{}a copy of the description with smaller widths or fewer heads; "
      "--keep=DIR keeps mesh.plan, of which lmc inspect says what takes the "
      "bytes",
      stops != pair.plan.settings().end() ? "the sizes of the note, or " : "");
}

int checkIn(const Folder &folder, const CompileSettings &settings) {
  CompileSettings meshOnes = meshSettings(settings);
  CompileSettings oneRank = oneRankSettings(meshOnes);
  Pair pair{folder,
            {},
            {folder / "mesh.plan"},
            {folder / "one.plan"},
            folder / "tokens.bin",
            {},
            {},
            {}};
  meshOnes.output = pair.mesh.plan;
  oneRank.output = pair.one.plan;
  // The caller's own first: a complaint is about these.
  for (const CompileSettings *each : {&meshOnes, &oneRank})
    if (int status = compile(*each))
      return status;
  StatusOr<plan::Plan> plan = readPlanFile(pair.mesh.plan);
  if (!plan.ok())
    return report(plan.status());
  pair.plan = std::move(*plan);
  int64_t ranks = pair.mesh.ranks = worldSize(pair.plan);
  if (Status status = runBoth(pair); !status.ok())
    return report(status.kind() == ErrorKind::DoesNotFit
                      ? sayWhatWouldFit(pair, settings, status)
                      : status);
  std::string title =
      fmt::format("{}, made small, on {} rank{}{} and on one", settings.model,
                  ranks, ranks == 1 ? "" : "s",
                  settings.mesh.empty() ? "" : " (" + settings.mesh + ")");
  int result = compare(title, pair);
  Status written = flushStdout();
  return written.ok() ? result : report(written);
}

} // namespace

int lmc::check(const CompileSettings &settings, const std::string &keep) {
  StatusOr<Folder> folder = Folder::make(keep);
  return folder.ok() ? checkIn(*folder, settings) : report(folder.status());
}
