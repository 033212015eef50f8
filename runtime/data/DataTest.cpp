// Token data in its three formats, damaged files, and the order of samples.
#include "runtime/data/SampleOrder.h"
#include "runtime/data/TokenData.h"

#include <cstdlib>
#include <filesystem>
#include <gtest/gtest.h>
#include <random>
#include <set>

using namespace lmc::runtime;
namespace fs = std::filesystem;

class TokenDataTest : public testing::Test {
protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "lmcXXXXXX").string();
    folder = ::mkdtemp(pattern.data());
  }
  void TearDown() override { fs::remove_all(folder); }
  std::string write(const char *name, const std::string &bytes) {
    std::string path = folder / name;
    EXPECT_TRUE(writeWholeFile(path, bytes).ok());
    return path;
  }
  fs::path folder;
};

template <typename T> static void put(std::string &out, T value) {
  out.append(reinterpret_cast<const char *>(&value), sizeof value);
}

TEST_F(TokenDataTest, OwnFormat) {
  for (uint32_t largest : {400u, 100000u}) {
    TokenFileContents contents;
    contents.tokens = {1, 2, 3, largest, 5};
    contents.documentEnds = {2, 5};
    contents.mask = {true, false, true, true, true};
    contents.tokenizer = largest == 400 ? "{}" : "";
    auto data = TokenData::open(write("t", encodeTokenFile(contents)));
    ASSERT_TRUE(data.ok()) << data.status().toString();
    ASSERT_EQ(data->size(), 5);
    EXPECT_EQ(data->token(3), int32_t(largest));
    EXPECT_FALSE(data->trained(1));
    EXPECT_TRUE(data->trained(4));
    EXPECT_EQ(data->documentEnd(1), 2);
    EXPECT_EQ(data->documentEnd(2), 5);
    EXPECT_EQ(data->tokenizer(), contents.tokenizer);
  }
}

TEST_F(TokenDataTest, OwnFormatRefusesEveryDamage) {
  TokenFileContents contents;
  contents.tokens = {1, 2, 3, 4, 5};
  contents.documentEnds = {2, 5};
  contents.mask = {true, false, true, true, true};
  contents.tokenizer = "{ }";
  std::string bytes = encodeTokenFile(contents);
  for (size_t size = 0; size < bytes.size(); ++size) {
    std::string cut = bytes.substr(0, size);
    auto data = TokenData::parse(cut, "t");
    ASSERT_FALSE(data.ok()) << size;
    EXPECT_EQ(data.status().exitStatus(), 4);
  }
  for (size_t bit = 0; bit < bytes.size() * 8; ++bit) {
    std::string damaged = bytes;
    damaged[bit / 8] = char(damaged[bit / 8] ^ (1 << (bit % 8)));
    ASSERT_FALSE(TokenData::parse(damaged, "t").ok()) << bit;
  }
}

TEST_F(TokenDataTest, AFileThatIsCutWhileItIsReadIsNamed) {
  TokenFileContents contents;
  contents.tokens.resize(100000, 1);
  std::string path = write("t", encodeTokenFile(contents));
  auto data = TokenData::open(path);
  ASSERT_TRUE(data.ok());
  auto cutAndRead = [&] {
    data->nameWhenCut();
    fs::resize_file(path, 100);
    (void)data->token(90000);
  };
  EXPECT_EXIT(cutAndRead(), testing::ExitedWithCode(4),
              "error: .*/t became shorter while it was read\n");
}

TEST_F(TokenDataTest, LlmC) {
  for (int32_t magic : {20240520, 20240801}) {
    std::string bytes;
    put(bytes, magic);
    put(bytes, magic == 20240520 ? 1 : 7);
    put(bytes, int32_t(2));
    bytes.resize(1024);
    for (uint32_t token : {50000u, 7u})
      bytes.append(reinterpret_cast<const char *>(&token),
                   magic == 20240520 ? 2 : 4);
    auto data = TokenData::open(write("x.bin", bytes));
    ASSERT_TRUE(data.ok()) << data.status().toString();
    ASSERT_EQ(data->size(), 2);
    EXPECT_EQ(data->token(0), 50000);
    EXPECT_EQ(data->token(1), 7);
    bytes.pop_back();
    EXPECT_EQ(TokenData::open(write("x.bin", bytes)).status().exitStatus(), 4);
    // 2^32 - 2 tokens, as many as such a header cannot count.
    bytes[8] = '\xfe';
    bytes[9] = bytes[10] = bytes[11] = '\xff';
    Status status = TokenData::open(write("x.bin", bytes)).status();
    EXPECT_EQ(status.exitStatus(), 4);
    for (const char *part : {"x.bin says that it has -2 tokens",
                             "up to 2147483647: make a file of more with"})
      EXPECT_NE(status.toString().find(part), std::string::npos)
          << status.toString();
  }
}

TEST_F(TokenDataTest, Megatron) {
  std::string index("MMIDIDX\0\0", 9), bin;
  put(index, uint64_t(1));
  put(index, uint8_t(8));
  put(index, uint64_t(2)); // sequences
  put(index, uint64_t(3)); // document index entries
  put(index, int32_t(3));
  put(index, int32_t(1));
  put(index, int64_t(0));
  put(index, int64_t(6));
  for (int64_t document : {0, 1, 2})
    put(index, document);
  for (uint16_t token : {9, 8, 7, 65535})
    put(bin, token);
  write("corpus.idx", index);
  std::string path = write("corpus.bin", bin);
  for (std::string name :
       {path, (folder / "corpus.idx").string(), (folder / "corpus").string()}) {
    auto data = TokenData::open(name);
    ASSERT_TRUE(data.ok()) << data.status().toString();
    ASSERT_EQ(data->size(), 4);
    EXPECT_EQ(data->token(3), 65535);
    EXPECT_EQ(data->documentEnd(0), 3);
    EXPECT_EQ(data->numDocuments(), 2);
  }
  for (size_t size = 0; size < index.size(); ++size) {
    write("corpus.idx", index.substr(0, size));
    EXPECT_FALSE(TokenData::open(path).ok());
  }
}

TEST_F(TokenDataTest, UnknownFormatNamesTheKnownOnes) {
  auto data = TokenData::open(write("t", "some text"));
  ASSERT_FALSE(data.ok());
  EXPECT_NE(data.status().toString().find("lmrun tokenize"), std::string::npos);
  EXPECT_EQ(TokenData::open("/nonexistent/x").status().exitStatus(), 2);
}

TEST(SampleOrder, IsAPermutationInEveryEpoch) {
  for (int64_t samples : {1, 2, 5, 100, 1000, 1025}) {
    SampleOrder order(samples, true, 3), straight(samples, false, 3);
    std::vector<int64_t> first;
    for (int64_t epoch = 0; epoch < 2; ++epoch) {
      std::set<int64_t> seen;
      std::vector<int64_t> all;
      for (int64_t i = 0; i < samples; ++i) {
        all.push_back(order.sample(epoch * samples + i));
        seen.insert(all.back());
        EXPECT_EQ(straight.sample(epoch * samples + i), i);
      }
      EXPECT_EQ(int64_t(seen.size()), samples);
      EXPECT_EQ(*seen.rbegin(), samples - 1);
      if (epoch == 1 && samples >= 100) {
        EXPECT_NE(all, first);
      }
      first = all;
    }
  }
}
