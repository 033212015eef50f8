// What generation is made of, without a model: draws from logits, pages of the
// cache, .npy files. With a model: test/numerics and test/tools/generate.test.
#include "runtime/base/MappedFile.h"
#include "runtime/generate/Npy.h"
#include "runtime/generate/PagedCache.h"
#include "runtime/generate/Sampler.h"

#include <cmath>
#include <filesystem>
#include <gtest/gtest.h>
#include <limits>
#include <map>
#include <set>

using namespace lmc::runtime;

static const std::vector<float> kLogits = {0.5f, 2.0f, -1.0f, 2.0f, 1.0f, 0.0f};

static std::map<int32_t, int> draw(const SamplingOptions &options, int count) {
  Sampler sampler(options, 3);
  std::map<int32_t, int> counts;
  for (int position = 0; position < count; ++position)
    ++counts[sampler.sample(kLogits.data(), int64_t(kLogits.size()), position)];
  return counts;
}

TEST(Sampler, GreedyTakesTheFirstOfTheBest) {
  EXPECT_EQ(draw({/*temperature=*/0}, 50), (std::map<int32_t, int>{{1, 50}}));
  // The best one alone, whatever the temperature.
  EXPECT_EQ(draw({5, /*topK=*/1}, 50), (std::map<int32_t, int>{{1, 50}}));
  EXPECT_EQ(draw({5, 0, /*topP=*/1e-9}, 50), (std::map<int32_t, int>{{1, 50}}));
}

TEST(Sampler, DrawsByProbability) {
  const int count = 40000;
  for (double temperature : {0.5, 1.0, 3.0}) {
    std::map<int32_t, int> counts = draw({temperature}, count);
    double total = 0;
    for (float logit : kLogits)
      total += std::exp(logit / temperature);
    for (size_t v = 0; v < kLogits.size(); ++v) {
      double p = std::exp(kLogits[v] / temperature) / total;
      // Five standard deviations; the draws are always the same ones.
      EXPECT_NEAR(counts[int32_t(v)], count * p,
                  5 * std::sqrt(count * p * (1 - p)))
          << "token " << v << " at temperature " << temperature;
    }
  }
}

TEST(Sampler, KeepsTheMostLikely) {
  auto tokens = [](const SamplingOptions &options) {
    std::set<int32_t> seen;
    for (const auto &[token, count] : draw(options, 5000))
      seen.insert(token);
    return seen;
  };
  EXPECT_EQ(tokens({10, 3}), (std::set<int32_t>{1, 3, 4}));
  EXPECT_EQ(tokens({10, 100}), (std::set<int32_t>{0, 1, 2, 3, 4, 5}));
  // At temperature 1 the two best have 0.36 each, the third has 0.13: 0.7
  // needs two of them, 0.75 the third.
  EXPECT_EQ(tokens({1, 0, 0.7}), (std::set<int32_t>{1, 3}));
  EXPECT_EQ(tokens({1, 0, 0.75}), (std::set<int32_t>{1, 3, 4}));
  // Both: of the two best, the first alone has half.
  EXPECT_EQ(tokens({1, 2, 0.49}), (std::set<int32_t>{1}));
}

TEST(Sampler, ADrawDependsOnSeedStreamAndPositionAlone) {
  auto at = [](uint64_t seed, uint64_t stream, int64_t position) {
    std::vector<float> flat(1000, 0.0f);
    Sampler sampler({1, 0, 1, seed}, stream);
    return sampler.sample(flat.data(), 1000, position);
  };
  EXPECT_EQ(at(1, 2, 3), at(1, 2, 3));
  // Chance makes one of these equal in a thousand.
  std::set<int32_t> seen = {at(1, 2, 3), at(2, 2, 3), at(1, 3, 3), at(1, 2, 4)};
  EXPECT_EQ(seen.size(), 4u);
}

TEST(Sampler, PassesOverWhatIsNotFinite) {
  float inf = std::numeric_limits<float>::infinity();
  std::vector<float> logits = {NAN, -inf, 1.0f, inf};
  Sampler greedy({0}, 0), drawn({1}, 0);
  EXPECT_EQ(greedy.sample(logits.data(), 4, 0), 2);
  EXPECT_EQ(drawn.sample(logits.data(), 4, 0), 2);
  EXPECT_EQ(drawn.sample(logits.data(), 2, 0), -1);
}

TEST(PagedCache, HandsEveryPageToOneSequence) {
  PagedCache cache(7, 4, 3, 4);
  int a = cache.open(9), b = cache.open(4); // three pages and one
  ASSERT_GE(a, 0);
  ASSERT_GE(b, 0);
  EXPECT_EQ(cache.numFreePages(), 3);
  EXPECT_EQ(cache.open(16), -1); // four pages
  EXPECT_EQ(cache.numFreePages(), 3);
  int c = cache.open(12);
  ASSERT_GE(c, 0);
  EXPECT_EQ(cache.open(1), -1); // no row, no page
  std::set<int32_t> slots;
  for (int64_t i = 0; i < 9; ++i)
    slots.insert(cache.slot(a, i));
  for (int64_t i = 0; i < 4; ++i)
    slots.insert(cache.slot(b, i));
  for (int64_t i = 0; i < 12; ++i)
    slots.insert(cache.slot(c, i));
  EXPECT_EQ(slots.size(), 25u);
  EXPECT_GE(*slots.begin(), 0);
  EXPECT_LT(*slots.rbegin(), 28);
  // Positions of a page lie beside one another.
  EXPECT_EQ(cache.slot(a, 5), cache.slot(a, 4) + 1);
  EXPECT_EQ(cache.pageTable()[size_t(a) * 4 + 1] * 4, cache.slot(a, 4));
  cache.close(a);
  EXPECT_EQ(cache.numFreePages(), 3);
  EXPECT_EQ(cache.open(12), a);
}

