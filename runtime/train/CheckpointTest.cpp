// Checkpoints of the bigram plan: resumed bit for bit, from the newest or an
// earlier one; what does not fit is refused, and no work is passed over.
#include "runtime/train/Checkpoint.h"
#include "runtime/train/TrainFixtureForTest.h"

#include <cmath>
#include <csignal>
#include <fcntl.h>
#include <fstream>
#include <sys/file.h>
#include <sys/resource.h>
#include <unistd.h>

using namespace lmc;
using namespace lmc::runtime;

class CheckpointTest : public TrainFixture {};

// A kill in the middle of a line: the next life cuts the half line off.
TEST_F(CheckpointTest, MetricsGoOnBehindTheLastWholeLine) {
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

TEST_F(CheckpointTest, ResumesBitForBitAlsoOnAnotherMesh) {
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
  std::ofstream(path("ckpt/latest.17.part")) << "step_";
  options.resume = true;
  options.seed = 1; // not given: the checkpoint's counts
  options.steps = 12;
  fs::remove(path("metrics"));
  EXPECT_EQ(train(bigram(2, 2, 1)),
            std::vector<double>(whole.begin() + 4, whole.end()));
  EXPECT_FALSE(fs::exists(path("ckpt/.step_8.part")));
  EXPECT_FALSE(fs::exists(path("ckpt/latest.17.part")));

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
TEST_F(CheckpointTest, ResumingWithOtherDataOrOrderIsRefused) {
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

TEST_F(CheckpointTest, AFolderInUseIsRefused) {
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
TEST_F(CheckpointTest, AStepIsSavedBeforeItsEvaluation) {
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

TEST_F(CheckpointTest, Bf16CheckpointsKeepFloat32Masters) {
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

// A learning rate at which weight decay makes the weights grow: the newest
// checkpoints only repeat the NaN, and the advice names one that does not.
TEST_F(CheckpointTest, TheAdviceAfterANaNWorks) {
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

TEST_F(CheckpointTest, AfterANaNWithoutACheckpointTheAdviceIsToBeginAgain) {
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
  EXPECT_NE(
      said.find(
          "help: no checkpoint is from before it went wrong: begin again in "
          "another --checkpoint folder"),
      std::string::npos)
      << said;
}

// Back to an earlier checkpoint: what is later is neither taken for the newest
// nor counted by --keep, and nothing is lost.
TEST_F(CheckpointTest, ResumingFromAnEarlierStepSetsLaterOnesAside) {
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

TEST_F(CheckpointTest, NothingIsLeftToDoAtTheLastStep) {
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

TEST_F(CheckpointTest, AnotherLearningRateIsTold) {
  options.checkpointFolder = path("ckpt");
  options.steps = 2;
  options.scalars = {{"lr", 0.25}};
  train(bigram(4, 1, 1));
  options.resume = true;
  auto said = [&](int64_t steps) {
    options.steps = steps;
    testing::internal::CaptureStderr();
    train(bigram(4, 1, 1));
    return testing::internal::GetCapturedStderr();
  };
  EXPECT_EQ(said(3),
            fmt::format("resumed after step 2 from {}\n", path("ckpt/step_2")));
  options.scalars = {{"lr", 0.5}};
  options.warmupSteps = 4;
  options.decay = Decay::Cosine;
  EXPECT_EQ(
      said(5),
      fmt::format("resumed after step 3 from {}, with --decay cosine (was "
                  "constant), --warmup 4 (was 0), lr 0.5 (was 0.25)\n",
                  path("ckpt/step_3")));
}

// A limit on file sizes stands for a full disk; the second moment meets it.
TEST_F(CheckpointTest, ADiskThatFillsUpMidwayDoesNotStopTraining) {
  rlimit before;
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  rlimit limit = {300000, before.rlim_max};
  auto handler = std::signal(SIGXFSZ, SIG_IGN);
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &limit), 0);
  options.checkpointFolder = path("ckpt");
  options.saveEvery = 2;
  options.steps = 4;
  options.ranks = 2;
  testing::internal::CaptureStderr();
  Status status = runTraining(bigram(2, 1, 2), options);
  std::string said = testing::internal::GetCapturedStderr();
  ::setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);
  EXPECT_EQ(status.exitStatus(), 3) << status.toString(); // the last one's
  for (int step : {2, 4})
    EXPECT_NE(said.find(fmt::format("warning: the checkpoint of step {} was "
                                    "not saved: cannot write {}",
                                    step,
                                    path(fmt::format("ckpt/.step_{}.part/"
                                                     "optimizer.safetensors",
                                                     step)))),
              std::string::npos)
        << said;
  size_t steps = 0;
  for (const nlohmann::json &line : metrics())
    steps += line.contains("loss");
  EXPECT_EQ(steps, 4u);
  for (const fs::directory_entry &entry : fs::directory_iterator(path("ckpt")))
    EXPECT_EQ(entry.path().filename(), ".lock");
}

// What another lmrun wrote is neither read nor passed over for older work.
TEST_F(CheckpointTest, CheckpointsOfAnotherVersionAreRefused) {
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

// What a manifest, which has no checksum of its own, may not lead to.
TEST_F(CheckpointTest, WhatIsNotWholeIsNoCheckpoint) {
  options.checkpointFolder = path("ckpt");
  options.steps = 4;
  train(bigram(4, 1, 1));
  options.resume = true;
  options.resumeStep = 4;
  options.steps = 6;
  std::string folder = path("ckpt/step_4"), name = folder + "/manifest.json";
  const std::string good(MappedFile::open(name)->bytes());
  auto refused = [&](const std::string &words) {
    Status status = runTraining(bigram(4, 1, 1), options);
    EXPECT_EQ(status.exitStatus(), 4) << words;
    EXPECT_NE(status.toString().find(words), std::string::npos)
        << status.toString();
  };
  auto edited = [&](auto edit) {
    auto manifest = nlohmann::json::parse(good);
    edit(manifest);
    ASSERT_TRUE(writeWholeFile(name, manifest.dump()).ok());
  };
  edited([](auto &manifest) { manifest["files"] = nlohmann::json::object(); });
  refused("does not list model.safetensors");
  edited(
      [](auto &manifest) { manifest["files"].erase("optimizer.safetensors"); });
  refused("does not list optimizer.safetensors");
  edited([](auto &manifest) { manifest["step"] = 3; });
  refused("is of step 4 by its trainer.json, of step 3 by its manifest.json");
  edited([](auto &manifest) { manifest.erase("step"); });
  refused("of step null by its manifest.json");
  ASSERT_TRUE(writeWholeFile(name, good + std::string("\0x", 2)).ok());
  refused("byte " + std::to_string(good.size()) + " is 0");

  std::string trainer = folder + "/trainer.json";
  auto state =
      nlohmann::json::parse(std::string(MappedFile::open(trainer)->bytes()));
  state["samples"] = uint64_t(1) << 63;
  ASSERT_TRUE(writeWholeFile(trainer, state.dump()).ok());
  edited([&](auto &manifest) {
    WrittenFile written = describe(state.dump());
    manifest["files"]["trainer.json"] = {{"bytes", written.bytes},
                                         {"xxh3_128", written.checksum}};
  });
  refused("9223372036854775808 samples");

  fs::remove(trainer);
  refused("is damaged: trainer.json is missing");
  fs::remove(name);
  refused("is damaged: manifest.json is missing");
}

TEST_F(CheckpointTest, ARenamedCheckpointIsToldApart) {
  options.checkpointFolder = path("ckpt");
  options.steps = 4;
  train(bigram(4, 1, 1));
  fs::rename(path("ckpt/step_4"), path("ckpt/step_5"));
  options.resume = true;
  options.steps = 6;
  Status status = runTraining(bigram(4, 1, 1), options);
  EXPECT_EQ(status.exitStatus(), 4);
  EXPECT_NE(status.toString().find("call it step_4 again"), std::string::npos)
      << status.toString();
}

// The moments of a parameter that is frozen by now.
TEST_F(CheckpointTest, UnusedMomentsAreTold) {
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
