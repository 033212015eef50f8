// This process's part in a job of several ranks: the control plane as one rank
// sees it.
//
// What it stands for: this rank's membership. connect() reaches rank 0 (which
//   starts the ControlServer in its own process), meet() waits for all ranks.
// Who owns it, how long: whoever runs the rank; it outlives the communicator.
// Which thread may call: connect, meet and leave the rank's thread; the rest
//   any thread.
// What "returned" promises: after meet() all ranks are there and want the same
//   job; after leave() all have left in order.
// What a failure leaves behind: a verdict, the same for all ranks: over()
//   turns true, whoever waits is woken, and nothing goes on. It says where
//   the ranks were; without rank 0 each says it of itself.
//
// A thread of its own sends heartbeats and receives the verdict; it takes no
// lock that the rank's thread holds while it computes.
#ifndef LMC_RUNTIME_JOB_JOB_H
#define LMC_RUNTIME_JOB_JOB_H

#include "runtime/job/ControlServer.h"
#include "runtime/job/Place.h"

#include <atomic>
#include <condition_variable>

namespace lmc::runtime {

class Job {
public:
  struct Options {
    /// Silence, or waiting without progress, for so long is a failure.
    int64_t timeoutMs = 30000;
    /// Called some time after the verdict, on the heartbeat thread, when the
    /// rank's thread has not come back by then: it hangs or computes. The
    /// process is expected to end in it.
    std::function<void(const Status &verdict)> giveUp;
  };
  /// Files and connections that a rank needs open, with those of its
  /// communicator.
  static int64_t openFilesOf(int rank, int ranks);
  static StatusOr<std::unique_ptr<Job>> connect(const Place &place,
                                                Options options);
  /// Says in the name of a rank that is not there yet, and will not be, why
  /// that ends the job. Rank 0 is looked for, or stands in for itself, for
  /// about `ms`; whoever cannot be told is not.
  static void announce(const Place &place, const Status &why, int64_t ms);
  ~Job();
  Job(const Job &) = delete;

  /// This side's address on the way to rank 0: the others reach it there.
  const std::string &address() const { return theAddress; }
  /// Tells what belongs to this job from what does not.
  uint64_t tokenHash() const;

  /// Tells the others what this rank is about to do, or why it cannot, and
  /// how it is reached; returns when all have done so, with the verdict if
  /// they do not agree.
  Status meet(const Status &ready, const JobFacts &facts,
              const std::string &endpoint);
  const std::vector<std::string> &endpoints() const { return theEndpoints; }

  int rank() const { return place.rank; }
  int numRanks() const { return place.ranks; }
  Progress &progress() { return theProgress; }
  /// Says in words where a Progress::position is, for reports.
  void setDescription(Describe describe);

  bool over() const { return isOver.load(std::memory_order_acquire); }
  Status verdict() const;
  /// Ends the job for all; waits for the verdict, which may be another's.
  void fail(const Status &status);
  /// Waits up to `ms` for a verdict.
  bool awaitVerdict(int64_t ms);
  /// Called once when the job is over, from another thread; null forgets it.
  void onVerdict(std::function<void()> wake);

  /// The orderly end; the verdict if there is one instead.
  Status leave();

private:
  Job(Place place, Options options)
      : place(std::move(place)), options(std::move(options)) {}
  static StatusOr<std::unique_ptr<Job>>
  open(const Place &place, Options options, int64_t rendezvousMs);
  Status introduce(int64_t deadlineMs);
  Status awaitWelcome(int64_t deadlineMs);
  void loop();
  bool receiveAll(int64_t now);
  void conclude(const Status &status);
  void concludeWithoutServer(Status status);
  void sendFailure(const Status &status);
  void wakeLoop();

  Place place;
  Options options;
  std::unique_ptr<ControlServer> server; ///< rank 0's
  FrameStream stream;
  std::string theAddress;
  std::vector<std::string> theEndpoints;
  Progress theProgress;

  Socket wake; ///< an eventfd
  int64_t lastAck = 0;
  Heartbeat rankZero; ///< as the last Ack told it
  std::atomic<bool> isOver{false};
  mutable std::mutex mutex;
  std::condition_variable changed;
  Status theVerdict;
  Describe describe;
  std::function<void()> waker;
  std::vector<Status> failures; ///< to be sent
  bool byeWanted = false, allBye = false, closing = false;
  std::thread thread;
};

} // namespace lmc::runtime

#endif // LMC_RUNTIME_JOB_JOB_H
