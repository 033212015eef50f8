// Training the bigram plan from data on disk: the loss falls, ranks and
// micro-batches do not change it, gradients and checkpoints are right, and bad
// input is told.
#include "runtime/data/TokenData.h"
#include "runtime/device/cpu/CpuDevice.h"
#include "runtime/exec/BigramPlanForTest.h"
#include "runtime/plan/PlanCheck.h"
#include "runtime/train/Checkpoint.h"
#include "runtime/train/JobFacts.h"
#include "runtime/train/LearningRate.h"
#include "runtime/train/TrainJob.h"
#include "runtime/train/Trainer.h"
#include "runtime/weights/Json.h"

#include <cmath>
#include <cstdlib>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <random>
#include <sys/file.h>
#include <unistd.h>

using namespace lmc;
using namespace lmc::runtime;
namespace fs = std::filesystem;

class TrainTest : public testing::Test {
protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "lmcXXXXXX").string();
    folder = ::mkdtemp(pattern.data());
    TokenFileContents contents;
    for (int i = 0; i < 5000; ++i)
      contents.tokens.push_back(uint32_t(i * i / 7 % 64));
    contents.documentEnds = {5000};
    ASSERT_TRUE(writeWholeFile(path("data"), encodeTokenFile(contents)).ok());
    options.dataPath = path("data");
    options.steps = 12;
    options.metricsPath = path("metrics");
    options.logInterval = 1000;
    options.threads = 1;
    options.pinThreads = false;
  }
  void TearDown() override { fs::remove_all(folder); }
  std::string path(const std::string &name) { return folder / name; }

  std::vector<nlohmann::json> metrics() {
    auto file = MappedFile::open(path("metrics"));
    std::vector<nlohmann::json> lines;
    std::string_view rest = file->bytes();
    while (!rest.empty()) {
      size_t end = rest.find('\n');
      lines.push_back(*parseJson(rest.substr(0, end), "metrics"));
      rest.remove_prefix(end + 1);
    }
    return lines;
  }
  std::vector<double> train(const plan::Plan &plan) {
    EXPECT_TRUE(checkPlan(plan).ok()) << checkPlan(plan).toString();
    Status status = runTraining(plan, options);
    EXPECT_TRUE(status.ok()) << status.toString();
    std::vector<double> losses;
    for (const nlohmann::json &line : metrics())
      if (line.contains("loss"))
        losses.push_back(line["loss"].get<double>());
    return losses;
  }

  fs::path folder;
  TrainOptions options;
};

static plan::Plan bigram(int64_t batch, int64_t microBatches, int64_t dp) {
  BigramPlan plan;
  plan.batch = batch;
  plan.microBatches = microBatches;
  plan.dp = dp;
  return plan.build();
}

TEST_F(TrainTest, LossFallsAndMetricsAreWritten) {
  options.evalEvery = 6;
  options.heldOutFraction = 0.1;
  options.warmupSteps = 3;
  std::vector<double> losses = train(bigram(4, 1, 1));
  ASSERT_EQ(losses.size(), 12u);
  EXPECT_NEAR(losses[0], std::log(256.0), 0.01);
  EXPECT_LT(losses.back(), losses[0]);
  std::vector<nlohmann::json> lines = metrics();
  ASSERT_EQ(lines.size(), 14u);
  for (const char *key :
       {"step", "loss", "grad_norm", "lr", "tokens_per_second", "step_ms"})
    EXPECT_TRUE(lines[0].contains(key)) << key;
  EXPECT_NEAR(lines[0]["lr"].get<double>(), 0.05 / 3, 1e-9);
  EXPECT_TRUE(lines[6].contains("eval_loss"));
  EXPECT_TRUE(lines[13].contains("eval_loss"));
}

// A kill in the middle of a line: the next life cuts the half line off.
TEST_F(TrainTest, MetricsGoOnBehindTheLastWholeLine) {
  options.checkpointFolder = path("checkpoints");
  options.steps = 2;
  train(bigram(4, 1, 1));
  auto whole = MappedFile::open(path("metrics"));
  ASSERT_TRUE(writeWholeFile(path("metrics"),
                             std::string(whole->bytes()) + "{\"step\": 3, \"lo")
                  .ok());
  options.resume = true;
  options.steps = 4;
  EXPECT_EQ(train(bigram(4, 1, 1)).size(), 4u);
}

