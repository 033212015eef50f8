// The program as a user runs it: killed at random moments and resumed, told
// to stop, with a full disk, and with damaged plans.
#include "runtime/data/TokenData.h"
#include "runtime/plan/PlanFile.h"
#include "runtime/train/Checkpoint.h"

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <random>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

using namespace lmc::runtime;
namespace fs = std::filesystem;

class LmrunTest : public testing::Test {
protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "lmcXXXXXX").string();
    folder = ::mkdtemp(pattern.data());
    std::mt19937 random(1);
    TokenFileContents contents;
    for (int i = 0; i < 20000; ++i)
      contents.tokens.push_back(random() % 64);
    ASSERT_TRUE(writeWholeFile(path("data"), encodeTokenFile(contents)).ok());
    ASSERT_EQ(wait(start({WRITE_BIGRAM_PLAN, path("plan")})), 0);
  }
  void TearDown() override { fs::remove_all(folder); }
  std::string path(const std::string &name) { return folder / name; }

  pid_t start(std::vector<std::string> command) {
    std::vector<char *> arguments;
    for (std::string &word : command)
      arguments.push_back(word.data());
    arguments.push_back(nullptr);
    pid_t child = ::fork();
    if (child == 0) {
      int out =
          ::open(path("stdout").c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0666);
      int err =
          ::open(path("stderr").c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0666);
      ::dup2(out, 1);
      ::dup2(err, 2);
      ::execv(arguments[0], arguments.data());
      ::_exit(127);
    }
    return child;
  }
  /// The exit status, or minus the signal.
  int wait(pid_t child) {
    int status = 0;
    ::waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  }
  pid_t train(int steps, std::vector<std::string> more) {
    std::vector<std::string> command = {LMRUN,
                                        "train",
                                        path("plan"),
                                        "--data",
                                        path("data"),
                                        "--shuffle",
                                        "--log-interval",
                                        "100000",
                                        "--steps",
                                        std::to_string(steps)};
    command.insert(command.end(), more.begin(), more.end());
    return start(command);
  }
  std::string read(const std::string &name) {
    auto file = MappedFile::open(path(name));
    return file.ok() ? std::string(file->bytes()) : "";
  }
  bool waitFor(const std::string &name) {
    for (int i = 0; i < 2000; ++i) {
      if (fs::exists(path(name)))
        return true;
      ::usleep(5000);
    }
    return false;
  }
  fs::path folder;
};

// How often to kill.
static int numKills() {
  if (const char *text = std::getenv("LMC_TEST_KILLS"))
    return std::atoi(text);
  const char *full = std::getenv("LMC_FULL");
  return full && std::string_view(full) == "1" ? 50 : 5;
}

TEST_F(LmrunTest, KilledAtRandomItEndsWithTheSameBits) {
  std::vector<std::string> save = {"--save-every", "3", "--keep", "2",
                                   "--checkpoint"};
  auto with = [&](const char *name, const char *flag) {
    std::vector<std::string> words = save;
    words.push_back(path(name));
    if (*flag)
      words.push_back(flag);
    return words;
  };
  const int steps = 150;
  auto begin = std::chrono::steady_clock::now();
  ASSERT_EQ(wait(train(steps, with("whole", ""))), 0) << read("stderr");
  auto length = std::chrono::steady_clock::now() - begin;
  unsigned seed = std::random_device()();
  SCOPED_TRACE(seed);
  std::mt19937 random(seed);
  int64_t wholeUs =
      std::chrono::duration_cast<std::chrono::microseconds>(length).count();
  int killed = 0;
  for (int i = 0; i < 20 * numKills() && killed < numKills(); ++i) {
    pid_t child = train(steps, with("killed", "--resume"));
    ::usleep(useconds_t(random() %
                        std::max<int64_t>(1, wholeUs / (numKills() / 3 + 1))));
    ::kill(child, SIGKILL);
    int status = wait(child);
    killed += status == -SIGKILL;
    ASSERT_TRUE(status == -SIGKILL || status == 0) << read("stderr");
    if (status == 0)
      fs::remove_all(path("killed")); // it got through: begin again
    if (fs::exists(path("killed/latest"))) {
      std::string latest = read("killed/latest");
      latest.pop_back();
      auto usable = verifyCheckpoint(path("killed/" + latest));
      EXPECT_TRUE(usable.ok()) << usable.status().toString();
    }
  }
  ASSERT_EQ(wait(train(steps, with("killed", "--resume"))), 0)
      << read("stderr");
  for (const char *file : {"model.safetensors", "optimizer.safetensors"}) {
    std::string name = "/step_" + std::to_string(steps) + "/" + file;
    EXPECT_EQ(read("killed" + name), read("whole" + name)) << file;
    EXPECT_FALSE(read("whole" + name).empty());
  }
}

