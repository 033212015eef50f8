// Logits of an inference plan, however its tokens come in.
//
//   check-generation PLAN WEIGHTS TOKENS.npy LOGITS.npy
//
// Every sample of TOKENS is run alone, all its tokens in one step: each logit
// must be within 1e-4 of LOGITS, which a full forward gave. Then the same
// samples are run otherwise, cut to uneven lengths: one token at a time, in
// pieces of several sizes, and all of them beside one another, joining and
// leaving at different steps. Each token's logits must be the same bits.
#include "runtime/base/Log.h"
#include "runtime/base/MappedFile.h"
#include "runtime/generate/Evaluate.h"
#include "runtime/generate/Npy.h"
#include "runtime/generate/Session.h"
#include "runtime/plan/PlanFile.h"

#include <cmath>
#include <cstring>

using namespace lmc::runtime;

namespace {

struct Sample {
  std::vector<int32_t> tokens;
  std::vector<float> logits; ///< of each token, alone and in one step
};

class Checker {
public:
  Checker(StepModel &model, std::vector<Sample> samples)
      : model(model), samples(std::move(samples)), V(model.vocabulary()) {}

  Status runAlone(const float *expected) {
    double worst = 0;
    for (Sample &sample : samples) {
      LMC_RETURN_IF_ERROR(scoreSequence(
          model, sample.tokens.data(), int64_t(sample.tokens.size()),
          [&](int64_t, int64_t count, const float *logits) {
            sample.logits.insert(sample.logits.end(), logits,
                                 logits + count * V);
          }));
      for (float logit : sample.logits) {
        double off = std::fabs(double(logit) - double(*expected++));
        // NaN counts as off.
        worst = off <= worst ? worst : off;
      }
    }
    logInfo("against the full forward: {:.2e}", worst);
    if (!(worst <= 1e-4))
      return jobFailed("a logit is off by {:.2e}; 1e-4 is allowed", worst);
    return Status();
  }

  /// One after the other, `piece` tokens a step.
  Status runInPieces(int64_t piece) {
    for (size_t i = 0; i < samples.size(); ++i) {
      int64_t length = lengthOf(i);
      int row = model.cache().open(length);
      for (int64_t done = 0; done < length; done += piece) {
        model.begin();
        addTokens(i, row, done, std::min(done + piece, length));
        LMC_RETURN_IF_ERROR(runStep());
      }
      model.cache().close(row);
    }
    return Status();
  }

  /// All at once: sample i joins at step 2 i and takes (i + step) % 3 + 1
  /// tokens of each step, so that prompts and single tokens mix. A page of
  /// another sequence lies between those of each.
  Status runTogether() {
    std::vector<int64_t> done(samples.size(), 0);
    std::vector<int> rows(samples.size(), -1);
    int64_t left = int64_t(samples.size());
    for (int64_t step = 0; left > 0; ++step) {
      model.begin();
      for (size_t i = 0; i < samples.size(); ++i) {
        if (step < int64_t(2 * i) || done[i] == lengthOf(i))
          continue;
        if (rows[i] < 0)
          rows[i] = model.cache().open(lengthOf(i));
        if (rows[i] < 0)
          return jobFailed("the plan has no room for {} sequences at once",
                           samples.size());
        int64_t count =
            std::min((int64_t(i) + step) % 3 + 1, lengthOf(i) - done[i]);
        addTokens(i, rows[i], done[i], done[i] + count);
        done[i] += count;
        if (done[i] == lengthOf(i)) {
          closing.push_back(rows[i]);
          --left;
        }
      }
      LMC_RETURN_IF_ERROR(runStep());
      for (int row : closing)
        model.cache().close(row);
      closing.clear();
    }
    return Status();
  }

private:
  StepModel &model;
  std::vector<Sample> samples;
  int64_t V;
  struct Wanted {
    size_t sample;
    int64_t position;
  };
  std::vector<Wanted> wanted;
  std::vector<int> closing;

  int64_t lengthOf(size_t i) const {
    int64_t whole = int64_t(samples[i].tokens.size());
    return std::max<int64_t>(1, whole - 5 * int64_t(i));
  }
  void addTokens(size_t i, int row, int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      model.add(row, t, samples[i].tokens[size_t(t)], true);
      wanted.push_back({i, t});
    }
  }
  Status runStep() {
    LMC_RETURN_IF_ERROR(model.run());
    for (size_t i = 0; i < wanted.size(); ++i) {
      const Sample &sample = samples[wanted[i].sample];
      if (std::memcmp(model.logits(int64_t(i)),
                      sample.logits.data() + wanted[i].position * V,
                      size_t(V) * 4) != 0)
        return jobFailed("the logits of token {} of sample {} are not the "
                         "bits that it has alone",
                         wanted[i].position, wanted[i].sample);
    }
    wanted.clear();
    return Status();
  }
};

Status check(Executor &executor, const std::string &tokensPath,
             const std::string &logitsPath) {
  LMC_ASSIGN_OR_RETURN(StepModel model, StepModel::create(executor));
  LMC_ASSIGN_OR_RETURN(TokenArray tokens, readTokenArray(tokensPath));
  LMC_ASSIGN_OR_RETURN(MappedFile logits, MappedFile::open(logitsPath));
  int64_t count = tokens.shape[0], length = tokens.shape[1];
  // The elements are what ends the file.
  size_t bytes = size_t(count * length * model.vocabulary()) * 4;
  if (logits.bytes().size() < bytes)
    return wrongInput("{} is too short", logitsPath);
  std::vector<float> expected(bytes / 4);
  std::memcpy(expected.data(),
              logits.bytes().data() + logits.bytes().size() - bytes, bytes);
  std::vector<Sample> samples;
  for (int64_t i = 0; i < count; ++i) {
    const int32_t *first = tokens.values.data() + i * length;
    samples.push_back({{first, first + length}, {}});
  }
  Checker checker(model, std::move(samples));
  LMC_RETURN_IF_ERROR(checker.runAlone(expected.data()));
  for (int64_t piece : {1, 2, 7, 8, 13}) {
    if (Status status = checker.runInPieces(piece); !status.ok())
      return std::move(status).prepend(
          fmt::format("in pieces of {} tokens", piece));
    logInfo("in pieces of {}: the same bits", piece);
  }
  if (Status status = checker.runTogether(); !status.ok())
    return std::move(status).prepend("together");
  logInfo("together: the same bits");
  return Status();
}

} // namespace

int main(int argc, char **argv) {
  if (argc != 5)
    return report(
        wrongInput("usage: check-generation PLAN WEIGHTS TOKENS LOGITS"));
  SessionOptions options;
  options.plan = argv[1];
  options.weights = argv[2];
  // A kernel that leaves its bytes stops the test, where the host has them.
  StatusOr<lmc::plan::Plan> plan = readPlanFile(options.plan);
  options.guardPages = plan.ok() && plan->target() != "cuda";
  return report(runSession(options, [&](Executor &executor) {
    return check(executor, argv[3], argv[4]);
  }));
}
