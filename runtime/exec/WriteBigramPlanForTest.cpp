// Writes the tests' bigram plan to a file, for tests of the lmrun program:
//   write-bigram-plan FILE [dp [micro-batches]]
#include "runtime/exec/BigramPlanForTest.h"
#include "runtime/plan/PlanFile.h"

#include <cstdlib>

int main(int argc, char **argv) {
  if (argc < 2)
    return 2;
  lmc::runtime::BigramPlan bigram;
  if (argc > 2)
    bigram.dp = std::atoll(argv[2]);
  if (argc > 3)
    bigram.microBatches = std::atoll(argv[3]);
  return lmc::runtime::writePlanFile(bigram.build(), argv[1]).exitStatus();
}
