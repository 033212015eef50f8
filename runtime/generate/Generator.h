// Continuous batching: several sequences written at once, each joining as soon
// as there is room and leaving when it is done.
//
// Every step takes one token of each sequence that is being continued, and
// fills what is left of the plan's tokens with prompts, in the order in which
// they were asked for, in pieces where they are long:
//
//     step 1   [ prompt A .......... | prompt B ... ]
//     step 2   [ a1 | ... rest of prompt B ]
//     step 3   [ a2 | b1 ]
//
// A sequence has its pages for all it may become before it starts, so none is
// ever put back. What is written does not depend on who shares a step.
#ifndef LMC_RUNTIME_GENERATE_GENERATOR_H
#define LMC_RUNTIME_GENERATE_GENERATOR_H

#include "runtime/generate/Sampler.h"
#include "runtime/generate/StepModel.h"

#include <deque>
#include <functional>

namespace lmc::runtime {

struct GenerateRequest {
  std::vector<int32_t> prompt; ///< at least one token
  int64_t maxNewTokens = 128;
  std::vector<int32_t> stopTokens; ///< not handed out
  SamplingOptions sampling;
};

struct GenerateStats {
  int64_t promptTokens = 0, newTokens = 0, steps = 0;
  double seconds = 0;
  /// Requests that wanted more tokens when they had all that the plan takes.
  std::vector<size_t> atMaxLength;
};

class Generator {
public:
  explicit Generator(StepModel &model) : model(model) {}

  /// Called with each new token, and with -1 when the request is done.
  using OnToken = std::function<void(size_t request, int32_t token)>;

  /// Runs all requests to their ends. WrongInput for one that can never fit,
  /// BadNumbers when no logit is finite.
  Status run(const std::vector<GenerateRequest> &requests,
             const OnToken &onToken);
  const GenerateStats &stats() const { return theStats; }

private:
  struct Sequence {
    size_t request;
    int row;
    std::vector<int32_t> tokens; ///< prompt and what was written
    int64_t done = 0;            ///< tokens in the cache
    int64_t end = 0;             ///< length at which it stops
    int64_t logitIndex = -1;     ///< in the running step
    Sampler sampler;
  };
  Status check(const std::vector<GenerateRequest> &requests) const;
  void admit(const std::vector<GenerateRequest> &requests);
  void fillStep();
  Status takeStep(const std::vector<GenerateRequest> &requests,
                  const OnToken &onToken);

  StepModel &model;
  std::deque<size_t> waiting;
  std::vector<Sequence> running;
  GenerateStats theStats;
};

} // namespace lmc::runtime

#endif // LMC_RUNTIME_GENERATE_GENERATOR_H
