// See Launch.h.
#include "runtime/job/Launch.h"
#include "runtime/base/OpenFiles.h"
#include "runtime/job/Job.h"

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <fcntl.h>
#include <fstream>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/wait.h>
#include <unistd.h>

namespace lmc::runtime {

// Enough for the control plane's second and a rank's last words.
static constexpr int64_t graceMs = 1500;
// Of a rank 0 that has not begun to listen, or does not.
static constexpr int64_t announceMs = 300;
// How often the starter looks whether a rank is stopped, and for how much
// longer than the timeout it must be: ranks that have met are told within a
// second.
static constexpr int64_t lookMs = 250, stoppedGraceMs = 1500;

namespace {
struct Child {
  pid_t pid = -1;
  int pipe = -1;
  bool ended = false;
  int waitStatus = 0;
  std::optional<Status> said;
  int64_t stoppedAtMs = 0; ///< since when it has been seen stopped; 0: it runs
  bool endedStopped = false; ///< by us
};
} // namespace

static std::string randomToken() {
  unsigned char bytes[16];
  if (::getrandom(bytes, sizeof bytes, 0) != ssize_t(sizeof bytes))
    std::memset(bytes, int(::getpid() & 0xff), sizeof bytes);
  std::string token = "nproc ";
  for (unsigned char byte : bytes)
    token += fmt::format("{:02x}", byte);
  return token;
}

/// Writes a status to the starter; once, whichever thread is first.
static void tell(int pipe, const Status &status) {
  Writer writer;
  putStatus(writer, status);
  std::string bytes = writer.take();
  (void)!::write(pipe, bytes.data(), bytes.size());
}

[[noreturn]] static void runChild(const RankBody &body, Place place, int pipe,
                                  pid_t starter) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != starter)
    ::_exit(1);
  // For ps and top.
  ::prctl(PR_SET_NAME, fmt::format("lmrun-rank-{}", place.rank).c_str());
  std::signal(SIGINT, SIG_IGN); // the starter hears it, and sends SIGTERM
  auto giveUp = [pipe](const Status &status) {
    tell(pipe, status);
    ::_exit(status.exitStatus());
  };
  Status status = body(place, giveUp);
  tell(pipe, status);
  std::fflush(nullptr);
  ::_exit(status.exitStatus());
}

static std::string howItEnded(const Child &child) {
  if (child.endedStopped)
    return "was stopped (SIGSTOP)";
  if (WIFSIGNALED(child.waitStatus))
    return fmt::format("was ended by signal {} ({})",
                       WTERMSIG(child.waitStatus),
                       ::strsignal(WTERMSIG(child.waitStatus)));
  return fmt::format("ended with exit status {}",
                     WEXITSTATUS(child.waitStatus));
}

/// Of a rank that ended without a word.
static Status failureOf(int rank, const Child &child) {
  // What it printed itself has its exit status.
  ErrorKind kind = WIFEXITED(child.waitStatus)
                       ? ErrorKind(WEXITSTATUS(child.waitStatus))
                       : ErrorKind::PeerFailed;
  return makeError(kind, "rank {} {}", rank, howItEnded(child));
}

/// Which failure stands for all: the reason of a rank itself, then what the
/// job came to know together, then how a rank ended without a word.
static int weightOf(const Child &child, const Status &end) {
  bool isSaid = child.said && !child.said->ok();
  return end.ok()                              ? 0
         : end.kind() != ErrorKind::PeerFailed ? 3
         : isSaid                              ? 2
                                               : 1;
}

