// Runs cases that write-device-cases wrote through a device, each kernel by
// itself, and compares with float64. Links no compiler: it goes to machines
// that have a GPU and nothing else.
//
// check-device cpu|cuda|null FILE...
//     a line for each class of kernels: how many, and the worst error as a part
//     of what is allowed. On null everything is accepted and nothing computed.
//
// Each case lies in memory of its own with a pattern behind every operand, as
// little aligned as a plan allows. It is launched, on a device that records
// launched by a recording, too, and its bits must be the same again. What it
// does not write must stay. cuda's products, a library's, are held likewise.
#include "runtime/base/Log.h"
#include "runtime/device/OpenDevice.h"
#include "runtime/device/null/NullDevice.h"
#include "test/device/DeviceCases.pb.h"

#include <cmath>
#include <cstring>
#include <fstream>
#include <map>
#include <numeric>
#include <random>

using namespace lmc;
using namespace lmc::runtime;

namespace {

constexpr char kPattern = 0x5a;
constexpr int64_t kGuard = 256;

struct Tally {
  int cases = 0, failures = 0;
  double worst = 0; // error over what is allowed
};

class Checker {
public:
  Checker(std::unique_ptr<Device> device, const test::DeviceCases &cases,
          bool computes)
      : device(std::move(device)), cases(cases), computes(computes) {}
  Status run();
  const std::map<std::string, Tally> &results() const { return tallies; }

private:
  void place();
  void fill(size_t number);
  Status launch(size_t number, bool recorded);
  std::vector<char> readBack(size_t number);
  Status runCase(size_t number);
  std::string compare(size_t number, const std::vector<char> &bytes,
                      double &worst);

