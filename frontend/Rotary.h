// The table of rotary positions, computed on the host in double precision.
#ifndef LMC_FRONTEND_ROTARY_H
#define LMC_FRONTEND_ROTARY_H

#include <cstdint>
#include <vector>

namespace lmc::frontend {

class Rotary;

// The angle per position of each of the `width / 2` pairs.
std::vector<double> rotaryFrequencies(const Rotary &rotary, int64_t width);

// [positions, width], row-major: in each row width/2 cosines, then width/2
// sines.
std::vector<float> rotaryTable(const Rotary &rotary, int64_t positions,
                               int64_t width);

} // namespace lmc::frontend

#endif // LMC_FRONTEND_ROTARY_H
