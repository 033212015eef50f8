// See CodeChoice.h.
#include "runtime/device/cuda/CodeChoice.h"

#include <charconv>

namespace lmc::runtime::cuda {

namespace {
struct Architecture {
  int capability = 0;   ///< 90
  bool isExact = false; ///< sm_90a: of no later one
};
} // namespace

/// sm_90 or sm_90a; capability 0: no such name.
static Architecture parse(std::string_view name) {
  Architecture parsed;
  if (name.substr(0, 3) != "sm_")
    return parsed;
  const char *end = name.data() + name.size();
  auto [rest, error] = std::from_chars(name.data() + 3, end, parsed.capability);
  if (error != std::errc())
    return Architecture();
  parsed.isExact = rest != end;
  return parsed;
}

StatusOr<size_t> chooseCode(const std::vector<CodeObject> &code,
                            int capability) {
  size_t best = code.size();
  int bestRank = 0;
  std::vector<std::string> reasons;
  for (size_t i = 0; i < code.size(); ++i) {
    Architecture wanted = parse(code[i].targetCpu);
    bool isCubin = code[i].object.substr(0, 4) == "\x7f"
                                                  "ELF";
    bool isSame = wanted.capability == capability;
    bool isOlder = wanted.capability > 0 && wanted.capability < capability;
    if (!isSame && (!isOlder || isCubin || wanted.isExact)) {
      reasons.push_back(fmt::format(
          "the {} for {} needs a GPU of {}{}", isCubin ? "cubin" : "PTX",
          code[i].targetCpu, code[i].targetCpu,
          isCubin || wanted.isExact ? "" : " or later"));
      continue;
    }
    int rank = isCubin ? capability + 1 : wanted.capability;
    if (rank > bestRank) {
      bestRank = rank;
      best = i;
    }
  }
  if (best < code.size())
    return best;
  if (code.empty())
    return corrupt("the plan has kernels but no code for them");
  Status status =
      wrongInput("this GPU, of sm_{}, runs none of the plan's {} "
                 "code object{}",
                 capability, code.size(), code.size() == 1 ? "" : "s");
  for (const std::string &reason : reasons)
    status = std::move(status).note("{}", reason);
  return std::move(status).help(
      "compile with --target=cuda:sm_80, which runs on sm_80 and later");
}

} // namespace lmc::runtime::cuda
