// See Job.h.
#include "runtime/job/Job.h"
#include "runtime/base/Log.h"
#include "runtime/base/OpenFiles.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

namespace lmc::runtime {

// How long the rank's thread has to come back after a verdict.
static constexpr int64_t settleMs = 600;
// How long a rank that cannot take part looks for somebody to tell.
static constexpr int64_t announceMs = 2000;

int64_t Job::openFilesOf(int rank, int ranks) {
  // Its own ends of the control plane and the communicator, plans, logs and
  // checkpoints; a peer's memory or a link to it; as rank 0, all that come.
  return 16 + (ranks - 1) + (rank == 0 ? ranks : 0);
}

StatusOr<std::unique_ptr<Job>> Job::connect(const Place &place,
                                            Options options) {
  Status room = allowOpenFiles(openFilesOf(place.rank, place.ranks));
  if (!room.ok()) {
    room = std::move(room).prepend(fmt::format("rank {}", place.rank));
    announce(place, room, announceMs);
    return room;
  }
  int64_t rendezvousMs = 10 * options.timeoutMs;
  return open(place, std::move(options), rendezvousMs);
}

void Job::announce(const Place &place, const Status &why, int64_t ms) {
  StatusOr<std::unique_ptr<Job>> job = open(place, Options(), ms);
  if (!job.ok())
    return;
  (*job)->sendFailure(why);
  (void)(*job)->awaitWelcome(nowMs() + ms);
}

StatusOr<std::unique_ptr<Job>> Job::open(const Place &place, Options options,
                                         int64_t rendezvousMs) {
  std::unique_ptr<Job> job(new Job(place, std::move(options)));
  if (place.rank == 0) {
    Socket listener(place.listener);
    if (!listener) {
      StatusOr<Socket> opened = listenAt(place.host, place.port);
      if (!opened.ok()) {
        // Where this job is there already, it says so.
        Status answer = job->introduce(nowMs() + 1000);
        if (!answer.ok() && answer.kind() == ErrorKind::WrongInput)
          return answer;
        return std::move(opened).status().help(
            "set LMC_RENDEZVOUS=HOST:PORT to where rank 0 can listen");
      }
      listener = *std::move(opened);
    }
    LMC_ASSIGN_OR_RETURN(
        job->server,
        ControlServer::create(
            std::move(listener),
            {place.ranks, place.token, job->options.timeoutMs, rendezvousMs}));
  }
  LMC_RETURN_IF_ERROR(job->introduce(nowMs() + rendezvousMs));
  job->wake = Socket(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!job->wake)
    return jobFailed("cannot make an eventfd: {}", std::strerror(errno));
  return job;
}

namespace {
/// What a rank says now and then while it finds no rank 0.
struct Search {
  Search(int rank, int64_t timeoutMs)
      : rank(rank), totalMs(10 * timeoutMs), pauseMs(timeoutMs / 3 + 1),
        nextWordMs(nowMs() + pauseMs) {}
  void tell(std::string_view reason) {
    if (nowMs() < nextWordMs)
      return;
    pauseMs *= 2;
    nextWordMs = nowMs() + pauseMs;
    logInfo("rank {} is looking for rank 0 still: {}; waiting {:.0f} s in all",
            rank, reason, double(totalMs) / 1e3);
  }
  int rank;
  int64_t totalMs, pauseMs, nextWordMs;
};
} // namespace

/// Reaches rank 0 and is accepted as one of the job. A connection that just
/// ends was one of many strangers': it is tried again.
Status Job::introduce(int64_t deadlineMs) {
  Search search(place.rank, options.timeoutMs);
  while (true) {
    // Rank 0's process had a listener before this one began.
    int64_t until =
        std::min(deadlineMs, place.forked ? nowMs() + 500 : search.nextWordMs);
    StatusOr<Socket> socket = connectTo(place.host, place.port, until);
    if (!socket.ok() && socket.status().kind() == ErrorKind::DoesNotFit)
      return std::move(socket).status().prepend(
          fmt::format("rank {}", place.rank));
    if (!socket.ok() && place.forked)
      return makeError(ErrorKind::PeerFailed,
                       "rank 0 is gone: the process ended before all ranks "
                       "had met")
          .note("{}", socket.status().message());
    if (!socket.ok() && until < deadlineMs) {
      std::this_thread::sleep_for(
          std::chrono::milliseconds(std::max<int64_t>(0, until - nowMs())));
      search.tell(socket.status().message());
      continue;
    }
    if (!socket.ok())
      return std::move(socket)
          .status()
          .prepend("looking for rank 0")
          .help("set LMC_RENDEZVOUS=HOST:PORT to where rank 0 can listen");
    theAddress = addressOf(*socket);
    stream = FrameStream(*std::move(socket));
    stream.maxPayload = 256 << 20;
    stream.send(IntroduceFrame,
                encode(Introduction{place.token, place.rank, place.ranks,
                                    server ? server->key() : 0}));
    FrameStream::Got got = FrameStream::Got::Nothing;
    Frame frame;
    while (got == FrameStream::Got::Nothing && nowMs() < deadlineMs) {
      pollfd waiting = {stream.fd(), POLLIN, 0};
      ::poll(&waiting, 1, 100);
      got = stream.receive(frame);
      if (got == FrameStream::Got::Nothing)
        search.tell(fmt::format("rank 0 does not answer at {}:{}", place.host,
                                place.port));
    }
    if (got == FrameStream::Got::Frame && frame.kind == AckFrame)
      return Status();
    if (got == FrameStream::Got::Frame && frame.kind == VerdictFrame) {
      Reader reader(frame.payload);
      return getStatus(reader);
    }
    if (got != FrameStream::Got::Closed)
      return makeError(ErrorKind::PeerFailed,
                       got == FrameStream::Got::Nothing
                           ? "rank 0 does not answer at {}:{}"
                           : "what answers at {}:{} is not lmrun",
                       place.host, place.port)
          .help("set LMC_RENDEZVOUS=HOST:PORT to a free port");
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    search.tell(
        fmt::format("{}:{} closes every connection", place.host, place.port));
    if (nowMs() >= deadlineMs)
      return makeError(ErrorKind::PeerFailed, "{}:{} closes every connection",
                       place.host, place.port);
  }
}

Job::~Job() {
  {
    std::lock_guard<std::mutex> lock(mutex);
    closing = true;
  }
  changed.notify_all();
  wakeLoop();
  if (thread.joinable())
    thread.join();
  stream.close();
}

uint64_t Job::tokenHash() const {
  uint64_t hash = 14695981039346656037u;
  for (unsigned char c : place.token)
    hash = (hash ^ c) * 1099511628211u;
  return hash;
}

void Job::wakeLoop() {
  uint64_t one = 1;
  (void)!::write(wake.get(), &one, sizeof one);
}

/// Takes what the server says of the others, or its verdict.
Status Job::awaitWelcome(int64_t deadlineMs) {
  Status failure;
  while (failure.ok() && theEndpoints.empty()) {
    pollfd waiting = {stream.fd(),
                      short(stream.wantsToWrite() ? POLLIN | POLLOUT : POLLIN),
                      0};
    ::poll(&waiting, 1, 100);
    (void)stream.flush();
    Frame frame;
    switch (stream.receive(frame)) {
    case FrameStream::Got::Nothing:
      if (nowMs() > deadlineMs)
        failure =
            makeError(ErrorKind::PeerFailed, "rank 0 does not answer at {}:{}",
                      place.host, place.port);
      break;
    case FrameStream::Got::Closed:
      failure = makeError(ErrorKind::PeerFailed,
                          "rank 0 is gone: it closed the connection at {}:{} "
                          "before all ranks had met",
                          place.host, place.port);
      break;
    case FrameStream::Got::Broken:
      failure =
          makeError(ErrorKind::PeerFailed, "what answers at {}:{} is not lmrun",
                    place.host, place.port)
              .help("set LMC_RENDEZVOUS=HOST:PORT to a free port");
      break;
    case FrameStream::Got::Frame: {
      Reader reader(frame.payload);
      if (frame.kind == VerdictFrame) {
        failure = getStatus(reader);
      } else if (frame.kind == WelcomeFrame) {
        for (int rank = 0; rank < place.ranks; ++rank)
          theEndpoints.push_back(reader.text());
        if (!reader.finished())
          failure = makeError(ErrorKind::Bug, "a broken welcome");
      }
      break;
    }
    }
  }
  return failure;
}

Status Job::meet(const Status &ready, const JobFacts &facts,
                 const std::string &endpoint) {
  stream.send(HelloFrame, encode(Hello{place.rank, ready, facts, endpoint}));
  // The server keeps the deadline; this one is for a server that stopped.
  Status failure = awaitWelcome(nowMs() + 11 * options.timeoutMs + 2000);
  if (!failure.ok()) {
    conclude(failure);
    return failure;
  }
  lastAck = nowMs();
  StatusOr<std::thread> started =
      startThread("lmc-heartbeat", [this] { loop(); });
  if (!started.ok()) {
    failure =
        std::move(started).status().prepend(fmt::format("rank {}", place.rank));
    sendFailure(failure); // nobody else would
    conclude(failure);
    return failure;
  }
  thread = *std::move(started);
  return Status();
}

void Job::sendFailure(const Status &status) {
  Writer writer;
  putStatus(writer, status);
  stream.send(FailFrame, writer.take());
}

void Job::setDescription(Describe description) {
  if (server)
    server->setDescription(description);
  std::lock_guard<std::mutex> lock(mutex);
  describe = std::move(description);
}

/// Rank 0 knew where all ranks were. Without it this one knows of itself, and
/// of rank 0 what that said last.
void Job::concludeWithoutServer(Status status) {
  {
    std::lock_guard<std::mutex> lock(mutex);
    status = withPosition(std::move(status), "rank 0 (as it said last)",
                          rankZero, describe);
    status = withPosition(std::move(status), fmt::format("rank {}", place.rank),
                          Heartbeat::of(theProgress), describe);
  }
  conclude(status);
}

/// False when there is nothing more to come.
bool Job::receiveAll(int64_t now) {
  Frame frame;
  while (true) {
    switch (stream.receive(frame)) {
    case FrameStream::Got::Nothing:
      return true;
    case FrameStream::Got::Closed:
    case FrameStream::Got::Broken:
      concludeWithoutServer(
          makeError(ErrorKind::PeerFailed,
                    "rank 0 is gone: the process ended, or its host did"));
      return false;
    case FrameStream::Got::Frame:
      lastAck = now;
      if (frame.kind == AckFrame)
        (void)decode(frame.payload, rankZero);
      if (frame.kind == VerdictFrame) {
        Reader reader(frame.payload);
        conclude(getStatus(reader));
        return false;
      }
      if (frame.kind == AllByeFrame) {
        std::lock_guard<std::mutex> lock(mutex);
        allBye = true;
        changed.notify_all();
        return false;
      }
    }
  }
}

void Job::loop() {
  int64_t lastBeat = 0, lastLoop = nowMs();
  while (true) {
    pollfd waiting[2] = {
        {stream.fd(), short(stream.wantsToWrite() ? POLLIN | POLLOUT : POLLIN),
         0},
        {wake.get(), POLLIN, 0}};
    int64_t untilBeat = lastBeat + heartbeatMs - nowMs();
    ::poll(waiting, 2, int(std::clamp<int64_t>(untilBeat, 0, heartbeatMs)));
    uint64_t count;
    (void)!::read(wake.get(), &count, sizeof count);
    int64_t now = nowMs();
    if (now - lastLoop > 500) // this process itself was stopped
      lastAck += now - lastLoop;
    lastLoop = now;
    if (!receiveAll(now))
      break;
    {
      std::lock_guard<std::mutex> lock(mutex);
      if (closing)
        return;
      for (const Status &status : failures) {
        sendFailure(status);
      }
      failures.clear();
      if (byeWanted)
        stream.send(ByeFrame, "");
      byeWanted = false;
    }
    if (now - lastBeat >= heartbeatMs) {
      lastBeat = now;
      stream.send(HeartbeatFrame, encode(Heartbeat::of(theProgress)));
    }
    (void)stream.flush();
    // The server, if it lives, speaks first.
    if (now - lastAck > options.timeoutMs + 300) {
      Status status =
          makeError(ErrorKind::PeerFailed,
                    "rank 0 is stopped or out of reach: no sign of life "
                    "for {:.1f} s",
                    double(options.timeoutMs) / 1e3)
              .help("--timeout SECONDS changes how long a rank may be "
                    "silent");
      sendFailure(status); // should it go on
      (void)stream.flush();
      concludeWithoutServer(std::move(status));
      break;
    }
  }
  if (!over() || !options.giveUp)
    return;
  std::unique_lock<std::mutex> lock(mutex);
  if (changed.wait_for(lock, std::chrono::milliseconds(settleMs),
                       [&] { return closing; }))
    return;
  Status status = theVerdict;
  lock.unlock();
  options.giveUp(status);
}

void Job::conclude(const Status &status) {
  std::lock_guard<std::mutex> lock(mutex);
  if (!theVerdict.ok() || allBye)
    return;
  theVerdict = status;
  isOver.store(true, std::memory_order_release);
  changed.notify_all();
  if (waker)
    waker();
}

Status Job::verdict() const {
  std::lock_guard<std::mutex> lock(mutex);
  return theVerdict;
}

bool Job::awaitVerdict(int64_t ms) {
  std::unique_lock<std::mutex> lock(mutex);
  return changed.wait_for(lock, std::chrono::milliseconds(ms),
                          [&] { return !theVerdict.ok(); });
}

void Job::fail(const Status &status) {
  if (over() || status.ok())
    return;
  {
    std::lock_guard<std::mutex> lock(mutex);
    failures.push_back(status);
  }
  wakeLoop();
  if (!awaitVerdict(1000))
    conclude(status);
}

void Job::onVerdict(std::function<void()> wakeUp) {
  std::lock_guard<std::mutex> lock(mutex);
  waker = std::move(wakeUp);
  if (waker && !theVerdict.ok())
    waker();
}

Status Job::leave() {
  theProgress.activity.store(Progress::Waiting, std::memory_order_relaxed);
  std::unique_lock<std::mutex> lock(mutex);
  byeWanted = true;
  wakeLoop();
  changed.wait(lock, [&] { return allBye || !theVerdict.ok(); });
  return theVerdict;
}

} // namespace lmc::runtime