// Ranks compare what they are about to do before they begin: a plan that
// differs in anything is found, and the message names ranks and values.
TEST_F(TrainTest, AThousandAlteredPlansAreRefused) {
  plan::Plan plan = bigram(1, 2, 2);
  plan.clear_code(); // its bytes would be nearly all that is altered
  auto data = TokenData::open(path("data"));
  ASSERT_TRUE(data.ok());
  std::string bytes = plan.SerializeAsString();
  Hello first{0, {}, factsOf(plan, options, *data), ""};
  Hello second = first;
  second.rank = 1;
  EXPECT_TRUE(compareFacts({first, second}).ok());
  std::mt19937 random(1);
  for (int altered = 0; altered < 1000;) {
    std::string other = bytes;
    other[random() % other.size()] ^= char(1 << random() % 8);
    plan::Plan changed;
    if (!changed.ParseFromString(other) || changed.SerializeAsString() == bytes)
      continue; // no plan, or the same one
    ++altered;
    second.facts = factsOf(changed, options, *data);
    Status status = compareFacts({first, second});
    ASSERT_FALSE(status.ok()) << altered;
    EXPECT_EQ(status.exitStatus(), 2);
    EXPECT_NE(status.toString().find("on rank 1"), std::string::npos);
  }
  second.facts = first.facts;
  options.scalars = {{"lr", 0.5}};
  second.facts = factsOf(plan, options, *data);
  EXPECT_NE(
      compareFacts({first, second}).toString().find("--set lr: 0.5 on rank 1"),
      std::string::npos);
}

// The same samples in the same step, however they are spread.
TEST_F(TrainTest, RanksAndMicroBatchesTrainTheSameModel) {
  std::vector<double> one = train(bigram(4, 1, 1));
  std::vector<double> microBatches = train(bigram(1, 4, 1));
  EXPECT_EQ(microBatches, one); // this kernel adds tokens in order
  options.ranks = 2;
  std::vector<double> ranks = train(bigram(1, 2, 2));
  ASSERT_EQ(ranks.size(), one.size());
  for (size_t i = 0; i < one.size(); ++i)
    EXPECT_NEAR(ranks[i], one[i], 1e-5 * one[i]) << i;
  options.ranks = 4;
  options.shuffle = true;
  std::vector<double> shuffled = train(bigram(1, 1, 4));
  EXPECT_NE(shuffled, one);
  EXPECT_EQ(train(bigram(1, 1, 4)), shuffled);
}

TEST_F(TrainTest, DumpedGradientsAreTheGradientsOfTheMeanLoss) {
  options.steps = 1;
  options.dumpGradients = path("gradients.safetensors");
  train(bigram(4, 1, 1));
  auto file = WeightFiles::openFile(options.dumpGradients);
  ASSERT_TRUE(file.ok()) << file.status().toString();
  const TensorView *view = file->find("bigram.weight");
  ASSERT_NE(view, nullptr);
  EXPECT_EQ(view->shape, (std::vector<int64_t>{256, 256}));
  // Softmax minus one-hot: a token's gradients sum to zero, and each seen
  // target gets its share. The file is transposed: [next, token].
  std::vector<float> gradient(256 * 256);
  std::memcpy(gradient.data(), view->data.data(), view->data.size());
  double total = 0, negative = 0;
  for (int token = 0; token < 256; ++token) {
    double sum = 0;
    for (int next = 0; next < 256; ++next) {
      float g = gradient[size_t(next * 256 + token)];
      sum += g;
      negative += g < 0 ? g : 0;
      total += std::fabs(g);
    }
    EXPECT_NEAR(sum, 0, 1e-6);
  }
  EXPECT_NEAR(negative, -0.99, 0.01);
  EXPECT_NEAR(total, 2 * 0.99, 0.02);
  // Two ranks dump the same file within rounding.
  options.ranks = 2;
  train(bigram(1, 2, 2));
  auto two = WeightFiles::openFile(options.dumpGradients);
  ASSERT_TRUE(two.ok());
  for (size_t i = 0; i < gradient.size(); ++i) {
    float other;
    std::memcpy(&other, two->find("bigram.weight")->data.data() + 4 * i, 4);
    EXPECT_NEAR(other, gradient[i], 1e-7);
  }
}

