// What an instruction does in each lane, by its name. Semantics are those of
// the PTX ISA, "Instruction Set", of the forms that our kernels have.
#include "runtime/device/cuda/ptx/Warp.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <tuple>
#include <type_traits>

using namespace lmc::ptx;

namespace {

template <typename T> constexpr Width widthOf() {
  static_assert(std::is_same_v<T, bool> || sizeof(T) == 4 || sizeof(T) == 8);
  return std::is_same_v<T, bool> ? Width::Predicate
         : sizeof(T) == 4        ? Width::Word
                                 : Width::Double;
}

// A source, lane by lane.
template <typename T> struct Source {
  const T *lanes;
  Source(Warp &warp, uint32_t at) : lanes(warp.at<T>(at)) {}
  T operator[](unsigned lane) const { return lanes[lane]; }
};
template <> struct Source<bool> {
  uint32_t bits;
  Source(Warp &warp, uint32_t at) : bits(*warp.at<uint32_t>(at)) {}
  bool operator[](unsigned lane) const { return bits >> lane & 1; }
};

template <typename R>
void writeActive(Warp &warp, uint32_t at, const R (&results)[kWarp]) {
  if constexpr (std::is_same_v<R, bool>) {
    uint32_t bits = 0;
    for (unsigned lane = 0; lane < kWarp; ++lane)
      bits |= uint32_t(results[lane]) << lane;
    uint32_t &word = *warp.at<uint32_t>(at);
    word = (word & ~warp.active) | (bits & warp.active);
  } else {
    R *target = warp.at<R>(at);
    if (warp.active == ~0u)
      std::memcpy(target, results, sizeof results);
    else
      for (unsigned lane = 0; lane < kWarp; ++lane)
        target[lane] = warp.active >> lane & 1 ? results[lane] : target[lane];
  }
}

template <auto function> struct Lanewise;
template <typename R, typename... S, R (*function)(S...)>
struct Lanewise<function> {
  static void run(Warp &warp, const Instruction &instruction) {
    run(warp, instruction, std::index_sequence_for<S...>());
  }
  template <size_t... i>
  static void run(Warp &warp, const Instruction &instruction,
                  std::index_sequence<i...>) {
    std::tuple<Source<S>...> sources{
        Source<S>(warp, instruction.sources[i])...};
    R results[kWarp];
    for (unsigned lane = 0; lane < kWarp; ++lane)
      results[lane] = function(std::get<i>(sources)[lane]...);
    writeActive(warp, instruction.targets[0], results);
  }
  static LanewiseForm form() { return {run, widthOf<R>(), {widthOf<S>()...}}; }
};

template <typename T> T move(T a) { return a; }
template <typename T> T add(T a, T b) { return a + b; }
template <typename T> T subtract(T a, T b) { return a - b; }
template <typename T> T multiply(T a, T b) { return a * b; }
template <typename T> T divide(T a, T b) { return a / b; }
template <typename T> T negate(T a) { return -a; }
template <typename T> T bitAnd(T a, T b) { return a & b; }
template <typename T> T bitOr(T a, T b) { return a | b; }
template <typename T> T bitXor(T a, T b) { return a ^ b; }
template <typename T> T bitNot(T a) { return T(~a); }
bool predicateNot(bool a) { return !a; }
template <typename T> T least(T a, T b) { return std::min(a, b); }
template <typename T> T most(T a, T b) { return std::max(a, b); }
// A number, if one of two is.
float leastF32(float a, float b) { return std::isnan(a) || b < a ? b : a; }
float mostF32(float a, float b) { return std::isnan(a) || b > a ? b : a; }
template <typename T> T choose(T a, T b, bool first) { return first ? a : b; }

// Amounts beyond the width shift everything out.
template <typename T> T shiftLeft(T a, uint32_t n) {
  return n < 8 * sizeof(T) ? T(a << n) : T(0);
}
template <typename T> T shiftRight(T a, uint32_t n) {
  return T(a >> std::min(n, uint32_t(8 * sizeof(T) - 1))) >>
         (std::is_unsigned_v<T> && n >= 8 * sizeof(T) ? 1 : 0);
}
template <typename T> T extractBits(T a, uint32_t first, uint32_t count) {
  first &= 0xff;
  count &= 0xff;
  T shifted = shiftRight(a, first);
  return count < 8 * sizeof(T) ? shifted & ((T(1) << count) - 1) : shifted;
}

template <typename T, typename Unsigned>
T extractSigned(T a, uint32_t first, uint32_t count) {
  T shifted = shiftRight(a, first & 0xff);
  count &= 0xff;
  uint32_t above = 8 * sizeof(T) - std::min(count, uint32_t(8 * sizeof(T)));
  return count ? T(Unsigned(shifted) << above) >> above : T(0);
}

template <typename R, typename T> R multiplyWide(T a, T b) {
  return R(a) * R(b);
}
template <typename T, typename Wide> T multiplyHigh(T a, T b) {
  return T(Wide(a) * Wide(b) >> (8 * sizeof(T)));
}
template <typename T> T multiplyAdd(T a, T b, T c) { return a * b + c; }
float fuse(float a, float b, float c) { return std::fma(a, b, c); }
float absolute(float a) { return std::fabs(a); }
float squareRoot(float a) { return std::sqrt(a); }
float reciprocal(float a) { return 1 / a; }

template <typename T> bool equal(T a, T b) { return a == b; }
// Of floats: ordered, as each of these; the forms with u are the contrary.
template <typename T> bool unequal(T a, T b) { return a < b || a > b; }
template <typename T> bool less(T a, T b) { return a < b; }
template <typename T> bool lessEqual(T a, T b) { return a <= b; }
template <typename T> bool greater(T a, T b) { return a > b; }
template <typename T> bool greaterEqual(T a, T b) { return a >= b; }
bool lessOrNan(float a, float b) { return !(a >= b); }
bool lessEqualOrNan(float a, float b) { return !(a > b); }
bool greaterOrNan(float a, float b) { return !(a <= b); }
bool greaterEqualOrNan(float a, float b) { return !(a < b); }
bool equalOrNan(float a, float b) { return !(a < b || a > b); }
bool unequalOrNan(float a, float b) { return a != b; }
bool isNumber(float a, float b) { return !std::isnan(a) && !std::isnan(b); }
bool isNan(float a, float b) { return std::isnan(a) || std::isnan(b); }

template <typename R, typename T> R convert(T a) { return R(a); }
uint32_t upperHalf(uint64_t a) { return uint32_t(a >> 32); }
float floorOf(float a) { return std::floor(a); }
float ceilOf(float a) { return std::ceil(a); }
float wholeOf(float a) { return std::trunc(a); }
float roundEven(float a) { return std::nearbyint(a); }
// Clamped to what an integer holds; NaN is 0.
template <typename R> R truncate(float a) {
  using Limits = std::numeric_limits<R>;
  if (std::isnan(a))
    return 0;
  if (a >= float(Limits::max()))
    return Limits::max();
  return a <= float(Limits::min()) ? Limits::min() : R(a);
}

template <auto function>
std::pair<std::string, LanewiseForm> entry(const char *name) {
  return {name, Lanewise<function>::form()};
}

std::map<std::string, LanewiseForm, std::less<>> makeTable() {
  return {
      entry<move<uint32_t>>("mov.u32"),
      entry<move<uint32_t>>("mov.b32"),
      entry<move<uint32_t>>("mov.f32"),
      entry<move<uint64_t>>("mov.u64"),
      entry<move<uint64_t>>("mov.b64"),
      entry<move<bool>>("mov.pred"),
      entry<move<uint64_t>>("cvta.to.global.u64"),
      entry<move<uint64_t>>("cvta.to.shared.u64"),

      // Without .rn the assembler may fuse.
      entry<add<float>>("add.rn.f32"),
      entry<add<uint32_t>>("add.s32"),
      entry<add<uint64_t>>("add.s64"),
      entry<subtract<float>>("sub.rn.f32"),
      entry<subtract<uint32_t>>("sub.s32"),
      entry<subtract<uint64_t>>("sub.s64"),
      entry<multiply<float>>("mul.rn.f32"),
      entry<multiply<uint32_t>>("mul.lo.s32"),
      entry<multiply<uint64_t>>("mul.lo.s64"),
      entry<multiplyWide<int64_t, int32_t>>("mul.wide.s32"),
      entry<multiplyWide<uint64_t, uint32_t>>("mul.wide.u32"),
      entry<multiplyHigh<uint32_t, uint64_t>>("mul.hi.u32"),
      entry<multiplyHigh<int32_t, int64_t>>("mul.hi.s32"),
      entry<multiplyHigh<uint64_t, unsigned __int128>>("mul.hi.u64"),
      entry<multiplyHigh<int64_t, __int128>>("mul.hi.s64"),
      entry<multiplyAdd<uint32_t>>("mad.lo.s32"),
      entry<multiplyAdd<uint64_t>>("mad.lo.s64"),
      entry<fuse>("fma.rn.f32"),
      entry<divide<float>>("div.rn.f32"),
      entry<reciprocal>("rcp.rn.f32"),
      entry<squareRoot>("sqrt.rn.f32"),
      entry<absolute>("abs.f32"),
      entry<negate<float>>("neg.f32"),
      entry<negate<uint32_t>>("neg.s32"),
      entry<negate<uint64_t>>("neg.s64"),
      entry<leastF32>("min.f32"),
      entry<mostF32>("max.f32"),
      entry<least<int32_t>>("min.s32"),
      entry<most<int32_t>>("max.s32"),
      entry<least<uint32_t>>("min.u32"),
      entry<most<uint32_t>>("max.u32"),
      entry<least<int64_t>>("min.s64"),
      entry<most<int64_t>>("max.s64"),
      entry<least<uint64_t>>("min.u64"),
      entry<most<uint64_t>>("max.u64"),

      entry<bitAnd<bool>>("and.pred"),
      entry<bitOr<bool>>("or.pred"),
      entry<bitXor<bool>>("xor.pred"),
      entry<predicateNot>("not.pred"),
      entry<bitAnd<uint32_t>>("and.b32"),
      entry<bitOr<uint32_t>>("or.b32"),
      entry<bitXor<uint32_t>>("xor.b32"),
      entry<bitNot<uint32_t>>("not.b32"),
      entry<bitAnd<uint64_t>>("and.b64"),
      entry<bitOr<uint64_t>>("or.b64"),
      entry<bitXor<uint64_t>>("xor.b64"),
      entry<bitNot<uint64_t>>("not.b64"),
      entry<shiftLeft<uint32_t>>("shl.b32"),
      entry<shiftLeft<uint64_t>>("shl.b64"),
      entry<shiftRight<uint32_t>>("shr.u32"),
      entry<shiftRight<int32_t>>("shr.s32"),
      entry<shiftRight<uint64_t>>("shr.u64"),
      entry<shiftRight<int64_t>>("shr.s64"),
      entry<extractBits<uint32_t>>("bfe.u32"),
      entry<extractBits<uint64_t>>("bfe.u64"),
      entry<extractSigned<int32_t, uint32_t>>("bfe.s32"),
      entry<extractSigned<int64_t, uint64_t>>("bfe.s64"),
      entry<choose<uint32_t>>("selp.f32"),
      entry<choose<uint32_t>>("selp.b32"),
      entry<choose<uint64_t>>("selp.b64"),
      entry<choose<uint32_t>>("selp.u32"),
      entry<choose<uint64_t>>("selp.u64"),
      entry<choose<uint32_t>>("selp.s32"),
      entry<choose<uint64_t>>("selp.s64"),

      entry<equal<uint32_t>>("setp.eq.s32"),
      entry<equal<uint32_t>>("setp.eq.b32"),
      entry<unequal<uint32_t>>("setp.ne.s32"),
      entry<unequal<uint32_t>>("setp.ne.b32"),
      entry<less<int32_t>>("setp.lt.s32"),
      entry<lessEqual<int32_t>>("setp.le.s32"),
      entry<greater<int32_t>>("setp.gt.s32"),
      entry<greaterEqual<int32_t>>("setp.ge.s32"),
      entry<less<uint32_t>>("setp.lt.u32"),
      entry<lessEqual<uint32_t>>("setp.le.u32"),
      entry<greater<uint32_t>>("setp.gt.u32"),
      entry<greaterEqual<uint32_t>>("setp.ge.u32"),
      entry<equal<uint64_t>>("setp.eq.s64"),
      entry<equal<uint64_t>>("setp.eq.b64"),
      entry<unequal<uint64_t>>("setp.ne.s64"),
      entry<unequal<uint64_t>>("setp.ne.b64"),
      entry<less<int64_t>>("setp.lt.s64"),
      entry<lessEqual<int64_t>>("setp.le.s64"),
      entry<greater<int64_t>>("setp.gt.s64"),
      entry<greaterEqual<int64_t>>("setp.ge.s64"),
      entry<less<uint64_t>>("setp.lt.u64"),
      entry<lessEqual<uint64_t>>("setp.le.u64"),
      entry<greater<uint64_t>>("setp.gt.u64"),
      entry<greaterEqual<uint64_t>>("setp.ge.u64"),
      entry<equal<float>>("setp.eq.f32"),
      entry<unequal<float>>("setp.ne.f32"),
      entry<less<float>>("setp.lt.f32"),
      entry<lessEqual<float>>("setp.le.f32"),
      entry<greater<float>>("setp.gt.f32"),
      entry<greaterEqual<float>>("setp.ge.f32"),
      entry<equalOrNan>("setp.equ.f32"),
      entry<unequalOrNan>("setp.neu.f32"),
      entry<lessOrNan>("setp.ltu.f32"),
      entry<lessEqualOrNan>("setp.leu.f32"),
      entry<greaterOrNan>("setp.gtu.f32"),
      entry<greaterEqualOrNan>("setp.geu.f32"),
      entry<isNumber>("setp.num.f32"),
      entry<isNan>("setp.nan.f32"),

      entry<upperHalf>("mov.upper"), // so that the parser calls it
      entry<convert<int64_t, int32_t>>("cvt.s64.s32"),
      entry<convert<uint64_t, uint32_t>>("cvt.u64.u32"),
      entry<convert<uint32_t, uint64_t>>("cvt.u32.u64"),
      entry<convert<float, int32_t>>("cvt.rn.f32.s32"),
      entry<convert<float, uint32_t>>("cvt.rn.f32.u32"),
      entry<convert<float, int64_t>>("cvt.rn.f32.s64"),
      entry<convert<float, uint64_t>>("cvt.rn.f32.u64"),
      entry<truncate<int32_t>>("cvt.rzi.s32.f32"),
      entry<truncate<int64_t>>("cvt.rzi.s64.f32"),
      entry<floorOf>("cvt.rmi.f32.f32"),
      entry<ceilOf>("cvt.rpi.f32.f32"),
      entry<wholeOf>("cvt.rzi.f32.f32"),
      entry<roundEven>("cvt.rni.f32.f32"),
  };
}

} // namespace

const LanewiseForm *lmc::ptx::findLanewise(std::string_view mnemonic) {
  static const auto table = makeTable();
  auto found = table.find(mnemonic);
  return found == table.end() ? nullptr : &found->second;
}
