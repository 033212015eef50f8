// The control plane's centre, a thread in rank 0's process. It gathers the
// ranks, compares what they are about to do, relays where each can be reached,
// watches their heartbeats, and sends the verdict that ends the job.
//
//   ranks                      server
//     | -- Introduce(token) --->  |  at once; a stranger gets no further, nor
//     |                           |  does a second process of the same rank
//     | <- Ack ----------------   |
//     | -- Hello(facts) ------->  |  until all are there; facts compared
//     | <- Welcome(endpoints) --  |
//     | -- Heartbeat ---------->  |  every 100 ms, with the rank's Progress
//     | <- Ack ----------------   |  every 100 ms: rank 0 is alive, and where
//     | -- Fail(status) ------->  |  becomes the verdict
//     | <- Verdict ------------   |  once, to all; the first one stays
//     | -- Bye ---------------->  |
//     | <- AllBye -------------   |  when all have said it
//
// When a verdict falls without a rank's asking for it:
//   - a connection ends before its Bye: that rank is gone, at once (what ends
//     within a few milliseconds is one verdict);
//   - no heartbeat for the timeout: stopped or unreachable;
//   - no rank's instruction counter has moved for the timeout while a rank
//     waits: those in the middle of an instruction, or of a step, hang. A rank
//     that loads or saves is given the time it takes.
#ifndef LMC_RUNTIME_JOB_CONTROLSERVER_H
#define LMC_RUNTIME_JOB_CONTROLSERVER_H

#include "runtime/base/Thread.h"
#include "runtime/job/Frames.h"
#include "runtime/job/Heartbeat.h"

#include <map>
#include <mutex>

namespace lmc::runtime {

enum ControlFrame : uint32_t {
  IntroduceFrame = 1,
  HelloFrame,
  WelcomeFrame,
  HeartbeatFrame,
  AckFrame,
  FailFrame,
  ByeFrame,
  AllByeFrame,
  VerdictFrame,
};
inline constexpr int64_t heartbeatMs = 100;

/// What a rank is about to do, by name; all ranks must say the same.
using JobFacts = std::map<std::string, std::string>;

struct Introduction {
  std::string token;
  int rank = 0, ranks = 0;
  uint64_t key = 0; ///< ControlServer::key() of rank 0's own process
};
std::string encode(const Introduction &introduction);

struct Hello {
  int rank = 0;
  Status ready; ///< why this rank cannot take part, if it cannot
  JobFacts facts;
  std::string endpoint; ///< how the others reach it, opaque here
};
std::string encode(const Hello &hello);

/// WrongInput that names ranks and values when facts differ.
Status compareFacts(const std::vector<Hello> &hellos);

/// "2", "2 and 3", "0, 2 and 5-7".
std::string listRanks(const std::vector<int> &ranks);

class ControlServer {
public:
  struct Options {
    int ranks = 1;
    std::string token;
    int64_t timeoutMs = 30000;
    int64_t rendezvousMs = 300000;
  };
  static StatusOr<std::unique_ptr<ControlServer>> create(Socket listener,
                                                         Options options);
  /// Waits, some seconds at most, until every rank has what was sent to it.
  ~ControlServer();

  /// What rank 0, in whose process this is, proves itself by: a second process
  /// that takes itself for rank 0 may come first.
  uint64_t key() const { return theKey; }

  /// Says in words where a Progress::position is; may be set at any time.
  void setDescription(Describe describe);

private:
  struct Connection {
    FrameStream stream;
    int rank = -1;
    int64_t since = 0;
  };
  struct Rank {
    bool present = false, met = false, gone = false, bye = false;
    Hello hello;
    int64_t lastSeen = 0;
    Heartbeat last;
    std::pair<uint64_t, uint64_t> advance() const {
      return {last.instructions, last.exchanges};
    }
  };

  ControlServer(Socket listener, Options options);
  void loop();
  void pollOnce(int timeoutMs);
  void accept(int64_t now);
  /// False when the connection is to be dropped.
  bool serve(Connection &connection, int64_t now);
  bool handle(Connection &connection, const Frame &frame, int64_t now);
  bool greet(Connection &connection, std::string_view payload, int64_t now);
  void gather(int64_t now);
  void welcome(int64_t now);
  void watch(int64_t now);
  Status judgeSilence(int64_t now);
  Status judgeHang(int64_t now);
  Status withPositions(Status status);
  void decide(const Status &status);
  void sendAll(uint32_t kind, std::string_view payload);

  Options options;
  uint64_t theKey;
  Socket listener; ///< to the end: whoever comes too much is told so
  std::vector<Connection> connections;
  std::vector<Rank> ranks;
  int64_t started = 0, lastLoop = 0, lastMoved = 0, lastAck = 0, lastWord = 0;
  int64_t lastWarning = 0, firstGone = 0;
  int64_t acceptAgain = 0; ///< not before then: there was no room
  bool welcomed = false, decided = false, finished = false;
  Status verdict;
  std::mutex mutex; ///< of `describe` and `closing` alone
  Describe describe;
  bool closing = false;
  std::thread thread;
};

} // namespace lmc::runtime

#endif // LMC_RUNTIME_JOB_CONTROLSERVER_H