TEST_F(TrainTest, ResumesBitForBitAlsoOnAnotherMesh) {
  options.shuffle = true;
  options.seed = 9;
  std::vector<double> whole = train(bigram(2, 2, 1));
  options.checkpointFolder = path("ckpt");
  options.saveEvery = 2;
  options.keep = 2;
  options.steps = 6;
  std::vector<double> half = train(bigram(2, 2, 1));
  EXPECT_EQ(half, std::vector<double>(whole.begin(), whole.begin() + 6));
  EXPECT_FALSE(fs::exists(path("ckpt/step_2")));
  EXPECT_TRUE(fs::exists(path("ckpt/step_4")));

  // A folder with checkpoints is not begun anew by accident.
  EXPECT_EQ(runTraining(bigram(2, 2, 1), options).exitStatus(), 2);

  // The newest one is damaged: the one before it is used.
  std::string newest = path("ckpt/step_6/model.safetensors");
  auto bytes = MappedFile::open(newest);
  std::string damaged(bytes->bytes());
  damaged[damaged.size() / 2] = char(damaged[damaged.size() / 2] ^ 1);
  ASSERT_TRUE(writeWholeFile(newest, damaged).ok());
  fs::create_directories(path("ckpt/.step_8.part"));
  options.resume = true;
  options.seed = 1; // not given: the checkpoint's counts
  options.steps = 12;
  fs::remove(path("metrics"));
  EXPECT_EQ(train(bigram(2, 2, 1)),
            std::vector<double>(whole.begin() + 4, whole.end()));
  EXPECT_FALSE(fs::exists(path("ckpt/.step_8.part")));

  // Final weights, loaded on two ranks, give the held-out loss of one.
  options.resume = false;
  options.checkpointFolder.clear();
  options.saveEvery = options.keep = 0;
  options.weights = path("ckpt");
  options.steps = 1;
  std::vector<double> one = train(bigram(2, 2, 1));
  options.ranks = 2;
  std::vector<double> two = train(bigram(1, 2, 2));
  EXPECT_NEAR(two[0], one[0], 1e-5);
}

// Other data, another batch or another order would train on without a word.
TEST_F(TrainTest, ResumingWithOtherDataOrOrderIsRefused) {
  options.checkpointFolder = path("ckpt");
  options.steps = 2;
  train(bigram(4, 1, 1));
  TokenFileContents other;
  other.tokens.assign(5000, 7);
  other.documentEnds = {5000};
  ASSERT_TRUE(writeWholeFile(path("other"), encodeTokenFile(other)).ok());
  options.resume = true;
  options.steps = 4;
  struct Case {
    const char *message;
    int64_t batch;
    std::function<void(TrainOptions &)> change;
  };
  for (const Case &one : {
           Case{"data was 5000 tokens in 1 documents", 4,
                [this](TrainOptions &o) { o.dataPath = path("other"); }},
           Case{"--shuffle was not given, now given", 4,
                [](TrainOptions &o) { o.shuffle = true; }},
           Case{"--held-out was 0, now 0.25", 4,
                [](TrainOptions &o) { o.heldOutFraction = 0.25; }},
           Case{"--seed was 1, now 2", 4,
                [](TrainOptions &o) {
                  o.seed = 2;
                  o.seedGiven = true;
                }},
           Case{"global batch was 4, now 2", 2, [](TrainOptions &) {}},
       }) {
    TrainOptions changed = options;
    one.change(changed);
    Status status = runTraining(bigram(one.batch, 1, 1), changed);
    EXPECT_EQ(status.exitStatus(), 2) << one.message;
    EXPECT_NE(status.toString().find(one.message), std::string::npos)
        << one.message << "\n"
        << status.toString();
    EXPECT_NE(status.toString().find("--weights " + path("ckpt/step_2")),
              std::string::npos);
  }
  // On two ranks the same batch is the same order.
  options.ranks = 2;
  EXPECT_EQ(train(bigram(1, 2, 2)).size(), 4u);
}

TEST_F(TrainTest, AFolderInUseIsRefused) {
  options.checkpointFolder = path("ckpt");
  fs::create_directories(path("ckpt"));
  int other = ::open(path("ckpt/.lock").c_str(), O_RDWR | O_CREAT, 0666);
  ASSERT_EQ(::flock(other, LOCK_EX), 0);
  Status status = runTraining(bigram(4, 1, 1), options);
  EXPECT_EQ(status.exitStatus(), 2);
  EXPECT_NE(status.toString().find(path("ckpt") + " is in use"),
            std::string::npos);
  ::close(other);
  EXPECT_TRUE(runTraining(bigram(4, 1, 1), options).ok());
}