/// One failure for all. Who had to be killed only waited, and is not to blame.
static Status summarize(const std::vector<Child> &children,
                        const std::vector<bool> &killedByUs) {
  std::vector<Status> ends;
  size_t chosen = 0;
  for (size_t rank = 0; rank < children.size(); ++rank) {
    const Child &child = children[rank];
    bool isSaid = child.said && !child.said->ok();
    ends.push_back(isSaid ? *child.said
                   : child.waitStatus != 0 && !killedByUs[rank]
                       ? failureOf(int(rank), child)
                       : Status());
    if (weightOf(child, ends[rank]) > weightOf(children[chosen], ends[chosen]))
      chosen = rank;
  }
  Status status = ends[chosen];
  if (status.ok())
    return status;
  std::vector<int> same, killed;
  std::vector<std::string> notes;
  for (size_t rank = 0; rank < children.size(); ++rank) {
    bool isSaid = children[rank].said && !children[rank].said->ok();
    if (isSaid && ends[rank].message() == status.message())
      same.push_back(int(rank));
    else if (isSaid)
      notes.push_back(
          fmt::format("rank {} says: {}", rank, ends[rank].message()));
    else if (killedByUs[rank])
      killed.push_back(int(rank));
    else if (!ends[rank].ok() && ends[rank].message() != status.message())
      notes.push_back(ends[rank].message());
  }
  if (!killed.empty())
    notes.push_back(fmt::format(
        "rank{} {} did not end by {}", killed.size() == 1 ? "" : "s",
        listRanks(killed), killed.size() == 1 ? "itself" : "themselves"));
  // Without rank 0 each knows where it was itself, and says so beside it.
  for (int rank : same)
    if (rank < reportedRanks)
      for (const std::string &line : ends[size_t(rank)].lines())
        if (std::find(status.lines().begin(), status.lines().end(), line) ==
            status.lines().end())
          status = std::move(status).line(line);
  if (same.size() > 1 || (!same.empty() && !notes.empty()))
    status = std::move(status).note(
        "said by rank{} {}", same.size() == 1 ? "" : "s", listRanks(same));
  for (const std::string &note : notes)
    status = std::move(status).note("{}", note);
  return status;
}

/// Of a rank that has ended.
static void readLastWords(Child &child) {
  if (child.pipe < 0)
    return;
  std::string bytes;
  char chunk[4096];
  for (ssize_t got; (got = ::read(child.pipe, chunk, sizeof chunk)) != 0;) {
    if (got < 0 && errno == EINTR)
      continue;
    if (got < 0)
      break;
    bytes.append(chunk, size_t(got));
  }
  ::close(child.pipe);
  child.pipe = -1;
  Reader reader(bytes);
  Status status = getStatus(reader);
  if (!bytes.empty() && reader.ok())
    child.said = status;
}

/// By a signal or a terminal; a debugger's are another state.
static bool isStopped(pid_t pid) {
  std::ifstream file(fmt::format("/proc/{}/stat", pid));
  std::string line;
  std::getline(file, line);
  size_t name = line.rfind(')'); // behind which stands the state
  return name != std::string::npos && line.compare(name, 3, ") T") == 0;
}

/// Ends what has been stopped for so long.
static void endStopped(std::vector<Child> &children, int64_t mostMs) {
  for (Child &child : children) {
    if (child.ended || child.endedStopped)
      continue;
    if (!isStopped(child.pid)) {
      child.stoppedAtMs = 0;
    } else if (child.stoppedAtMs == 0) {
      child.stoppedAtMs = nowMs();
    } else if (nowMs() - child.stoppedAtMs > mostMs) {
      child.endedStopped = true;
      ::kill(child.pid, SIGKILL);
    }
  }
}

/// Waits for all; returns the signal that the user ended the job with, or 0.
static int waitForAll(const Place &place, std::vector<Child> &children,
                      std::vector<bool> &killedByUs, const sigset_t &signals,
                      int64_t timeoutMs) {
  int endedBy = 0;
  int64_t firstFailure = 0, lookedMs = nowMs();
  size_t left = children.size();
  while (left > 0) {
    timespec slice = {0, 100'000'000};
    int signal = ::sigtimedwait(&signals, nullptr, &slice);
    if (signal == SIGTERM || signal == SIGINT || signal == SIGHUP) {
      endedBy = signal;
      for (const Child &child : children)
        if (!child.ended)
          ::kill(child.pid, SIGTERM);
    }
    for (Child &child : children)
      if (!child.ended &&
          ::waitpid(child.pid, &child.waitStatus, WNOHANG) == child.pid) {
        child.ended = true;
        --left;
        if (child.waitStatus != 0 && !firstFailure) {
          firstFailure = nowMs();
          readLastWords(child);
          // The others may not know of it yet.
          Place its = place;
          its.rank = int(&child - children.data());
          if (its.rank > 0 && !child.said && !endedBy)
            Job::announce(its, failureOf(its.rank, child), announceMs);
        }
      }
    if (nowMs() - lookedMs > lookMs) {
      lookedMs = nowMs();
      endStopped(children, timeoutMs + stoppedGraceMs);
    }
    if (!firstFailure || nowMs() - firstFailure < graceMs)
      continue;
    for (size_t rank = 0; rank < children.size(); ++rank)
      if (!children[rank].ended && !killedByUs[rank]) {
        killedByUs[rank] = true;
        ::kill(children[rank].pid, SIGKILL);
      }
  }
  return endedBy;
}