  std::unique_ptr<Device> device;
  const test::DeviceCases &cases;
  bool computes;
  std::vector<KernelHandle> handles;
  // Where each case's operands lie in the one block for all.
  std::vector<std::vector<int64_t>> places;
  std::vector<int64_t> begins;          // of each case, and the end
  std::map<std::string, Tally> tallies; // by kind
};

// As little aligned as a plan allows: a micro-batch's part of an input.
void Checker::place() {
  int64_t at = 0;
  for (const test::DeviceCase &one : cases.cases()) {
    begins.push_back(at);
    std::vector<int64_t> operands;
    for (const test::DeviceOperand &operand : one.operands()) {
      auto bytes = int64_t(operand.given().size());
      at += std::gcd(bytes, int64_t(16)) % 16;
      operands.push_back(at);
      at = (at + bytes + kGuard + 63) / 64 * 64;
    }
    places.push_back(operands);
  }
  begins.push_back(at);
}

void Checker::fill(size_t number) {
  std::vector<char> bytes(size_t(begins[number + 1] - begins[number]),
                          kPattern);
  const test::DeviceCase &one = cases.cases(int(number));
  for (int i = 0; i < one.operands_size(); ++i)
    std::memcpy(bytes.data() + places[number][size_t(i)] - begins[number],
                one.operands(i).given().data(), one.operands(i).given().size());
  device->write(device->base(0) + begins[number], bytes.data(),
                int64_t(bytes.size()));
}

Status Checker::launch(size_t number, bool recorded) {
  const test::DeviceCase &one = cases.cases(int(number));
  std::vector<void *> pointers;
  for (int64_t place : places[number])
    pointers.push_back(device->base(0) + place);
  if (recorded)
    LMC_RETURN_IF_ERROR(device->beginRecording());
  device->launch(handles[number], pointers.data(), one.integers().data(),
                 one.units(), Parts::Many);
  if (recorded) {
    LMC_ASSIGN_OR_RETURN(std::unique_ptr<Recording> recording,
                         device->endRecording());
    device->replay(*recording);
    return device->synchronize(); // before the recording is gone
  }
  return device->synchronize();
}

std::vector<char> Checker::readBack(size_t number) {
  std::vector<char> bytes(size_t(begins[number + 1] - begins[number]));
  device->read(device->base(0) + begins[number], bytes.data(),
               int64_t(bytes.size()));
  return bytes;
}

// What is wrong with the bytes of a case; empty if nothing is.
std::string Checker::compare(size_t number, const std::vector<char> &bytes,
                             double &worst) {
  const test::DeviceCase &one = cases.cases(int(number));
  std::vector<bool> isOperand(bytes.size());
  for (int i = 0; i < one.operands_size(); ++i) {
    const test::DeviceOperand &operand = one.operands(i);
    auto begin = size_t(places[number][size_t(i)] - begins[number]);
    std::fill_n(isOperand.begin() + ptrdiff_t(begin), operand.given().size(),
                true);
    const char *found = bytes.data() + begin;
    if (operand.expected().empty()) {
      if (std::memcmp(found, operand.given().data(), operand.given().size()))
        return fmt::format("operand {}, which it reads, was written", i);
      continue;
    }
    double largest = 1e-30;
    for (double value : operand.expected())
      if (std::isfinite(value))
        largest = std::max(largest, std::fabs(value));
    for (int k = 0; k < operand.expected_size(); ++k) {
      double wanted = operand.expected(k), got;
      if (operand.is_float()) {
        float value;
        std::memcpy(&value, found + 4 * k, 4);
        got = value;
      } else {
        int32_t value;
        std::memcpy(&value, found + 4 * k, 4);
        got = value;
      }
      if (got == wanted || (std::isnan(got) && std::isnan(wanted)))
        continue;
      double error = std::fabs(got - wanted) / (one.tolerance() * largest);
      if (!(error <= 1))
        return fmt::format("operand {}: element {} is {}, not {}; the largest "
                           "is {}",
                           i, k, got, wanted, largest);
      worst = std::max(worst, error);
    }
  }
  for (size_t i = 0; i < bytes.size(); ++i)
    if (!isOperand[i] && bytes[i] != kPattern)
      return fmt::format("byte {} beside its operands was written", i);
  return "";
}

Status Checker::runCase(size_t number) {
  const test::DeviceCase &one = cases.cases(int(number));
  Tally &tally = tallies[one.kind()];
  ++tally.cases;
  fill(number);
  LMC_RETURN_IF_ERROR(launch(number, /*recorded=*/false));
  if (!computes)
    return Status();
  std::vector<char> bytes = readBack(number);
  std::string wrong = compare(number, bytes, tally.worst);
  if (wrong.empty()) {
    fill(number);
    LMC_RETURN_IF_ERROR(launch(number, device->canRecord()));
    if (readBack(number) != bytes)
      wrong = device->canRecord() ? "its replay gives other bits"
                                  : "a second run gives other bits";
  }
  if (wrong.empty())
    return Status();
  ++tally.failures;
  fmt::print("FAIL: {} ({}): {}\n", one.name(), one.kind(), wrong);
  return Status();
}

Status Checker::run() {
  place();
  LMC_RETURN_IF_ERROR(device->allocate({{"cases", begins.back()}}));
  std::vector<CodeObject> code;
  for (const test::DeviceCode &one : cases.code())
    code.push_back({one.target_cpu(),
                    {one.cpu_features().begin(), one.cpu_features().end()},
                    one.object()});
  std::vector<KernelRequest> wanted;
  for (const test::DeviceCase &one : cases.cases())
    wanted.push_back({one.symbol(), uint32_t(one.operands_size()),
                      uint32_t(one.integers_size()), one.threads(),
                      one.shared_bytes(), one.name()});
  LMC_ASSIGN_OR_RETURN(handles, device->loadKernels(code, wanted));
  for (size_t i = 0; i < wanted.size(); ++i)
    LMC_RETURN_IF_ERROR(runCase(i));
  return Status();
}

StatusOr<test::DeviceCases> readCases(const std::string &path) {
  std::ifstream file(path, std::ios::binary);
  test::DeviceCases cases;
  if (!file || !cases.ParseFromIstream(&file) || cases.cases().empty())
    return wrongInput("{} holds no cases", path);
  return std::move(cases);
}

// target = left * right + bias + addend, each of odd sizes.
struct Product {
  int64_t rows, columns, depth;
  bool leftTransposed, rightTransposed, hasBias, adds;
};
constexpr Product kProducts[] = {
    {1, 1, 1, false, false, false, false},
    {3, 5, 7, false, false, true, false},
    {17, 33, 65, false, true, false, true},
    {65, 31, 129, true, false, false, true},
    {33, 127, 1, false, true, true, true},
    {128, 96, 64, false, false, true, true},
};

// A library's products, on a device that has one.
Status checkProducts(const CpuDevice::Options &host, Tally &tally) {
  LMC_ASSIGN_OR_RETURN(std::unique_ptr<Device> device,
                       openDevice("cuda", /*matmuls=*/true, host));
  constexpr int64_t workspaceBytes = 1 << 20;
  std::vector<MatmulRequest> requests;
  std::vector<AllocationRequest> blocks{{"workspace", workspaceBytes}};
  auto bytesOf = [](int64_t elements) { return (elements * 4 + 63) / 64 * 64; };
  for (const Product &one : kProducts) {
    MatmulRequest request;
    request.rows = one.rows;
    request.columns = one.columns;
    request.depth = one.depth;
    request.leftTransposed = one.leftTransposed;
    request.rightTransposed = one.rightTransposed;
    request.hasBias = one.hasBias;
    request.workspaceBytes = workspaceBytes;
    request.alignments.fill(64);
    requests.push_back(request);
    for (int64_t elements :
         {one.rows * one.depth, one.depth * one.columns, one.rows * one.columns,
          one.columns, one.rows * one.columns})
      blocks.push_back({"operand", bytesOf(elements)});
  }
  LMC_RETURN_IF_ERROR(device->allocate(blocks));
  LMC_RETURN_IF_ERROR(device->prepareMatmuls(requests, /*tf32=*/false));
  std::mt19937 random(1);
  auto fill = [&](uint32_t block, int64_t elements) {
    std::vector<float> values(static_cast<size_t>(elements));
    for (float &value : values)
      value = std::uniform_real_distribution<float>(-1, 1)(random);
    device->write(device->base(block), values.data(), elements * 4);
    return values;
  };
  for (uint32_t number = 0; number < std::size(kProducts); ++number) {
    const Product &one = kProducts[number];
    uint32_t block = 1 + 5 * number;
    std::vector<float> left = fill(block, one.rows * one.depth),
                       right = fill(block + 1, one.depth * one.columns),
                       bias = fill(block + 3, one.columns),
                       addend = fill(block + 4, one.rows * one.columns);
    void *pointers[numMatmulPointers] = {};
    pointers[MatmulLeft] = device->base(block);
    pointers[MatmulRight] = device->base(block + 1);
    pointers[MatmulTarget] = device->base(block + 2);
    pointers[MatmulWorkspace] = device->base(0);
    if (one.hasBias)
      pointers[MatmulBias] = device->base(block + 3);
    if (one.adds)
      pointers[MatmulAddend] = device->base(block + 4);
    device->matmul(number, pointers, one.rows, one.adds);
    LMC_RETURN_IF_ERROR(device->synchronize());
    std::vector<float> found(addend.size());
    device->read(device->base(block + 2), found.data(),
                 int64_t(found.size()) * 4);
    double worst = 0, largest = 1e-30;
    for (int64_t m = 0; m < one.rows; ++m)
      for (int64_t n = 0; n < one.columns; ++n) {
        double sum = one.hasBias ? bias[size_t(n)] : 0;
        if (one.adds)
          sum += addend[size_t(m * one.columns + n)];
        for (int64_t k = 0; k < one.depth; ++k)
          sum += double(left[size_t(one.leftTransposed ? k * one.rows + m
                                                       : m * one.depth + k)]) *
                 right[size_t(one.rightTransposed ? n * one.depth + k
                                                  : k * one.columns + n)];
        largest = std::max(largest, std::fabs(sum));
        worst = std::max(worst,
                         std::fabs(found[size_t(m * one.columns + n)] - sum));
      }
    ++tally.cases;
    tally.worst = std::max(tally.worst, worst / (2e-5 * largest));
    if (!(worst <= 2e-5 * largest)) {
      ++tally.failures;
      fmt::print("FAIL: product {} x {} x {}: off by {}, the largest is {}\n",
                 one.rows, one.columns, one.depth, worst, largest);
    }
  }
  return Status();
}

Status runFile(const std::string &name, const std::string &path,
               std::map<std::string, Tally> &all) {
  LMC_ASSIGN_OR_RETURN(test::DeviceCases cases, readCases(path));
  std::unique_ptr<Device> device;
  if (name == "null") {
    device = std::make_unique<NullDevice>();
  } else if (name != cases.target()) {
    return wrongInput("{} is for {}, not for {}", path, cases.target(), name);
  } else {
    CpuDevice::Options host;
    host.threads = 2;
    host.stackBytes =
        std::max<int64_t>(cases.stack_bytes() + (1 << 20), 8 << 20);
    LMC_ASSIGN_OR_RETURN(device, openDevice(name, /*matmuls=*/false, host));
  }
  Checker checker(std::move(device), cases, name != "null");
  LMC_RETURN_IF_ERROR(checker.run());
  for (const auto &[kind, tally] : checker.results()) {
    Tally &sum = all[kind];
    sum.cases += tally.cases;
    sum.failures += tally.failures;
    sum.worst = std::max(sum.worst, tally.worst);
  }
  return Status();
}

} // namespace

