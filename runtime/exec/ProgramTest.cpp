// Which of a launch's kernels runs, by its rows.
#include "runtime/exec/Program.h"

#include <gtest/gtest.h>

#include <limits>

namespace lmc::runtime {

TEST(PreparedProgram, TakesTheVariantForTheRows) {
  int one = 0, four = 0, any = 0, other = 0;
  PreparedProgram program;
  // Another launch's stand before and behind them.
  constexpr int64_t most = std::numeric_limits<int64_t>::max();
  program.variants = {{most, &other, 1, 1},
                      {1, &one, 1, 48},
                      {4, &four, 4, 24},
                      {most, &any, 64, 12},
                      {most, &other, 1, 1}};
  program.ops.resize(1);
  Patch patch{Patch::Target::Units};
  patch.firstVariant = 1;
  patch.numTerms = 1;
  program.patches = {patch};
  program.terms = {{0, 1}};
  program.symbols = {0};
  program.patchedFor = {0};
  auto expect = [&](int64_t rows, const void *kernel, int64_t units) {
    program.patch({rows});
    EXPECT_EQ(program.ops[0].kernel, kernel) << rows << " rows";
    EXPECT_EQ(program.ops[0].units, units) << rows << " rows";
  };
  expect(1, &one, 48);
  expect(65, &any, 24);
  expect(2, &four, 24);
  expect(4, &four, 24);
  expect(5, &any, 12);
  expect(0, &one, 0);
}

} // namespace lmc::runtime
