// See Generator.h.
#include "runtime/generate/Generator.h"
#include "runtime/generate/Evaluate.h"

#include <algorithm>
#include <chrono>

namespace lmc::runtime {

/// The length at which a request ends at the latest.
static int64_t endOf(const GenerateRequest &request, int64_t maxLength) {
  int64_t begin = int64_t(request.prompt.size());
  return begin + std::min(request.maxNewTokens, maxLength - begin);
}

Status Generator::check(const std::vector<GenerateRequest> &requests) const {
  for (size_t i = 0; i < requests.size(); ++i) {
    const std::vector<int32_t> &prompt = requests[i].prompt;
    int64_t length = int64_t(prompt.size());
    if (prompt.empty())
      return wrongInput("prompt {} is empty; there is nothing to continue",
                        i + 1);
    if (Status status = checkTokens(model.vocabulary(), prompt.data(), length);
        !status.ok())
      return std::move(status).prepend(fmt::format("prompt {}", i + 1));
    if (length >= model.maxLength())
      return wrongInput("prompt {} has {} tokens; the plan takes {} with what "
                        "is written",
                        i + 1, length, model.maxLength())
          .help("shorten the prompt{}",
                model.maxLength() < model.maxPositions()
                    ? ", or compile with a greater --max-length"
                    : ": the model has no more positions");
    int64_t pages =
        model.cache().pagesFor(endOf(requests[i], model.maxLength()));
    if (pages > model.cache().numFreePages())
      return wrongInput("prompt {} needs {} pages of the cache, which has {}",
                        i + 1, pages, model.cache().numFreePages())
          .help("write fewer tokens, or compile with --cache-pages={}", pages);
  }
  return Status();
}

void Generator::admit(const std::vector<GenerateRequest> &requests) {
  while (!waiting.empty()) {
    const GenerateRequest &request = requests[waiting.front()];
    int64_t end = endOf(request, model.maxLength());
    int row = model.cache().open(end);
    if (row < 0)
      return;
    running.push_back({waiting.front(), row, request.prompt, 0, end, -1,
                       Sampler(request.sampling, waiting.front())});
    waiting.pop_front();
  }
}

void Generator::fillStep() {
  model.begin();
  // Those that are being continued first: they wait for one token only.
  for (bool prompts : {false, true})
    for (Sequence &sequence : running) {
      int64_t length = int64_t(sequence.tokens.size());
      bool isPrompt = length - sequence.done > 1;
      if (isPrompt != prompts)
        continue;
      sequence.logitIndex = -1;
      int64_t room = model.maxTokens() - model.numTokens();
      int64_t count = std::min(room, length - sequence.done);
      bool last = sequence.done + count == length;
      // Without room for its logits the last token waits for the next step.
      if (last && model.numLogits() == model.maxLogits()) {
        --count;
        last = false;
      }
      for (int64_t i = 0; i < count; ++i) {
        bool wanted = last && i + 1 == count;
        if (wanted)
          sequence.logitIndex = model.numLogits();
        model.add(sequence.row, sequence.done + i,
                  sequence.tokens[size_t(sequence.done + i)], wanted);
      }
      if (count > 0)
        sequence.done += count;
    }
}

Status Generator::takeStep(const std::vector<GenerateRequest> &requests,
                           const OnToken &onToken) {
  fillStep();
  LMC_RETURN_IF_ERROR(model.run());
  ++theStats.steps;
  for (Sequence &sequence : running) {
    if (sequence.logitIndex < 0)
      continue;
    int64_t position = int64_t(sequence.tokens.size()) - 1;
    int32_t token = sequence.sampler.sample(model.logits(sequence.logitIndex),
                                            model.vocabulary(), position);
    sequence.logitIndex = -1;
    if (token < 0)
      return makeError(ErrorKind::BadNumbers,
                       "no logit behind token {} of prompt {} is finite",
                       position, sequence.request + 1)
          .help("these weights are broken; take an earlier checkpoint");
    const std::vector<int32_t> &stops = requests[sequence.request].stopTokens;
    bool stop = std::find(stops.begin(), stops.end(), token) != stops.end();
    if (!stop) {
      sequence.tokens.push_back(token);
      ++theStats.newTokens;
      onToken(sequence.request, token);
    }
    if (stop || int64_t(sequence.tokens.size()) >= sequence.end) {
      const GenerateRequest &request = requests[sequence.request];
      if (!stop &&
          sequence.end - int64_t(request.prompt.size()) < request.maxNewTokens)
        theStats.atMaxLength.push_back(sequence.request);
      onToken(sequence.request, -1);
      model.cache().close(sequence.row);
      sequence.row = -1;
    }
  }
  running.erase(std::remove_if(running.begin(), running.end(),
                               [](const Sequence &s) { return s.row < 0; }),
                running.end());
  return Status();
}

Status Generator::run(const std::vector<GenerateRequest> &requests,
                      const OnToken &onToken) {
  LMC_RETURN_IF_ERROR(check(requests));
  auto start = std::chrono::steady_clock::now();
  for (size_t i = 0; i < requests.size(); ++i) {
    theStats.promptTokens += int64_t(requests[i].prompt.size());
    if (requests[i].maxNewTokens > 0)
      waiting.push_back(i);
    else
      onToken(i, -1);
  }
  Status status;
  while (status.ok() && !(waiting.empty() && running.empty())) {
    admit(requests);
    status = takeStep(requests, onToken);
  }
  for (const Sequence &sequence : running)
    model.cache().close(sequence.row);
  running.clear();
  waiting.clear();
  theStats.seconds +=
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start)
          .count();
  return status;
}

} // namespace lmc::runtime