// An evaluation that fails, or is killed, does not take the step with it.
TEST_F(TrainTest, AStepIsSavedBeforeItsEvaluation) {
  TokenFileContents contents;
  contents.tokens.assign(2000, 1);
  contents.tokens.insert(contents.tokens.end(), 2000, 300); // held out
  contents.documentEnds = {4000};
  ASSERT_TRUE(writeWholeFile(path("data"), encodeTokenFile(contents)).ok());
  options.heldOutFraction = 0.5;
  options.evalEvery = 2;
  options.steps = 2;
  options.checkpointFolder = path("ckpt");
  Status status = runTraining(bigram(4, 1, 1), options);
  EXPECT_NE(status.toString().find("beyond the vocabulary"), std::string::npos)
      << status.toString();
  EXPECT_TRUE(verifyCheckpoint(path("ckpt/step_2")).ok());
}

TEST_F(TrainTest, Bf16CheckpointsKeepFloat32Masters) {
  std::vector<double> whole = train(bigram(4, 1, 1));
  options.checkpointFolder = path("ckpt");
  options.saveBf16 = true;
  options.steps = 6;
  train(bigram(4, 1, 1));
  auto weights = WeightFiles::open(path("ckpt"));
  ASSERT_TRUE(weights.ok()) << weights.status().toString();
  EXPECT_EQ(weights->find("bigram.weight")->dtypeName, "BF16");
  options.resume = true;
  options.steps = 12;
  EXPECT_EQ(train(bigram(4, 1, 1)), whole); // metrics are appended
}

TEST_F(TrainTest, PositionsAndSegmentsBeginAnewInEveryDocument) {
  TokenFileContents contents;
  contents.tokens.assign(100, 1);
  contents.documentEnds = {5, 21, 100};
  contents.mask.assign(100, true);
  contents.mask[3] = false;
  ASSERT_TRUE(writeWholeFile(path("data"), encodeTokenFile(contents)).ok());
  plan::Plan plan = bigram(2, 1, 1);
  for (const char *name : {"positions", "segments"}) {
    *plan.add_allocations() = plan.allocations(0);
    plan::Port *port = plan.add_inputs();
    *port = plan.inputs(0);
    port->set_name(name);
    port->mutable_slice()->set_allocation(
        uint32_t(plan.allocations_size() - 1));
  }
  auto device = CpuDevice::create({});
  ASSERT_TRUE(device.ok());
  auto executor = Executor::create(plan, **device, nullptr, 0, {});
  ASSERT_TRUE(executor.ok());
  auto data = TokenData::open(path("data"));
  ASSERT_TRUE(data.ok());
  auto batches = Batches::create(**executor, *data);
  ASSERT_TRUE(batches.ok()) << batches.status().toString();
  auto weight = batches->fill({0, 100}, SampleOrder(6, false, 0), 0, 6);
  ASSERT_TRUE(weight.ok());
  EXPECT_EQ(*weight, 31); // one of 32 targets is masked
  auto input = [&](int index) {
    auto *values = reinterpret_cast<int32_t *>(
        (*executor)->address(plan.inputs(index).slice()));
    return std::vector<int32_t>(values, values + 32);
  };
  std::vector<int32_t> positions = input(3), segments = input(4);
  // Sample 0 is tokens 0..15, sample 1 tokens 16..31.
  EXPECT_EQ(std::vector<int32_t>(positions.begin() + 3, positions.begin() + 7),
            (std::vector<int32_t>{3, 4, 0, 1}));
  EXPECT_EQ(segments[4], 0);
  EXPECT_EQ(segments[5], 1);
  EXPECT_EQ(positions[16 + 4], 4);
  EXPECT_EQ(positions[16 + 5], 0);
  EXPECT_EQ(segments[16 + 5], 1);
}

