// Ranges of numbers on the command line. CLI11's own PositiveNumber compares as
// a double, and its messages spell out the largest one: 309 digits.
#ifndef LMC_TOOLS_FLAGRANGES_H
#define LMC_TOOLS_FLAGRANGES_H

#include <CLI/CLI.hpp>

#include <limits>

namespace lmc {

/// A number of things.
inline const CLI::Range
    positiveCount(int64_t(1), std::numeric_limits<int64_t>::max(), "COUNT");
/// The same, where 0 has a meaning.
inline const CLI::Range count(int64_t(0), std::numeric_limits<int64_t>::max(),
                              "COUNT");
/// A size that is multiplied with others: the product of any two still fits 63
/// bits. Longer numbers are refused, not cut.
inline const CLI::Range size(int64_t(1), int64_t(1) << 31, "SIZE");
/// A factor or a rate.
inline const CLI::Range notNegative(0.0, 1e9, "NUMBER");

} // namespace lmc

#endif // LMC_TOOLS_FLAGRANGES_H
