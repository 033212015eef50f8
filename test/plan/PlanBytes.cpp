// What the collectives of a plan move, read from the plan alone: for each
// program, kind and group of axes, how many there are and the bytes that a rank
// receives in one run of the program, by the formulas of rings:
//
//     all_reduce 2 S (n-1)/n      others S (n-1)/n      S of the larger side
//
// Shares nothing with the compiler but the plan's schema.
//
//     plan-bytes PLAN
#include "runtime/plan/PlanFile.h"

#include <cstdio>
#include <map>
#include <string>

int main(int argc, char **argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: plan-bytes PLAN\n");
    return 2;
  }
  auto plan = lmc::runtime::readPlanFile(argv[1]);
  if (!plan.ok()) {
    std::fprintf(stderr, "error: %s\n", plan.status().message().c_str());
    return 2;
  }
  struct Sum {
    int64_t count = 0, bytes = 0;
  };
  for (const lmc::plan::Program &program : plan->programs()) {
    std::map<std::string, Sum> sums;
    for (const lmc::plan::Instruction &instruction : program.instructions()) {
      if (!instruction.has_collective())
        continue;
      const lmc::plan::Collective &call = instruction.collective();
      std::string axes;
      int64_t ranks = 1;
      for (uint32_t axis : call.axes()) {
        const auto &mesh = plan->mesh().axes(static_cast<int>(axis));
        axes += (axes.empty() ? "" : ",") + mesh.name();
        ranks *= mesh.size();
      }
      int64_t side = std::max(call.source().bytes(), call.target().bytes());
      int64_t times = call.kind() == lmc::plan::Collective::ALL_REDUCE ? 2 : 1;
      Sum &sum =
          sums[lmc::plan::Collective::Kind_Name(call.kind()) + " " + axes];
      ++sum.count;
      sum.bytes += times * side / ranks * (ranks - 1);
    }
    for (const auto &[what, sum] : sums)
      std::printf("%s %s count %lld bytes %lld\n", program.name().c_str(),
                  what.c_str(), static_cast<long long>(sum.count),
                  static_cast<long long>(sum.bytes));
  }
  return 0;
}
