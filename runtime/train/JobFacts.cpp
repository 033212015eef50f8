// See JobFacts.h.
#include "runtime/train/JobFacts.h"
#include "runtime/base/Version.h"
#include "runtime/device/cpu/KernelLoader.h"

#include <algorithm>
#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>
#include <xxhash.h>

namespace lmc::runtime {

static std::string checksumOf(const plan::Plan &plan) {
  std::string bytes;
  {
    google::protobuf::io::StringOutputStream sink(&bytes);
    google::protobuf::io::CodedOutputStream out(&sink);
    out.SetSerializationDeterministic(true);
    plan.SerializeToCodedStream(&out);
  }
  return fmt::format("{:016x}", XXH3_64bits(bytes.data(), bytes.size()));
}

/// Its length and all of its tokens, or tokens from all over it: reading all of
/// a large file would take longer than the job's start may.
static std::string identityOf(const TokenData &data) {
  constexpr int64_t mostRead = 1 << 24, numSamples = 1 << 14;
  std::vector<int32_t> samples;
  int64_t step = data.size() <= mostRead ? 1 : data.size() / numSamples;
  for (int64_t i = 0; i < data.size(); i += step)
    samples.push_back(data.token(i));
  return fmt::format("{} tokens in {} documents, {:016x}", data.size(),
                     data.numDocuments(),
                     XXH3_64bits(samples.data(), samples.size() * 4));
}

static const char *nameOf(Decay decay) {
  return decay == Decay::Constant ? "constant"
         : decay == Decay::Linear ? "linear"
                                  : "cosine";
}

JobFacts factsOf(const plan::Plan &plan, const TrainOptions &options,
                 const TokenData &data) {
  JobFacts facts;
  facts["plan checksum"] = checksumOf(plan);
  facts["lmrun version"] = runtimeVersion;
  std::vector<CodeObject> code;
  for (const plan::Code &one : plan.code())
    code.push_back({one.target_cpu(),
                    {one.cpu_features().begin(), one.cpu_features().end()},
                    one.object()});
  StatusOr<size_t> chosen = chooseCode(code, cpuFeatures());
  facts["kernels"] = chosen.ok()    ? std::string(code[*chosen].targetCpu)
                     : code.empty() ? "none"
                                    : "none that this CPU runs";
  facts["data"] = identityOf(data);
  auto number = [&](const char *name, auto value) {
    facts[name] = fmt::format("{}", value);
  };
  number("--comm", options.tcpOnly ? "tcp" : "host");
  number("--timeout", options.timeoutSeconds);
  number("--steps", options.steps);
  number("--warmup", options.warmupSteps);
  number("--decay", nameOf(options.decay));
  number("--decay-steps", options.decaySteps);
  number("--min-lr", options.minLearningRate);
  number("--seed", options.seed);
  number("--seed is given", options.seedGiven);
  number("--shuffle", options.shuffle);
  number("--held-out", options.heldOutFraction);
  number("--eval-every", options.evalEvery);
  number("--eval-steps", options.evalSteps);
  number("--save-every", options.saveEvery);
  number("--save-dtype", options.saveBf16 ? "bf16" : "fp32");
  number("--resume", options.resume);
  number("step of --resume", options.resumeStep);
  number("--checkpoint is given", !options.checkpointFolder.empty());
  number("--weights is given", !options.weights.empty());
  number("--dump-gradients is given", !options.dumpGradients.empty());
  for (const auto &[name, value] : options.scalars)
    facts["--set " + name] = fmt::format("{}", value);
  return facts;
}

JobFacts dryFactsOf(const plan::Plan &plan, const TrainOptions &options) {
  return {{"plan checksum", checksumOf(plan)},
          {"lmrun version", runtimeVersion},
          {"--comm", options.tcpOnly ? "tcp" : "host"},
          {"--timeout", fmt::format("{}", options.timeoutSeconds)},
          {"--steps", fmt::format("{}", options.steps)},
          {"--pace", fmt::format("{}", options.paceSeconds)}};
}

JobFacts orderFacts(const plan::Plan &plan, const TrainOptions &options,
                    const TokenData &data) {
  return {{"data", identityOf(data)},
          {"--shuffle", options.shuffle ? "given" : "not given"},
          {"--held-out", fmt::format("{}", options.heldOutFraction)},
          {"global batch", fmt::format("{}", plan.global_batch())},
          {"sequence", fmt::format("{}", plan.sequence_length())}};
}

JobFacts rateFacts(const plan::Plan &plan, const TrainOptions &options) {
  JobFacts facts = {{"--warmup", fmt::format("{}", options.warmupSteps)},
                    {"--decay", nameOf(options.decay)}};
  for (const plan::Scalar &scalar : plan.scalars())
    if (!isSetByTraining(scalar.name()))
      facts[scalar.name()] =
          fmt::format("{}", settingOf(plan, options, scalar.name()));
  if (options.decay == Decay::Constant)
    return facts;
  int64_t end = options.decaySteps > 0 ? options.decaySteps : options.steps;
  facts["--decay-steps"] = fmt::format("{}", end);
  facts["--min-lr"] = fmt::format("{}", options.minLearningRate);
  return facts;
}

} // namespace lmc::runtime
