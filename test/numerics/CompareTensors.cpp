//===- CompareTensors.cpp - Hold one file of tensors against another ------===//
//
// Test code. Reads two safetensors files, or two .npy files, and says for
// every tensor how far the second is from the first:
//
//   compare-tensors EXPECTED ACTUAL [--relative=R] [--of-all=A]
//       fails where |actual - expected| > R |expected| + A |all expected|,
//       each |.| the root of the sum of squares (default R 1e-4, A 1e-7)
//   compare-tensors EXPECTED ACTUAL --absolute=X
//       fails where a single element is off by more than X
//   compare-tensors EXPECTED ACTUAL --bitwise
//       fails where a byte differs
//
// A tensor that only one file has, another shape and a value that is not a
// number fail always. Exit status 0: all within; 1: some not; 2: the call or a
// file is wrong.
//
// It shares no code with the runtime on purpose: what the product writes is
// read here by somebody else.
//
//===----------------------------------------------------------------------===//

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace {

struct Tensor {
  std::string dtype; // as in safetensors: F32, BF16, I64, ...
  std::vector<int64_t> shape;
  std::string bytes;
};
using Tensors = std::map<std::string, Tensor>;

[[noreturn]] void refuse(const std::string &message) {
  std::fprintf(stderr, "error: %s\n", message.c_str());
  std::exit(2);
}

size_t elementSize(const std::string &dtype) {
  static const std::map<std::string, size_t> sizes = {
      {"F64", 8}, {"F32", 4}, {"BF16", 2}, {"F16", 2}, {"I64", 8},
      {"I32", 4}, {"I16", 2}, {"I8", 1},   {"U8", 1},  {"BOOL", 1}};
  auto found = sizes.find(dtype);
  if (found == sizes.end())
    refuse("dtype " + dtype + " is not read here");
  return found->second;
}

int64_t numElements(const std::vector<int64_t> &shape) {
  int64_t count = 1;
  for (int64_t size : shape)
    count *= size;
  return count;
}

std::string describe(const Tensor &tensor) {
  std::string text = tensor.dtype + "[";
  for (size_t i = 0; i < tensor.shape.size(); ++i)
    text += (i ? "," : "") + std::to_string(tensor.shape[i]);
  return text + "]";
}

float halfToFloat(uint16_t half) {
  int exponent = (half >> 10) & 31, mantissa = half & 1023;
  float value = exponent == 0 ? std::ldexp(float(mantissa), -24)
                : exponent == 31
                    ? (mantissa ? NAN : INFINITY)
                    : std::ldexp(float(mantissa + 1024), exponent - 25);
  return half & 0x8000 ? -value : value;
}

template <typename T> T loadAs(const char *at) {
  T value;
  std::memcpy(&value, at, sizeof(T));
  return value;
}

std::vector<double> values(const Tensor &tensor) {
  size_t size = elementSize(tensor.dtype);
  std::vector<double> result(tensor.bytes.size() / size);
  for (size_t i = 0; i < result.size(); ++i) {
    const char *at = tensor.bytes.data() + i * size;
    if (tensor.dtype == "F64")
      result[i] = loadAs<double>(at);
    else if (tensor.dtype == "F32")
      result[i] = loadAs<float>(at);
    else if (tensor.dtype == "F16")
      result[i] = halfToFloat(loadAs<uint16_t>(at));
    else if (tensor.dtype == "BF16") {
      uint32_t bits = uint32_t(loadAs<uint16_t>(at)) << 16;
      result[i] = loadAs<float>(reinterpret_cast<const char *>(&bits));
    } else if (tensor.dtype == "I64")
      result[i] = double(loadAs<int64_t>(at));
    else if (tensor.dtype == "I32")
      result[i] = loadAs<int32_t>(at);
    else if (tensor.dtype == "I16")
      result[i] = loadAs<int16_t>(at);
    else if (tensor.dtype == "I8")
      result[i] = loadAs<int8_t>(at);
    else
      result[i] = loadAs<uint8_t>(at);
  }
  return result;
}

Tensors readSafetensors(const std::string &path, const std::string &file) {
  auto headerBytes = file.size() < 8 ? 0 : loadAs<uint64_t>(file.data());
  if (file.size() < 8 || headerBytes > file.size() - 8)
    refuse(path + " is no safetensors file: header of " +
           std::to_string(headerBytes) + " bytes in a file of " +
           std::to_string(file.size()));
  auto header = nlohmann::json::parse(file.begin() + 8,
                                      file.begin() + 8 + headerBytes, nullptr,
                                      /*allow_exceptions=*/false);
  if (!header.is_object())
    refuse(path + ": the header is no JSON object");
  std::string_view data = std::string_view(file).substr(8 + headerBytes);
  Tensors result;
  for (auto &[name, entry] : header.items()) {
    if (name == "__metadata__")
      continue;
    Tensor tensor;
    tensor.dtype = entry.value("dtype", "");
    tensor.shape = entry.value("shape", std::vector<int64_t>{});
    auto offsets = entry.value("data_offsets", std::vector<uint64_t>{});
    uint64_t wanted =
        uint64_t(numElements(tensor.shape)) * elementSize(tensor.dtype);
    if (offsets.size() != 2 || offsets[0] > offsets[1] ||
        offsets[1] > data.size() || offsets[1] - offsets[0] != wanted)
      refuse(path + ": " + name + " has offsets that do not fit " +
             describe(tensor) + " in " + std::to_string(data.size()) +
             " bytes");
    tensor.bytes = data.substr(offsets[0], wanted);
    result[name] = std::move(tensor);
  }
  return result;
}

// Version 1 and 2 of the .npy format, little-endian and row-major.
Tensors readNpy(const std::string &path, const std::string &file) {
  bool isShort = file.size() > 10 && file[6] == 1;
  size_t start = isShort ? 10 : 12;
  if (file.size() < start)
    refuse(path + " ends inside its header");
  size_t length =
      isShort ? loadAs<uint16_t>(&file[8]) : loadAs<uint32_t>(&file[8]);
  if (length > file.size() - start)
    refuse(path + " ends inside its header");
  std::string header = file.substr(start, length);
  static const std::map<std::string, std::string> dtypes = {
      {"<f8", "F64"}, {"<f4", "F32"}, {"<f2", "F16"}, {"<i8", "I64"},
      {"<i4", "I32"}, {"<i2", "I16"}, {"|i1", "I8"},  {"|u1", "U8"}};
  Tensor tensor;
  for (auto &[code, dtype] : dtypes)
    if (header.find("'" + code + "'") != std::string::npos)
      tensor.dtype = dtype;
  if (header.find("'fortran_order': False") == std::string::npos ||
      tensor.dtype.empty())
    refuse(path + ": neither the order nor the dtype of " + header);
  size_t at = header.find('(');
  while (at != std::string::npos && header[at] != ')') {
    ++at;
    if (header[at] >= '0' && header[at] <= '9') {
      char *end = nullptr;
      tensor.shape.push_back(std::strtoll(&header[at], &end, 10));
      at = end - header.data();
    }
  }
  tensor.bytes = file.substr(start + length);
  if (tensor.bytes.size() !=
      size_t(numElements(tensor.shape)) * elementSize(tensor.dtype))
    refuse(path + ": " + std::to_string(tensor.bytes.size()) +
           " bytes of data for " + describe(tensor));
  return {{"array", tensor}};
}

Tensors read(const std::string &path) {
  std::ifstream in(path, std::ios::binary);
  if (!in)
    refuse("cannot open " + path);
  std::string file(std::istreambuf_iterator<char>(in), {});
  return file.compare(0, 6, "\x93NUMPY") == 0 ? readNpy(path, file)
                                              : readSafetensors(path, file);
}

struct Tolerance {
  double relative = 1e-4;
  double ofAll = 1e-7;
  double absolute = -1; // where set, the only one that counts
  bool isBitwise = false;
};

double norm(const std::vector<double> &x) {
  double sum = 0;
  for (double v : x)
    sum += v * v;
  return std::sqrt(sum);
}

/// Prints one line and returns whether `actual` is within.
bool compare(const std::string &name, const Tensor &expected,
             const Tensor &actual, double normOfAll, const Tolerance &allowed) {
  if (expected.shape != actual.shape) {
    std::printf("FAIL  %s: expected %s, is %s\n", name.c_str(),
                describe(expected).c_str(), describe(actual).c_str());
    return false;
  }
  std::vector<double> b = values(expected), a = values(actual);
  std::vector<double> difference(b.size());
  double largest = 0;
  size_t worst = 0;
  for (size_t i = 0; i < b.size(); ++i) {
    difference[i] = a[i] - b[i];
    // Written so that a NaN becomes the worst element and stays it.
    if (!(std::fabs(difference[i]) <= largest) && !std::isnan(largest)) {
      largest = std::fabs(difference[i]);
      worst = i;
    }
  }
  double error = norm(difference), size = norm(b);
  double bound = allowed.relative * size + allowed.ofAll * normOfAll;
  bool isWithin = allowed.isBitwise ? expected.dtype == actual.dtype &&
                                          expected.bytes == actual.bytes
                  : allowed.absolute >= 0 ? largest <= allowed.absolute
                                          : error <= bound;
  std::printf("%s  %-48s %-16s error/norm %.2e", isWithin ? "ok  " : "FAIL",
              name.c_str(), describe(actual).c_str(),
              size > 0 ? error / size : error);
  if (!allowed.isBitwise && allowed.absolute < 0)
    std::printf("  error/bound %.3f", bound > 0 ? error / bound : error);
  if (!b.empty())
    std::printf("  largest %.2e at %zu (expected %.9g, is %.9g)", largest,
                worst, b[worst], a[worst]);
  std::printf("\n");
  return isWithin;
}

} // namespace

