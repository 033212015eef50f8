// NumPy's array files, as far as `lmrun eval` needs them: integers in, float32
// out, both in C order.
#ifndef LMC_RUNTIME_GENERATE_NPY_H
#define LMC_RUNTIME_GENERATE_NPY_H

#include "runtime/base/Status.h"

#include <cstdint>
#include <fstream>
#include <utility>

namespace lmc::runtime {

struct TokenArray {
  std::vector<int64_t> shape;
  std::vector<int32_t> values;
};

/// Reads an array of int32, int64 or uint16. Corrupt when the file is no
/// array, WrongInput when it holds something else or what is no token.
StatusOr<TokenArray> readTokenArray(const std::string &path);
/// The same for a file in memory, which `name` stands for in messages.
StatusOr<TokenArray> parseTokenArray(std::string_view bytes,
                                     const std::string &name);

/// Writes float32 elements row by row, so that an array larger than the
/// memory that is left can be written; beside `path`, and renamed when it is
/// whole, so that nobody sees a part.
class NpyWriter {
public:
  NpyWriter(NpyWriter &&other)
      : path(std::move(other.path)), part(std::exchange(other.part, {})),
        stream(std::move(other.stream)) {}
  ~NpyWriter(); ///< what was not finished goes
  static StatusOr<NpyWriter> create(const std::string &path,
                                    const std::vector<int64_t> &shape);
  void write(const float *values, int64_t count);
  /// DoesNotFit when something could not be written.
  Status finish();

private:
  NpyWriter() = default;
  std::string path, part; ///< part: empty once it is renamed
  std::ofstream stream;
};

} // namespace lmc::runtime

#endif // LMC_RUNTIME_GENERATE_NPY_H
