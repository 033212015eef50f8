// Known answers for Philox, conversions and messages.
#include "runtime/base/DataType.h"
#include "runtime/base/Log.h"
#include "runtime/base/Philox.h"
#include "runtime/base/Status.h"
#include "runtime/base/Thread.h"

#include <cmath>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

using namespace lmc::runtime;

// The known answers published with the Random123 library.
TEST(Philox, KnownAnswers) {
  EXPECT_EQ(philox4x32({0, 0, 0, 0}, 0, 0),
            (PhiloxBlock{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox4x32({~0u, ~0u, ~0u, ~0u}, ~0u, ~0u),
            (PhiloxBlock{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
                       0xa4093822, 0x299f31d0),
            (PhiloxBlock{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(DataType, HalfTypesRoundTrip) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    float asF16 = f16ToFloat(uint16_t(bits));
    float asBf16 = bf16ToFloat(uint16_t(bits));
    if (!std::isnan(asF16)) {
      EXPECT_EQ(floatToF16(asF16), bits);
    }
    if (!std::isnan(asBf16)) {
      EXPECT_EQ(floatToBf16(asBf16), bits);
    }
  }
  EXPECT_TRUE(std::isnan(bf16ToFloat(floatToBf16(NAN))));
  EXPECT_TRUE(std::isnan(f16ToFloat(floatToF16(NAN))));
  EXPECT_EQ(floatToF16(1.0f + 0x1p-11f), floatToF16(1.0f)); // tie to even
  EXPECT_EQ(floatToF16(65519.0f), 0x7bff);
  EXPECT_EQ(floatToF16(65520.0f), 0x7c00);
}

TEST(Status, PrintsNotesAndHelpAndMapsToExitStatus) {
  Status status = wrongInput("plan has no schedule \"{}\"", "train")
                      .note("it has {}", 1)
                      .help("compile with --mode=train");
  EXPECT_EQ(status.exitStatus(), 2);
  EXPECT_EQ(status.toString(), "error: plan has no schedule \"train\"\n"
                               "  note: it has 1\n"
                               "  help: compile with --mode=train\n");
  EXPECT_EQ(Status().exitStatus(), 0);
}

TEST(Log, NearestName) {
  EXPECT_EQ(nearestName("weigt_decay", {"lr", "weight_decay"}), "weight_decay");
  EXPECT_EQ(nearestName("zzz", {"lr", "weight_decay"}), "");
}

TEST(Thread, OneThatCannotBeMadeIsAFailure) {
  // In a process of its own: there is no way back from a lower limit.
  pid_t child = ::fork();
  if (child == 0) {
    rlimit none = {0, 0};
    ::setrlimit(RLIMIT_AS, &none);
    StatusOr<std::thread> thread = startThread("test", [] {});
    bool isTold = !thread.ok() && thread.status().exitStatus() == 3 &&
                  thread.status().message() ==
                      "cannot start a thread (test): Resource temporarily "
                      "unavailable";
    ::_exit(isTold ? 0 : 1);
  }
  int status = -1;
  ::waitpid(child, &status, 0);
  EXPECT_EQ(status, 0);
  bool ran = false;
  StatusOr<std::thread> thread = startThread("test", [&] { ran = true; });
  ASSERT_TRUE(thread.ok());
  thread->join();
  EXPECT_TRUE(ran);
}