int main(int argc, char **argv) {
  std::vector<std::string> paths;
  Tolerance allowed;
  for (int i = 1; i < argc; ++i) {
    std::string argument = argv[i];
    auto number = [&](const char *flag, double &to) {
      if (argument.rfind(flag, 0) != 0)
        return false;
      const char *text = argv[i] + std::strlen(flag);
      char *end = nullptr;
      to = std::strtod(text, &end);
      if (end == text || *end)
        refuse(argument + " is no number");
      return true;
    };
    if (number("--relative=", allowed.relative) ||
        number("--of-all=", allowed.ofAll) ||
        number("--absolute=", allowed.absolute))
      continue;
    if (argument == "--bitwise")
      allowed.isBitwise = true;
    else if (argument.rfind("--", 0) == 0)
      refuse("unknown flag " + argument);
    else
      paths.push_back(argument);
  }
  if (paths.size() != 2)
    refuse("usage: compare-tensors EXPECTED ACTUAL [--relative=R --of-all=A | "
           "--absolute=X | --bitwise]");

  Tensors expected = read(paths[0]), actual = read(paths[1]);
  double sumOfSquares = 0;
  for (auto &[name, tensor] : expected)
    for (double v : values(tensor))
      sumOfSquares += v * v;
  size_t failed = 0;
  for (auto &[name, tensor] : expected) {
    auto found = actual.find(name);
    if (found == actual.end())
      std::printf("FAIL  %s is missing in %s\n", name.c_str(),
                  paths[1].c_str());
    if (found == actual.end() ||
        !compare(name, tensor, found->second, std::sqrt(sumOfSquares), allowed))
      ++failed;
  }
  for (auto &[name, tensor] : actual)
    if (!expected.count(name)) {
      std::printf("FAIL  %s is not in %s\n", name.c_str(), paths[0].c_str());
      ++failed;
    }
  if (expected.empty())
    refuse(paths[0] + " holds no tensor: nothing was compared");
  std::printf("%zu of %zu tensors within\n",
              expected.size() - std::min(failed, expected.size()),
              expected.size());
  return failed ? 1 : 0;
}