// A learning rate at which weight decay makes the weights grow: the newest
// checkpoints only repeat the NaN, and the advice names one that does not.
TEST_F(TrainTest, TheAdviceAfterANaNWorks) {
  options.checkpointFolder = path("ckpt");
  options.saveEvery = 4;
  options.steps = 200;
  options.scalars = {{"lr", 0.05}, {"weight_decay", 60}};
  std::string said = runTraining(bigram(4, 1, 1), options).toString();
  EXPECT_EQ(said.find("error: step "), 0u) << said;
  int64_t failed = std::stoll(said.substr(12));
  EXPECT_NE(said.find("up to step "), std::string::npos) << said;

  options.resume = true;
  Status again = runTraining(bigram(4, 1, 1), options);
  EXPECT_EQ(again.exitStatus(), 6);
  EXPECT_NE(again.message().find(fmt::format("step {}:", failed)),
            std::string::npos)
      << again.toString();

  size_t flag = said.find("--resume=step_");
  ASSERT_NE(flag, std::string::npos) << said;
  EXPECT_NE(said.find("--set lr=0.005"), std::string::npos) << said;
  options.resumeStep = std::stoll(said.substr(flag + 14));
  EXPECT_LT(options.resumeStep, failed - 4);
  options.scalars[0].second = 0.005;
  EXPECT_TRUE(runTraining(bigram(4, 1, 1), options).ok());
  EXPECT_TRUE(verifyCheckpoint(path("ckpt/step_200")).ok());
}

TEST_F(TrainTest, AfterANaNWithoutACheckpointTheAdviceIsToBeginAgain) {
  options.scalars = {{"lr", 1e30}, {"weight_decay", 1e30}};
  auto advice = [&] {
    return runTraining(bigram(4, 1, 1), options).toString();
  };
  EXPECT_NE(advice().find("help: begin again with a lower learning rate "
                          "(--set lr=1e+29)"),
            std::string::npos)
      << advice();
  options.checkpointFolder = path("ckpt");
  options.saveEvery = 1;
  std::string said = advice(); // step_1 is there, and is already lost
  EXPECT_NE(said.find("help: no checkpoint is from before that: begin again in "
                      "another --checkpoint folder"),
            std::string::npos)
      << said;
}

// Back to an earlier checkpoint: what is later is neither taken for the newest
// nor counted by --keep, and nothing is lost.
TEST_F(TrainTest, ResumingFromAnEarlierStepSetsLaterOnesAside) {
  std::vector<double> whole = train(bigram(4, 1, 1));
  fs::remove(path("metrics"));
  options.checkpointFolder = path("ckpt");
  options.saveEvery = 4;
  train(bigram(4, 1, 1));
  options.resume = true;
  options.resumeStep = 5;
  Status missing = runTraining(bigram(4, 1, 1), options);
  EXPECT_EQ(missing.exitStatus(), 2);
  EXPECT_NE(missing.toString().find("it has step_12, step_8, step_4"),
            std::string::npos)
      << missing.toString();

  options.resumeStep = 4;
  options.steps = 6;
  options.saveEvery = 0;
  options.keep = 2;
  fs::remove(path("metrics"));
  EXPECT_EQ(train(bigram(4, 1, 1)),
            std::vector<double>(whole.begin() + 4, whole.begin() + 6));
  for (const char *there :
       {"step_4", "step_6", "step_8.aside", "step_12.aside"})
    EXPECT_TRUE(fs::exists(path("ckpt") / fs::path(there))) << there;
  EXPECT_FALSE(fs::exists(path("ckpt/step_12")));
  EXPECT_EQ(MappedFile::open(path("ckpt/latest"))->bytes(), "step_6\n");
  // The same again: an earlier one set aside stays.
  options.steps = 5;
  train(bigram(4, 1, 1));
  EXPECT_TRUE(fs::exists(path("ckpt/step_6.aside")));
  // Nothing to do: nothing is set aside.
  options.steps = 4;
  train(bigram(4, 1, 1));
  EXPECT_TRUE(fs::exists(path("ckpt/step_5")));
}

TEST_F(TrainTest, NothingIsLeftToDoAtTheLastStep) {
  options.checkpointFolder = path("ckpt");
  options.steps = 4;
  train(bigram(4, 1, 1));
  options.resume = true;
  for (int64_t steps : {4, 3}) {
    options.steps = steps;
    testing::internal::CaptureStderr();
    EXPECT_EQ(train(bigram(4, 1, 1)).size(), 4u); // those of the first run
    EXPECT_NE(testing::internal::GetCapturedStderr().find(
                  fmt::format("nothing is left to do: the checkpoint is of "
                              "step 4, and --steps is {}\n",
                              steps)),
              std::string::npos);
  }
}

