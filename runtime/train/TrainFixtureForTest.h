// For tests of training: a folder with token data, the bigram plan, and a run's
// losses.
#ifndef LMC_RUNTIME_TRAIN_TRAINFIXTUREFORTEST_H
#define LMC_RUNTIME_TRAIN_TRAINFIXTUREFORTEST_H

#include "runtime/data/TokenData.h"
#include "runtime/exec/BigramPlanForTest.h"
#include "runtime/plan/PlanCheck.h"
#include "runtime/train/TrainJob.h"
#include "runtime/weights/Json.h"

#include <cstdlib>
#include <filesystem>
#include <gtest/gtest.h>

namespace lmc::runtime {
namespace fs = std::filesystem;

class TrainFixture : public testing::Test {
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

inline plan::Plan bigram(int64_t batch, int64_t microBatches, int64_t dp) {
  BigramPlan plan;
  plan.batch = batch;
  plan.microBatches = microBatches;
  plan.dp = dp;
  return plan.build();
}

} // namespace lmc::runtime

#endif // LMC_RUNTIME_TRAIN_TRAINFIXTUREFORTEST_H