int main(int argc, char **argv) {
  if (argc < 3 ||
      (argv[1] != std::string("cpu") && argv[1] != std::string("cuda") &&
       argv[1] != std::string("null"))) {
    fmt::print(stderr, "usage: check-device cpu|cuda|null FILE...\n");
    return 2;
  }
  std::map<std::string, Tally> all;
  for (int i = 2; i < argc; ++i)
    if (Status status = runFile(argv[1], argv[i], all); !status.ok()) {
      fmt::print(stderr, "{}\n", status.toString());
      return status.exitStatus();
    }
  if (argv[1] == std::string("cuda"))
    if (Status status = checkProducts({}, all["product"]); !status.ok()) {
      fmt::print(stderr, "{}\n", status.toString());
      return status.exitStatus();
    }
  bool isNull = argv[1] == std::string("null");
  int cases = 0, failures = 0;
  for (const auto &[kind, tally] : all) {
    fmt::print("{}: {} {}, {}\n", argv[1], tally.cases, kind,
               isNull ? "accepted"
                      : fmt::format("{} failed, worst {:.0f} % of the bound",
                                    tally.failures, 100 * tally.worst));
    cases += tally.cases;
    failures += tally.failures;
  }
  fmt::print("{} cases on {}, {} failures\n", cases, argv[1], failures);
  return failures ? 1 : 0;
}