// What another lmrun wrote is neither read nor passed over for older work.
TEST_F(TrainTest, CheckpointsOfAnotherVersionAreRefused) {
  options.checkpointFolder = path("ckpt");
  options.saveEvery = 2;
  options.steps = 4;
  train(bigram(4, 1, 1));
  std::string name = path("ckpt/step_4/manifest.json");
  std::string good(MappedFile::open(name)->bytes());
  auto manifest = nlohmann::json::parse(good);
  manifest["version"] = 2;
  ASSERT_TRUE(writeWholeFile(name, manifest.dump()).ok());
  options.resume = true;
  options.steps = 6;
  Status status = runTraining(bigram(4, 1, 1), options);
  EXPECT_EQ(status.exitStatus(), 4);
  EXPECT_EQ(status.message(),
            "the checkpoint " + path("ckpt/step_4") +
                " is of version 2; this build reads version 1");
  EXPECT_NE(status.toString().find("--weights " + path("ckpt/step_4")),
            std::string::npos);

  // A trainer.json of some other program, whole as it is.
  std::string foreign = "{\"global_step\": 4, \"best_metric\": null}\n";
  manifest["version"] = 1;
  WrittenFile written = describe(foreign);
  manifest["files"]["trainer.json"] = {{"bytes", written.bytes},
                                       {"xxh3_128", written.checksum}};
  ASSERT_TRUE(writeWholeFile(name, manifest.dump()).ok());
  ASSERT_TRUE(writeWholeFile(path("ckpt/step_4/trainer.json"), foreign).ok());
  options.resumeStep = 4;
  status = runTraining(bigram(4, 1, 1), options);
  EXPECT_EQ(status.exitStatus(), 4);
  EXPECT_NE(status.message().find(
                "trainer.json is no training state of lmrun: it has no step"),
            std::string::npos)
      << status.toString();
}

// The moments of a parameter that is frozen by now.
TEST_F(TrainTest, UnusedMomentsAreTold) {
  options.checkpointFolder = path("ckpt");
  options.steps = 2;
  train(bigram(4, 1, 1));
  auto manifest = nlohmann::json::parse(std::string(
      MappedFile::open(path("ckpt/step_2/manifest.json"))->bytes()));
  std::string file = path("ckpt/step_2/optimizer.safetensors");
  auto optimizer = WeightFiles::openFile(file, WeightFiles::Verify::No);
  ASSERT_TRUE(optimizer.ok());
  std::vector<TensorToWrite> tensors;
  for (const auto &[name, view] : optimizer->tensors())
    tensors.push_back({name, DataType::F32, view.shape, view.data.data()});
  float moment = 0;
  for (const char *name : {"frozen.weight.m", "frozen.weight.v"})
    tensors.push_back({name, DataType::F32, {1}, &moment});
  auto written = writeSafetensors(file + ".new", tensors);
  ASSERT_TRUE(written.ok());
  fs::rename(file + ".new", file);
  manifest["files"]["optimizer.safetensors"] = {
      {"bytes", written->bytes}, {"xxh3_128", written->checksum}};
  ASSERT_TRUE(
      writeWholeFile(path("ckpt/step_2/manifest.json"), manifest.dump()).ok());
  options.resume = true;
  options.steps = 4;
  testing::internal::CaptureStderr();
  train(bigram(4, 1, 1));
  std::string said = testing::internal::GetCapturedStderr();
  EXPECT_NE(said.find("warning: the plan has no place for 2 optimizer tensors "
                      "of " +
                      path("ckpt/step_2") + "; the first is frozen.weight.m"),
            std::string::npos)
      << said;
  testing::internal::CaptureStderr();
  options.steps = 6;
  train(bigram(4, 1, 1));
  EXPECT_EQ(testing::internal::GetCapturedStderr().find("no place"),
            std::string::npos);
}