TEST_F(LmrunTest, SigtermSavesAndExits75) {
  pid_t child =
      train(1000000, {"--checkpoint", path("ckpt"), "--save-every", "50"});
  ASSERT_TRUE(waitFor("ckpt/latest"));
  ::kill(child, SIGTERM);
  EXPECT_EQ(wait(child), 75);
  EXPECT_NE(read("stderr").find("checkpoint saved"), std::string::npos);
  std::string latest = read("ckpt/latest");
  latest.pop_back();
  EXPECT_TRUE(verifyCheckpoint(path("ckpt/" + latest)).ok());
}

// A limit on file sizes stands for a full disk: it needs no mount.
TEST_F(LmrunTest, AFullDiskDoesNotStopTraining) {
  pid_t child = train(
      600, {"--checkpoint", path("ckpt"), "--save-every", "20", "--keep", "3"});
  ASSERT_TRUE(waitFor("ckpt/latest"));
  rlimit limit = {100000, 100000};
  ASSERT_EQ(::prlimit(child, RLIMIT_FSIZE, &limit, nullptr), 0);
  EXPECT_EQ(wait(child), 3); // the last save failed too
  std::string latest = read("ckpt/latest");
  latest.pop_back();
  EXPECT_NE(latest, "step_600");
  EXPECT_TRUE(verifyCheckpoint(path("ckpt/" + latest)).ok());
  EXPECT_NE(read("stderr").find("was not saved"), std::string::npos);
  for (const fs::directory_entry &entry : fs::directory_iterator(path("ckpt")))
    EXPECT_TRUE(entry.path().filename() == ".lock" ||
                entry.path().filename().string()[0] != '.')
        << entry.path();
}

TEST_F(LmrunTest, DamagedFilesAreExitStatus4) {
  std::string plan = read("plan");
  plan[plan.size() / 2] = char(plan[plan.size() / 2] ^ 4);
  ASSERT_TRUE(writeWholeFile(path("plan"), plan).ok());
  EXPECT_EQ(wait(train(1, {})), 4);
  EXPECT_NE(read("stderr").find("checksum"), std::string::npos);
  ASSERT_TRUE(writeWholeFile(path("plan"), "").ok());
  EXPECT_EQ(wait(train(1, {})), 4);
}

TEST_F(LmrunTest, ACpuThatLacksWhatThePlanNeedsIsTold) {
  auto plan = readPlanFile(path("plan"));
  ASSERT_TRUE(plan.ok());
  lmc::plan::Plan two = *plan;
  *two.add_code() = two.code(0);
  for (int i = 0; i < 2; ++i) {
    two.mutable_code(i)->set_target_cpu(i ? "older" : "newer");
    two.mutable_code(i)->add_cpu_features(i ? "no_such_thing" : "nor_this");
  }
  ASSERT_TRUE(writePlanFile(two, path("plan")).ok());
  EXPECT_EQ(wait(train(1, {})), 2);
  for (const char *part :
       {"error: this CPU runs none of the plan's 2 code objects\n",
        "note: the code for newer needs nor_this, which this CPU lacks\n",
        "note: the code for older needs no_such_thing, which this CPU lacks\n",
        "help: compile with --target-cpu=native on this machine"})
    EXPECT_NE(read("stderr").find(part), std::string::npos)
        << part << read("stderr");
  // Of several the one that runs here is taken.
  *two.add_code() = plan->code(0);
  ASSERT_TRUE(writePlanFile(two, path("plan")).ok());
  EXPECT_EQ(wait(train(1, {})), 0) << read("stderr");
}

TEST_F(LmrunTest, WrongCallsAreExitStatus2) {
  EXPECT_EQ(wait(start({LMRUN, "trian"})), 2);
  EXPECT_NE(read("stderr").find("did you mean train?"), std::string::npos);
  EXPECT_EQ(wait(train(1, {"--shufle"})), 2);
  EXPECT_NE(read("stderr").find("did you mean --shuffle?"), std::string::npos);
  EXPECT_EQ(wait(train(1, {"--set", "lr"})), 2);
  EXPECT_EQ(wait(train(1, {"--set", "lrr=1"})), 2);
  EXPECT_NE(read("stderr").find("did you mean lr?"), std::string::npos);
  EXPECT_EQ(wait(start({LMRUN, "--help"})), 0);
  EXPECT_EQ(wait(start({LMRUN, "train", "--help"})), 0);
  EXPECT_NE(read("stdout").find("Examples:"), std::string::npos);
}