static std::string npy(const std::string &header, const std::string &data) {
  uint16_t length = uint16_t(header.size());
  return std::string("\x93NUMPY\x01\0", 8) +
         std::string(reinterpret_cast<const char *>(&length), 2) + header +
         data;
}

TEST(Npy, ReadsWhatNumpyWrites) {
  auto read = [](const char *type, const std::string &data) {
    auto array = parseTokenArray(
        npy(fmt::format("{{'descr': '{}', 'fortran_order': False, 'shape': "
                        "(1, 2), }}      \n",
                        type),
            data),
        "x");
    EXPECT_TRUE(array.ok()) << array.status().toString();
    EXPECT_EQ(array->shape, (std::vector<int64_t>{1, 2}));
    return array->values;
  };
  EXPECT_EQ(read("<i4", std::string("\1\0\0\0\xff\xff\xff\x7f", 8)),
            (std::vector<int32_t>{1, INT32_MAX}));
  EXPECT_EQ(read("<u2", std::string("\1\0\xff\xff", 4)),
            (std::vector<int32_t>{1, 65535}));
  EXPECT_EQ(read("<i8", std::string("\1\0\0\0\0\0\0\0\2\0\0\0\0\0\0\0", 16)),
            (std::vector<int32_t>{1, 2}));
}

TEST(Npy, RefusesTheRest) {
  const std::string good =
      "{'descr': '<i4', 'fortran_order': False, 'shape': (2,), }\n";
  struct Bad {
    int exitStatus;
    std::string bytes;
    std::string says = "";
  };
  auto changed = [&](const char *from, const char *to) {
    std::string header = good;
    header.replace(header.find(from), std::string_view(from).size(), to);
    return npy(header, "12345678");
  };
  ASSERT_TRUE(parseTokenArray(npy(good, "12345678"), "x").ok());
  for (const Bad &bad : {
           Bad{4, ""},
           {4, "no array, but long enough"},
           {4, npy(good, "1234567")},
           {4, npy(good, "123456789")},
           {4, npy(good, "12345678").substr(0, 30)},
           {4, changed("(2,)", "(-2,)")},
           {4, changed("(2,)", "(9223372036854775807, 9223372036854775807)")},
           {4, changed("(2,)", "(99999999999999999999,)")},
           {4, changed("(2,)", "2")},
           {4, changed("shape", "shale")},
           {2, npy(good, "\1\1\1\1\xff\xff\xff\xff"), "-1 as element 1"},
           {2,
            npy("{'descr': '<i8', 'fortran_order': False, 'shape': (1,), }\n",
                std::string("\0\0\0\0\1\0\0\0", 8)),
            "4294967296 as element 0; a token is within 0 and 2147483647"},
           {2, changed("<i4", "<f4"), "tokens.astype('int32')"},
           {2, changed("<i4", ">i4"), "tokens.astype('int32')"},
           {2, changed("False", "True"), "numpy.ascontiguousarray(tokens)"},
       }) {
    auto array = parseTokenArray(bad.bytes, "x.npy");
    ASSERT_FALSE(array.ok()) << bad.bytes;
    EXPECT_EQ(array.status().exitStatus(), bad.exitStatus)
        << array.status().toString();
    EXPECT_EQ(array.status().message().rfind("x.npy ", 0), 0u);
    EXPECT_NE(array.status().toString().find(bad.says), std::string::npos)
        << array.status().toString();
  }
}

TEST(Npy, WritesElementsInPieces) {
  std::string pattern =
      (std::filesystem::temp_directory_path() / "lmcXXXXXX").string();
  std::filesystem::path folder = ::mkdtemp(pattern.data());
  std::string path = (folder / "x.npy").string();
  {
    auto writer = NpyWriter::create(path, {2, 1, 3});
    ASSERT_TRUE(writer.ok());
    const float values[] = {1, 2, 3, 4, 5, 6};
    writer->write(values, 2);
    writer->write(values + 2, 4);
    EXPECT_TRUE(writer->finish().ok());
  }
  auto file = MappedFile::open(path);
  ASSERT_TRUE(file.ok());
  std::string_view bytes = file->bytes();
  ASSERT_EQ(bytes.size() % 64, 24u);
  EXPECT_NE(bytes.find("'shape': (2, 1, 3,)"), std::string_view::npos);
  float last;
  std::memcpy(&last, bytes.data() + bytes.size() - 4, 4);
  EXPECT_EQ(last, 6);
  EXPECT_EQ(NpyWriter::create(folder / "none/x.npy", {1}).status().exitStatus(),
            2);
  std::filesystem::remove_all(folder);
}