// Every run-time number, by its name or with a place behind it, at the ends of
// its range: in float32, which is what the kernels see.
TEST_F(TrainTest, SettingsBeyondTheirRangeAreRefused) {
  plan::Plan plan = bigram(4, 1, 1);
  for (const char *name :
       {"dropout", "dropout.residual", "weight_decay.head", "loss_scale"})
    plan.add_scalars()->set_name(name);
  struct Case {
    const char *name;
    double good, bad;
    const char *message;
  };
  for (const Case &one : {
           Case{"lr", 0, -1e-9, "--set lr=-1e-09: it has to be at least 0"},
           Case{"lr", 3e38, 1e39, "float32 ends at 3.4e+38"},
           Case{"lr", 1, NAN, "not finite"},
           Case{"lr", 1, INFINITY, "not finite"},
           Case{"beta1", 0, 1, "--set beta1=1: it has to be in [0, 1)"},
           Case{"beta2", 0.999, -0.1, "in [0, 1)"},
           Case{"beta2", 0.999999, 1 - 1e-9, "in [0, 1) in float32"},
           Case{"eps", 1e-8, 0, "--set eps=0: it has to be greater than 0"},
           Case{"eps", 1e-30, 1e-60, "greater than 0 in float32"},
           Case{"weight_decay", 0, -1, "at least 0"},
           Case{"weight_decay.head", 0, -1, "at least 0"},
           Case{"clip_norm", 0, -1, "at least 0"},
           Case{"dropout", 0, 1, "in [0, 1)"},
           Case{"dropout.residual", 0.9, -0.1, "in [0, 1)"},
           Case{"loss_scale", 1, 0, "greater than 0"},
       }) {
    options.scalars = {{one.name, one.good}};
    EXPECT_TRUE(checkSettings(plan, options).ok())
        << checkSettings(plan, options).toString();
    options.scalars = {{one.name, one.bad}};
    Status status = checkSettings(plan, options);
    EXPECT_EQ(status.exitStatus(), 2) << one.name << " " << one.bad;
    EXPECT_NE(status.toString().find(one.message), std::string::npos)
        << one.message << "\n"
        << status.toString();
  }
}

TEST_F(TrainTest, BadInputIsTold) {
  struct Case {
    const char *message;
    int exitStatus;
    std::function<void(TrainOptions &, plan::Plan &)> change;
  };
  Case cases[] = {
      {"did you mean weight_decay?", 2,
       [](TrainOptions &o, plan::Plan &) {
         o.scalars = {{"weigth_decay", 0.1}};
       }},
      {"made for 1 rank, not for 2\n", 2,
       [](TrainOptions &o, plan::Plan &) { o.ranks = 2; }},
      {"run with --nproc 1", 2,
       [](TrainOptions &o, plan::Plan &) { o.ranks = 2; }},
      {"beyond the vocabulary of 32", 2,
       [](TrainOptions &, plan::Plan &p) {
         p.mutable_inputs(0)->set_vocabulary(32);
       }},
      {"shorter than one sample", 2,
       [this](TrainOptions &o, plan::Plan &) {
         TokenFileContents contents;
         contents.tokens.assign(16, 1);
         EXPECT_TRUE(
             writeWholeFile(path("short"), encodeTokenFile(contents)).ok());
         o.dataPath = path("short");
       }},
      {"step 2: the loss is", 6,
       [](TrainOptions &o, plan::Plan &) {
         o.scalars = {{"lr", 1e30}, {"weight_decay", 1e30}};
       }},
      {"--mode=train", 2,
       [](TrainOptions &, plan::Plan &p) { p.set_mode("infer"); }},
  };
  for (const Case &one : cases) {
    TrainOptions changed = options;
    plan::Plan plan = bigram(4, 1, 1);
    one.change(changed, plan);
    Status status = runTraining(plan, changed);
    EXPECT_EQ(status.exitStatus(), one.exitStatus) << status.toString();
    EXPECT_NE(status.toString().find(one.message), std::string::npos)
        << "wanted: " << one.message << "\ngot: " << status.toString();
  }
}

TEST(LearningRate, WarmsUpAndDecays) {
  TrainOptions options;
  options.steps = 110;
  options.warmupSteps = 10;
  EXPECT_DOUBLE_EQ(learningRate(options, 1.0, 1), 0.1);
  EXPECT_DOUBLE_EQ(learningRate(options, 1.0, 10), 1.0);
  EXPECT_DOUBLE_EQ(learningRate(options, 1.0, 110), 1.0);
  options.decay = Decay::Linear;
  options.minLearningRate = 0.1;
  EXPECT_DOUBLE_EQ(learningRate(options, 1.0, 60), 0.55);
  EXPECT_DOUBLE_EQ(learningRate(options, 1.0, 110), 0.1);
  options.decay = Decay::Cosine;
  EXPECT_NEAR(learningRate(options, 1.0, 60), 0.55, 1e-12);
  EXPECT_NEAR(learningRate(options, 1.0, 110), 0.1, 1e-12);
}
