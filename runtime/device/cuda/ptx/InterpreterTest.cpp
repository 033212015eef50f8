// The interpreter computes as the PTX ISA says, and finds what it promises to.
#include "runtime/device/cuda/ptx/Interpreter.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

using namespace lmc::ptx;

namespace {

// A kernel of one parameter, its pointer in %rd9; 64 threads unless said.
std::string kernelOf(const std::string &body, int threads = 64) {
  return ".version 7.8\n.target sm_80\n.address_size 64\n"
         ".extern .shared .align 16 .b8 k_shared[];\n"
         ".visible .entry k(\n\t.param .u64 k_param_0\n)\n.maxntid " +
         std::to_string(threads) +
         ", 1, 1\n{\n\t.reg .pred %p<9>;\n\t.reg .b32 %r<9>;\n\t.reg .f32 "
         "%f<9>;\n\t.reg .b64 %rd<15>;\n"
         "ld.param.u64 %rd9, [k_param_0];\nmov.u32 %r8, %tid.x;\n"
         "mul.wide.s32 %rd8, %r8, 4;\nadd.s64 %rd10, %rd9, %rd8;\n"
         "mov.u64 %rd11, k_shared;\nadd.s64 %rd12, %rd11, %rd8;\n" +
         body + "ret;\n}\n";
}

constexpr uint64_t kAddress = uint64_t(1) << 40;

struct Grid {
  std::vector<float> floats = std::vector<float>(64, -1);
  uint32_t blocks = 1, threads = 64, shared = 256;