Status launch(int ranks, const RankBody &body, int64_t timeoutMs) {
  Place place;
  place.ranks = ranks;
  place.forked = true;
  place.token = randomToken();
  place.source = fmt::format("--nproc {}", ranks);
  // What rank 0 needs, with its listener and its pipe, is enough for all.
  LMC_RETURN_IF_ERROR(allowOpenFiles(Job::openFilesOf(0, ranks) + 2));
  LMC_ASSIGN_OR_RETURN(Socket listener, listenAt(place.host, 0));
  place.port = portOf(listener);
  if (StatusOr<Socket> trial = connectTo(place.host, place.port, nowMs() + 200);
      !trial.ok())
    return jobFailed("the ranks would meet on the loopback interface: {}",
                     trial.status().message())
        .help("bring it up: ip link set lo up");

  // Children of a process that ignores this cannot be waited for.
  std::signal(SIGCHLD, SIG_DFL);
  sigset_t signals, before;
  ::sigemptyset(&signals);
  for (int signal : {SIGCHLD, SIGTERM, SIGINT, SIGHUP})
    if (struct sigaction action; ::sigaction(signal, nullptr, &action) == 0 &&
                                 action.sa_handler != SIG_IGN) // nohup
      ::sigaddset(&signals, signal);
  ::pthread_sigmask(SIG_BLOCK, &signals, &before);
  std::fflush(nullptr);
  pid_t starter = ::getpid();
  std::vector<Child> children(static_cast<size_t>(ranks));
  std::vector<bool> killedByUs(static_cast<size_t>(ranks));
  Status failure;
  for (int rank = 0; rank < ranks && failure.ok(); ++rank) {
    int ends[2];
    pid_t pid = ::pipe2(ends, O_CLOEXEC) == 0 ? ::fork() : -1;
    if (pid < 0) {
      failure =
          jobFailed("cannot start rank {}: {}", rank, std::strerror(errno));
      break;
    }
    if (pid == 0) {
      ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
      for (const Child &child : children)
        if (child.pipe >= 0)
          ::close(child.pipe);
      ::close(ends[0]);
      place.rank = rank;
      if (rank == 0)
        place.listener = listener.release();
      else
        listener.reset();
      runChild(body, place, ends[1], starter);
    }
    ::close(ends[1]);
    children[size_t(rank)].pid = pid;
    children[size_t(rank)].pipe = ends[0];
  }
  listener.reset();
  if (!failure.ok()) {
    for (const Child &child : children)
      if (child.pid > 0) {
        ::kill(child.pid, SIGKILL);
        ::waitpid(child.pid, nullptr, 0);
      }
    ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
    return failure;
  }
  int endedBy = waitForAll(place, children, killedByUs, signals, timeoutMs);
  for (Child &child : children)
    readLastWords(child);
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  Status status = summarize(children, killedByUs);
  // Ranks that keep no checkpoints end by the signal; so does the starter.
  bool bySignal =
      std::any_of(children.begin(), children.end(), [](const Child &child) {
        return WIFSIGNALED(child.waitStatus);
      });
  if (endedBy && bySignal &&
      (status.ok() || status.kind() == ErrorKind::PeerFailed)) {
    std::signal(endedBy, SIG_DFL);
    std::raise(endedBy);
  }
  return status;
}

} // namespace lmc::runtime