  std::string operator()(const std::string &body) {
    std::string error;
    auto module = Module::parse(kernelOf(body), error);
    if (!module)
      return error;
    Memory memory;
    memory.add(kAddress, reinterpret_cast<char *>(floats.data()),
               floats.size() * 4);
    return run(*module,
               {module->find("k"), 0, blocks, threads, shared, {kAddress}},
               memory);
  }
};

void expectFault(const std::string &wanted, const std::string &body,
                 Grid run = {}) {
  std::string said = run(body);
  EXPECT_NE(said.find(wanted), std::string::npos)
      << "said: " << said << "\nof: " << body;
}

// Threads 0 to 63 give 0 to 63: shuffles and shared memory in one sum.
TEST(Interpreter, SumsOverABlock) {
  Grid run;
  EXPECT_EQ("", run(R"(
    cvt.rn.f32.s32 %f1, %r8;
    shfl.sync.bfly.b32 %f2, %f1, 16, 31, -1;
    add.rn.f32 %f1, %f1, %f2;
    shfl.sync.bfly.b32 %f2, %f1, 8, 31, -1;
    add.rn.f32 %f1, %f1, %f2;
    shfl.sync.bfly.b32 %f2, %f1, 4, 31, -1;
    add.rn.f32 %f1, %f1, %f2;
    shfl.sync.bfly.b32 %f2, %f1, 2, 31, -1;
    add.rn.f32 %f1, %f1, %f2;
    shfl.sync.bfly.b32 %f2, %f1, 1, 31, -1;
    add.rn.f32 %f1, %f1, %f2;
    and.b32 %r1, %r8, 31;
    setp.ne.s32 %p1, %r1, 0;
    @%p1 bra $L_done;
    shr.u64 %rd1, %rd8, 5;
    add.s64 %rd1, %rd11, %rd1;
    st.shared.f32 [%rd1], %f1;
$L_done:
    bar.sync 0;
    ld.shared.v2.f32 {%f1, %f2}, [%rd11];
    add.rn.f32 %f1, %f1, %f2;
    st.global.f32 [%rd10], %f1;
)"));
  for (float value : run.floats)
    EXPECT_EQ(63 * 32, value);
}

// A loop that each lane leaves after as many turns as its number says, at a
// place before it in the text; a shuffle behind it has all lanes again.
TEST(Interpreter, LanesPartAndMeet) {
  Grid run;
  EXPECT_EQ("", run(R"(
    mov.u32 %r1, 0;
    mov.f32 %f1, 0f00000000;
    bra.uni $L_loop;
$L_out:
    shfl.sync.bfly.b32 %f2, %f1, 1, 31, -1;
    st.global.f32 [%rd10], %f2;
    ret;
$L_loop:
    setp.ge.s32 %p1, %r1, %r8;
    @%p1 bra $L_out;
    add.s32 %r1, %r1, 1;
    add.rn.f32 %f1, %f1, 0f40000000;
    bra.uni $L_loop;
)"));
  for (int i = 0; i < 64; ++i)
    EXPECT_EQ(2 * (i ^ 1), run.floats[size_t(i)]);
}

TEST(Interpreter, FindsThreadsThatDoNotMeet) {
  expectFault("do not meet", R"(
    setp.lt.s32 %p1, %r8, 32;
    @%p1 bar.sync 0;
)");
  expectFault("from thread 32 on: waits at a barrier", R"(
    setp.lt.s32 %p1, %r8, 32;
    @%p1 bra $L_first;
    bar.sync 0;
    ret;
$L_first:
    bar.sync 0;
)");
  expectFault("waits at a shuffle", R"(
    setp.lt.s32 %p1, %r8, 16;
    mov.f32 %f1, 0f00000000;
    @%p1 shfl.sync.bfly.b32 %f2, %f1, 1, 31, -1;
)");
  // A thread that has returned keeps no barrier.
  expectFault("is done", R"(
    setp.lt.s32 %p1, %r8, 1;
    @%p1 ret;
    bar.sync 0;
)");
}

TEST(Interpreter, FindsAccessesThatAGpuRefuses) {
  expectFault("lies outside of 256 shared bytes",
              "st.shared.f32 [%rd12+4], %f1;\n");
  const std::string outside = "lies outside of what the launch may touch";
  expectFault(outside, "ld.global.f32 %f1, [%rd10+4];\n");
  expectFault(outside, "ld.global.f32 %f1, [%rd9+-4];\n");
  Grid odd;
  odd.floats.resize(63);
  expectFault(outside, "ld.global.v2.f32 {%f1, %f2}, [%rd9+248];\n", odd);
  expectFault("16 bytes at 1099511627780: is not aligned",
              "ld.global.v4.f32 {%f1, %f2, %f3, %f4}, [%rd9+4];\n");
  expectFault("8 bytes at 4: is not aligned",
              "ld.shared.u64 %rd1, [%rd11+4];\n");
  Grid half;
  half.threads = 32;
  expectFault("is made for 64 threads and launched with 32", "", half);
}

TEST(Interpreter, FindsRaces) {
  const std::string neighbour = "xor.b32 %r1, %r8, 1;\n"
                                "mul.wide.s32 %rd1, %r1, 4;\n"
                                "add.s64 %rd2, %rd11, %rd1;\n"
                                "add.s64 %rd3, %rd9, %rd1;\n"
                                "mov.f32 %f1, 0f00000000;\n";
  for (std::string space : {"shared", "global"}) {
    std::string mine = space == "shared" ? "[%rd12]" : "[%rd10]";
    std::string other = space == "shared" ? "[%rd2]" : "[%rd3]";
    std::string write = "st." + space + ".f32 " + mine + ", %f1;\n";
    std::string read = "ld." + space + ".f32 %f2, " + other + ";\n";
    std::string meet = "bar.sync 0;\n";
    expectFault("is read while another thread writes it",
                neighbour + write + read);
    expectFault("is written while another thread reads it",
                neighbour + read + write);
    EXPECT_EQ("", Grid()(neighbour + write + meet + read + meet + write));
    // Of three threads that touch a word the first and the last are one.
    expectFault("is written while another thread reads it",
                neighbour + "ld." + space + ".f32 %f2, " + mine + ";\n" + read +
                    write);
    expectFault("is written by two threads",
                neighbour + "st." + space + ".f32 " +
                    (space == "shared" ? "[%rd11]" : "[%rd9]") + ", %f1;\n");
  }
  // What one block shares is not another's.
  Grid two;
  two.blocks = 2;
  EXPECT_EQ("", two(neighbour + "st.shared.f32 [%rd12], %f1;\nbar.sync 0;\n"
                                "ld.shared.f32 %f2, [%rd2];\n"));
  EXPECT_EQ("", two("ld.global.f32 %f2, [%rd10];\n"));
  expectFault("is written by two blocks",
              neighbour + "st.global.f32 [%rd10], %f1;\n", two);
  const std::string firstBlock = "mov.u32 %r2, %ctaid.x;\n"
                                 "setp.eq.s32 %p1, %r2, 0;\n";
  expectFault("is read while another block writes it",
              neighbour + firstBlock +
                  "@%p1 st.global.f32 [%rd10], %f1;\n"
                  "@!%p1 ld.global.f32 %f2, [%rd10];\n",
              two);
  // Though its own block read it after that.
  expectFault("is written while another block reads it",
              neighbour + firstBlock +
                  "ld.global.f32 %f2, [%rd10];\nbar.sync 0;\n"
                  "@!%p1 st.global.f32 [%rd10], %f1;\n",
              two);
  expectFault("after this launch read it by ld.global.nc",
              neighbour + "ld.global.nc.f32 %f2, [%rd10];\n"
                          "st.global.f32 [%rd10], %f1;\n");
  expectFault("by ld.global.nc after this launch wrote it",
              neighbour + "st.global.f32 [%rd10], %f1;\n"
                          "ld.global.nc.f32 %f2, [%rd10];\n");
}

// Launches follow one another, so what one wrote the next may read.
TEST(Interpreter, LaunchesAreOrdered) {
  std::string error;
  auto module = Module::parse(
      kernelOf("ld.global.nc.f32 %f1, [%rd9];\nbar.sync 0;\n"), error);
  auto writer = Module::parse(kernelOf("mov.f32 %f1, 0f3f800000;\n"
                                       "st.global.f32 [%rd10], %f1;\n"),
                              error);
  std::vector<float> floats(64);
  Memory memory;
  memory.add(kAddress, reinterpret_cast<char *>(floats.data()), 256);
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(
        "", run(*writer, {writer->find("k"), 0, 1, 64, 0, {kAddress}}, memory));
    EXPECT_EQ(
        "", run(*module, {module->find("k"), 0, 2, 64, 0, {kAddress}}, memory));
  }
  memory.remove(kAddress);
  EXPECT_NE("",
            run(*module, {module->find("k"), 0, 1, 64, 0, {kAddress}}, memory));
  EXPECT_NE("", run(*module, {module->find("k"), 0, 1, 64, 0, {}}, memory));
}

// What was never written is no number, whatever came before.
TEST(Interpreter, NothingIsZeroByItself) {
  Grid run;
  run.blocks = 2;
  run.floats.assign(128, 1);
  EXPECT_EQ("", run(R"(
    mov.u32 %r1, %ctaid.x;
    mul.wide.s32 %rd1, %r1, 256;
    add.s64 %rd1, %rd10, %rd1;
    ld.shared.f32 %f1, [%rd12];
    add.rn.f32 %f1, %f1, %f2;
    st.global.f32 [%rd1], %f1;
    mov.f32 %f2, 0f00000000;
    bar.sync 0;
    st.shared.f32 [%rd12], %f2;
)"));
  for (float value : run.floats)
    EXPECT_TRUE(std::isnan(value));
}

TEST(Interpreter, RefusesWhatItDoesNotKnow) {
  std::string error;
  for (const char *line :
       {"ex2.approx.f32 %f1, %f2;", "add.rn.f32 %f1, %rd2, %f3;",
        "add.rn.f32 %f1, %f2, %f99;", "bra $L_nowhere;", "bar.sync 1;",
        "ld.f32 %f1, [%rd1];", "ld.global.v4.f32 {%f1, %f2}, [%rd1];",
        "shfl.sync.bfly.b32 %f1, %f2, 1, 15, -1;", "@%q1 ret;",
        "ld.param.u64 %rd1, [k_param_1];", "add.rn.f32 1, %f2, %f3;"}) {
    error.clear();
    EXPECT_EQ(nullptr, Module::parse(kernelOf(std::string(line) + "\n"), error))
        << line;
    EXPECT_EQ(error.find("line "), 0u) << error;
  }
}

uint64_t bitsOf(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return bits;
}

// `text` of %r1 to %r3 or %f1 to %f3, of %rd1 to %rd3: the same three inputs.
uint64_t compute(const std::string &text, std::vector<uint64_t> inputs) {
  inputs.resize(3);
  std::string body = "add.s64 %rd13, %rd9, 24;\n";
  for (std::string i : {"1", "2", "3"}) {
    std::string from = "[%rd9+" + std::to_string(8 * (i[0] - '1')) + "];\n";
    body += "ld.global.u32 %r" + i + ", " + from + "ld.global.u64 %rd" + i +
            ", " + from + "mov.b32 %f" + i + ", %r" + i + ";\n";
  }
  body += text + "\n";
  if (text.find("%p0") != std::string::npos)
    body += "selp.u64 %rd0, 1, 0, %p0;\n";
  bool isFloat = text.find("%f0") != std::string::npos,
       isWord = text.find("%r0") != std::string::npos;
  body += isFloat  ? "st.global.f32 [%rd13], %f0;\n"
          : isWord ? "st.global.u32 [%rd13], %r0;\n"
                   : "st.global.u64 [%rd13], %rd0;\n";
  body = "setp.ne.s32 %p8, %r8, 0;\n@%p8 ret;\n" + body;
  Grid run;
  run.floats.assign(8, 0);
  std::memcpy(run.floats.data(), inputs.data(), 24);
  EXPECT_EQ("", run(body)) << text;
  uint64_t result;
  std::memcpy(&result, run.floats.data() + 6, 8);
  return result;
}

TEST(Interpreter, ComputesAsTheIsaSays) {
  const float nan = std::nanf(""), inf = std::numeric_limits<float>::infinity();
  const uint64_t minus = ~uint64_t(0), minusWord = ~uint32_t(0);
  struct {
    const char *text;
    std::vector<uint64_t> inputs;
    uint64_t wanted;
  } const cases[] = {
      {"add.s32 %r0, %r1, %r2;", {minusWord, 2}, 1},
      {"sub.s64 %rd0, %rd1, %rd2;", {1, 2}, minus},
      {"mul.lo.s32 %r0, %r1, %r2;", {1u << 31, 2}, 0},
      {"mul.wide.s32 %rd0, %r1, 4;", {minusWord}, uint64_t(-4)},
      {"mul.wide.u32 %rd0, %r1, 4;", {minusWord}, 4 * minusWord},
      {"mul.hi.u64 %rd0, %rd1, %rd2;", {minus, 16}, 15},
      {"mul.hi.s64 %rd0, %rd1, %rd2;", {minus, 16}, minus},
      {"mul.hi.u32 %r0, %r1, %r2;", {minusWord, 16}, 15},
      {"mad.lo.s64 %rd0, %rd1, %rd2, %rd3;", {3, 5, 7}, 22},
      {"shl.b64 %rd0, %rd1, 64;", {3}, 0},
      {"shl.b32 %r0, %r1, 31;", {3}, 1u << 31},
      {"shr.u64 %rd0, %rd1, 64;", {minus}, 0},
      {"shr.u64 %rd0, %rd1, 63;", {minus}, 1},
      {"shr.s64 %rd0, %rd1, 99;", {minus - 7}, minus},
      {"shr.s32 %r0, %r1, 1;", {minusWord - 3}, minusWord - 1},
      {"bfe.u64 %rd0, %rd1, 4, 8;", {0xabcd}, 0xbc},
      {"bfe.u64 %rd0, %rd1, 4, 64;", {0xabcd}, 0xabc},
      {"bfe.s64 %rd0, %rd1, 4, 8;", {0xabcd}, minus - 0x43},
      {"bfe.s64 %rd0, %rd1, 4, 7;", {0xabcd}, 0x3c},
      {"bfe.s32 %r0, %r1, 31, 0;", {minusWord}, 0},
      {"bfe.s32 %r0, %r1, 30, 9;", {minusWord}, minusWord},
      {"min.s64 %rd0, %rd1, %rd2;", {minus, 1}, minus},
      {"min.u64 %rd0, %rd1, %rd2;", {minus, 1}, 1},
      {"max.s32 %r0, %r1, %r2;", {minusWord, 1}, 1},
      {"max.u32 %r0, %r1, %r2;", {minusWord, 1}, minusWord},
      {"{ .reg .b32 tmp; mov.b64 {tmp, %r0}, %rd1; }",
       {uint64_t(7) << 32 | 9},
       7},
      {"cvt.s64.s32 %rd0, %r1;", {minusWord}, minus},
      {"cvt.u64.u32 %rd0, %r1;", {minusWord}, minusWord},
      {"cvt.u32.u64 %r0, %rd1;", {uint64_t(7) << 32 | 9}, 9},
      {"cvt.rn.f32.s32 %f0, %r1;", {16777217}, bitsOf(16777216)},
      {"cvt.rn.f32.u32 %f0, %r1;", {minusWord}, bitsOf(4294967296.f)},
      {"cvt.rzi.s32.f32 %r0, %f1;", {bitsOf(-2.9f)}, uint32_t(-2)},
      {"cvt.rzi.s32.f32 %r0, %f1;", {bitsOf(3e9f)}, 0x7fffffff},
      {"cvt.rzi.s32.f32 %r0, %f1;", {bitsOf(-inf)}, 0x80000000},
      {"cvt.rzi.s32.f32 %r0, %f1;", {bitsOf(nan)}, 0},
      {"cvt.rmi.f32.f32 %f0, %f1;", {bitsOf(-2.1f)}, bitsOf(-3)},
      {"cvt.rni.f32.f32 %f0, %f1;", {bitsOf(2.5f)}, bitsOf(2)},
      {"fma.rn.f32 %f0, %f1, %f2, %f3;",
       {bitsOf(1 + 0x1p-23f), bitsOf(1 - 0x1p-23f), bitsOf(-1)},
       bitsOf(-0x1p-46f)},
      {"mul.rn.f32 %f0, %f1, %f2;",
       {bitsOf(1 + 0x1p-23f), bitsOf(1 - 0x1p-23f)},
       bitsOf(1)},
      {"div.rn.f32 %f0, %f1, %f2;", {bitsOf(1), bitsOf(3)}, bitsOf(1.f / 3)},
      {"rcp.rn.f32 %f0, %f1;", {bitsOf(-0.f)}, bitsOf(-inf)},
      {"sqrt.rn.f32 %f0, %f1;", {bitsOf(2)}, bitsOf(std::sqrt(2.f))},
      // A subnormal result is one: there is no .ftz.
      {"mul.rn.f32 %f0, %f1, %f2;",
       {bitsOf(0x1p-100f), bitsOf(0x1p-40f)},
       bitsOf(0x1p-140f)},
      {"neg.f32 %f0, %f1;", {bitsOf(0)}, bitsOf(-0.f)},
      {"abs.f32 %f0, %f1;", {bitsOf(-inf)}, bitsOf(inf)},
      {"max.f32 %f0, %f1, %f2;", {bitsOf(nan), bitsOf(-1)}, bitsOf(-1)},
      {"max.f32 %f0, %f1, %f2;", {bitsOf(-1), bitsOf(nan)}, bitsOf(-1)},
      {"min.f32 %f0, %f1, %f2;", {bitsOf(2), bitsOf(-1)}, bitsOf(-1)},
      {"setp.lt.f32 %p0, %f1, %f2;", {bitsOf(1), bitsOf(2)}, 1},
      {"setp.lt.f32 %p0, %f1, %f2;", {bitsOf(nan), bitsOf(2)}, 0},
      {"setp.ltu.f32 %p0, %f1, %f2;", {bitsOf(nan), bitsOf(2)}, 1},
      {"setp.ne.f32 %p0, %f1, %f2;", {bitsOf(nan), bitsOf(2)}, 0},
      {"setp.neu.f32 %p0, %f1, %f2;", {bitsOf(nan), bitsOf(2)}, 1},
      {"setp.eq.f32 %p0, %f1, %f2;", {bitsOf(-0.f), bitsOf(0)}, 1},
      {"setp.nan.f32 %p0, %f1, %f2;", {bitsOf(1), bitsOf(nan)}, 1},
      {"setp.lt.s32 %p0, %r1, %r2;", {minusWord, 0}, 1},
      {"setp.lt.u32 %p0, %r1, %r2;", {minusWord, 0}, 0},
      {"setp.gt.s64 %p0, %rd1, %rd2;", {minus, 0}, 0},
      {"setp.gt.u64 %p0, %rd1, %rd2;", {minus, 0}, 1},
      {"selp.f32 %f0, %f1, 0f3F800000, %p8;", {bitsOf(5)}, bitsOf(1)},
      {"and.b64 %rd0, %rd1, -2;", {7}, 6},
      {"xor.b32 %r0, %r1, -1;", {5}, uint32_t(~5)},
      {"not.pred %p0, %p8;", {}, 1},
      {"or.pred %p0, %p8, %p8;", {}, 0},
  };
  for (const auto &one : cases)
    EXPECT_EQ(one.wanted, compute(one.text, one.inputs)) << one.text;
}

} // namespace
