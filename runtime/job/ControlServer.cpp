// See ControlServer.h.
#include "runtime/job/ControlServer.h"
#include "runtime/base/Log.h"
#include "runtime/base/OpenFiles.h"

#include <algorithm>
#include <cstring>
#include <poll.h>
#include <random>
#include <set>

namespace lmc::runtime {

// Connections that end within this time are one event: a host that goes down
// takes several ranks with it.
static constexpr int64_t gatherMs = 20;
// A client that has not said Hello by then is nobody of ours.
static constexpr int64_t strangerMs = 5000;
static constexpr size_t maxStrangers = 256;

std::string encode(const Introduction &introduction) {
  return Writer()
      .text(introduction.token)
      .number(uint64_t(introduction.rank))
      .number(uint64_t(introduction.ranks))
      .number(introduction.key)
      .take();
}
static bool decode(std::string_view payload, Introduction &introduction) {
  Reader reader(payload);
  introduction.token = reader.text();
  introduction.rank = int(uint32_t(reader.number()));
  introduction.ranks = int(uint32_t(reader.number()));
  introduction.key = reader.number();
  return reader.finished();
}

std::string encode(const Hello &hello) {
  Writer writer;
  writer.text(hello.endpoint);
  putStatus(writer, hello.ready);
  writer.number(hello.facts.size());
  for (const auto &[name, value] : hello.facts)
    writer.text(name).text(value);
  return writer.take();
}

static bool decode(std::string_view payload, Hello &hello) {
  Reader reader(payload);
  hello.endpoint = reader.text();
  hello.ready = getStatus(reader);
  for (uint64_t facts = reader.number(); facts > 0 && reader.ok(); --facts) {
    std::string name = reader.text();
    hello.facts[name] = reader.text();
  }
  return reader.finished();
}

std::string listRanks(const std::vector<int> &ranks) {
  std::vector<std::string> parts;
  for (size_t i = 0; i < ranks.size();) {
    size_t end = i + 1;
    while (end < ranks.size() && ranks[end] == ranks[end - 1] + 1)
      ++end;
    if (end - i > 2)
      parts.push_back(fmt::format("{}-{}", ranks[i], ranks[end - 1]));
    else
      for (size_t k = i; k < end; ++k)
        parts.push_back(std::to_string(ranks[k]));
    i = end;
  }
  if (parts.size() < 2)
    return parts.empty() ? "" : parts[0];
  std::string last = parts.back();
  parts.pop_back();
  return fmt::format("{} and {}", fmt::join(parts, ", "), last);
}

static std::string ranksAre(const std::vector<int> &ranks) {
  return fmt::format("rank{} {} {}", ranks.size() == 1 ? "" : "s",
                     listRanks(ranks), ranks.size() == 1 ? "is" : "are");
}

Status compareFacts(const std::vector<Hello> &hellos) {
  std::set<std::string> names;
  for (const Hello &hello : hellos)
    for (const auto &[name, value] : hello.facts)
      names.insert(name);
  std::vector<std::string> differing, notes;
  for (const std::string &name : names) {
    std::map<std::string, std::vector<int>> ranksOf;
    for (const Hello &hello : hellos) {
      auto found = hello.facts.find(name);
      ranksOf[found == hello.facts.end() ? "(none)" : found->second].push_back(
          hello.rank);
    }
    if (ranksOf.size() < 2)
      continue;
    differing.push_back(name);
    for (const auto &[value, ranks] : ranksOf)
      notes.push_back(fmt::format("{}: {} on rank{} {}", name, value,
                                  ranks.size() == 1 ? "" : "s",
                                  listRanks(ranks)));
  }
  if (differing.empty())
    return Status();
  Status status = wrongInput("the ranks do not agree about the job: {}",
                             fmt::join(differing, ", "));
  for (const std::string &note : notes)
    status = std::move(status).note("{}", note);
  return std::move(status).help(
      "start all ranks with the same plan, data and flags");
}

static uint64_t randomKey() {
  std::random_device source;
  return uint64_t(source()) << 32 | source();
}

ControlServer::ControlServer(Socket given, Options options)
    : options(std::move(options)), theKey(randomKey()),
      listener(std::move(given)), ranks(size_t(this->options.ranks)) {
  started = lastLoop = lastMoved = lastWord = nowMs();
}

StatusOr<std::unique_ptr<ControlServer>>
ControlServer::create(Socket listener, Options options) {
  std::unique_ptr<ControlServer> server(
      new ControlServer(std::move(listener), std::move(options)));
  LMC_ASSIGN_OR_RETURN(
      server->thread,
      startThread("lmc-control", [self = server.get()] { self->loop(); }));
  return server;
}

ControlServer::~ControlServer() {
  if (!thread.joinable())
    return;
  {
    std::lock_guard<std::mutex> lock(mutex);
    closing = true;
  }
  thread.join();
}

void ControlServer::setDescription(Describe description) {
  std::lock_guard<std::mutex> lock(mutex);
  describe = std::move(description);
}

void ControlServer::loop() {
  int64_t closingSince = 0;
  while (true) {
    pollOnce(firstGone && !decided ? int(gatherMs / 4) : 50);
    int64_t now = nowMs();
    // Whoever stopped this process, or the whole job, for a while: that time
    // is nobody's fault.
    if (int64_t gap = now - lastLoop; gap > 500) {
      lastMoved += gap;
      for (Rank &rank : ranks)
        rank.lastSeen += gap;
    }
    lastLoop = now;
    watch(now);
    {
      std::lock_guard<std::mutex> lock(mutex);
      if (closing && !closingSince)
        closingSince = now;
    }
    bool someone = false, early = false;
    for (const Connection &connection : connections)
      someone = someone || connection.rank >= 0;
    for (const Rank &rank : ranks)
      early = early || !rank.present; // still to be told
    if (closingSince &&
        ((!someone && !early) || now - closingSince > (early ? 3000 : 400)))
      return;
  }
}

void ControlServer::pollOnce(int timeoutMs) {
  std::vector<pollfd> waiting;
  bool hears = nowMs() >= acceptAgain;
  waiting.push_back({hears ? listener.get() : -1, POLLIN, 0});
  for (const Connection &connection : connections)
    waiting.push_back(
        {connection.stream.fd(),
         short(connection.stream.wantsToWrite() ? POLLIN | POLLOUT : POLLIN),
         0});
  ::poll(waiting.data(), waiting.size(), timeoutMs);
  int64_t now = nowMs();
  for (size_t i = 0; i < connections.size();) {
    Connection &connection = connections[i];
    if (serve(connection, now)) {
      ++i;
      continue;
    }
    if (connection.rank >= 0 && !finished) {
      ranks[size_t(connection.rank)].gone = true;
      if (!firstGone)
        firstGone = now;
    }
    std::swap(connection, connections.back());
    connections.pop_back();
  }
  if (hears)
    accept(now);
}

void ControlServer::accept(int64_t now) {
  auto isStranger = [](const Connection &one) { return one.rank < 0; };
  while (Socket socket = acceptFrom(listener)) {
    // The oldest of too many strangers goes.
    if (size_t(std::count_if(connections.begin(), connections.end(),
                             isStranger)) >= maxStrangers)
      connections.erase(
          std::find_if(connections.begin(), connections.end(), isStranger));
    connections.push_back({FrameStream(std::move(socket)), -1, now});
  }
  int error = errno;
  if (!isOutOfFiles(error))
    return;
  // Who waits at the port would wake the thread again and again.
  acceptAgain = now + 50;
  auto stranger =
      std::find_if(connections.begin(), connections.end(), isStranger);
  bool isFound = stranger != connections.end();
  // A rank introduces itself sooner.
  if (isFound && now - stranger->since > 1000)
    connections.erase(stranger);
  else if (!isFound && !welcomed)
    decide(makeError(ErrorKind::DoesNotFit,
                     "rank 0 cannot take the connections of all {} ranks: {}",
                     ranks.size(), std::strerror(error))
               .help("allow more open files (ulimit -n)"));
}

bool ControlServer::serve(Connection &connection, int64_t now) {
  Frame frame;
  while (true) {
    switch (connection.stream.receive(frame)) {
    case FrameStream::Got::Frame:
      if (!handle(connection, frame, now))
        return false;
      break;
    case FrameStream::Got::Nothing:
      if (connection.rank < 0 && now - connection.since > strangerMs)
        return false;
      return connection.stream.flush();
    case FrameStream::Got::Closed:
    case FrameStream::Got::Broken:
      return false;
    }
  }
}

bool ControlServer::handle(Connection &connection, const Frame &frame,
                           int64_t now) {
  if (connection.rank < 0)
    return frame.kind == IntroduceFrame &&
           greet(connection, frame.payload, now);
  Rank &rank = ranks[size_t(connection.rank)];
  rank.lastSeen = now;
  Reader reader(frame.payload);
  switch (frame.kind) {
  case HelloFrame:
    rank.met = decode(frame.payload, rank.hello);
    return rank.met;
  case HeartbeatFrame: {
    Heartbeat before = rank.last;
    bool isWhole = decode(frame.payload, rank.last);
    if (rank.last.instructions != before.instructions ||
        rank.last.activity != before.activity)
      lastMoved = now;
    return isWhole;
  }
  case FailFrame: {
    Status status = getStatus(reader);
    if (reader.finished() && !status.ok())
      decide(status);
    return reader.finished();
  }
  case ByeFrame:
    rank.bye = true;
    return true;
  default:
    return false;
  }
}

bool ControlServer::greet(Connection &connection, std::string_view payload,
                          int64_t now) {
  Introduction who;
  // A stranger gets no answer.
  if (!decode(payload, who))
    return false;
  auto refuse = [&](const Status &status) {
    Writer writer;
    putStatus(writer, status);
    connection.stream.send(VerdictFrame, writer.take());
    return false;
  };
  if (who.token != options.token)
    return refuse(wrongInput("another job is at this port: its token differs")
                      .help("set LMC_RENDEZVOUS=HOST:PORT to a free port"));
  if (who.ranks != options.ranks || who.rank < 0 || who.rank >= options.ranks) {
    Status status = wrongInput("rank {} of {} comes to a job of {} ranks",
                               who.rank, who.ranks, options.ranks)
                        .help("start all ranks with one number of ranks");
    if (!welcomed) // the others would wait for it
      decide(status);
    return refuse(status);
  }
  Rank &rank = ranks[size_t(who.rank)];
  bool isTaken = rank.present || (who.rank == 0 && who.key != theKey);
  if (isTaken && !decided)
    return refuse(wrongInput("rank {} is taken: another process of this job "
                             "has it",
                             who.rank)
                      .help("give every process a rank of its own, as srun, "
                            "torchrun and mpirun do"));
  rank.present = true;
  if (decided) // too late: it is over
    return refuse(verdict);
  connection.rank = who.rank;
  connection.stream.maxPayload = 16 << 20;
  rank.lastSeen = now;
  rank.hello.rank = who.rank;
  connection.stream.send(AckFrame, "");
  return true;
}

void ControlServer::welcome(int64_t now) {
  std::vector<Hello> hellos;
  for (const Rank &rank : ranks)
    hellos.push_back(rank.hello);
  Status status = compareFacts(hellos);
  if (!status.ok())
    return decide(status);
  Writer writer;
  for (const Hello &hello : hellos)
    writer.text(hello.endpoint);
  sendAll(WelcomeFrame, writer.take());
  welcomed = true;
  lastMoved = now;
  for (Rank &rank : ranks)
    rank.lastSeen = now;
}

void ControlServer::watch(int64_t now) {
  if (welcomed && now - lastAck >= heartbeatMs) {
    lastAck = now;
    // Of rank 0 nobody else could say where it was, should it go.
    sendAll(AckFrame, encode(ranks[0].last));
  }
  if (decided || finished)
    return;
  if (firstGone && now - firstGone >= gatherMs) {
    std::vector<int> gone;
    for (size_t rank = 0; rank < ranks.size(); ++rank)
      if (ranks[rank].gone)
        gone.push_back(int(rank));
    return decide(withPositions(makeError(
        ErrorKind::PeerFailed, "{} gone: the process ended, or its host did",
        ranksAre(gone))));
  }
  if (!welcomed)
    return gather(now);
  bool all = true;
  for (const Rank &rank : ranks)
    all = all && rank.bye;
  if (all) {
    finished = true;
    return sendAll(AllByeFrame, "");
  }
  Status status = judgeSilence(now);
  if (status.ok())
    status = judgeHang(now);
  if (!status.ok())
    decide(withPositions(
        std::move(status).help("--timeout SECONDS changes how long a rank may "
                               "be silent")));
}

/// Before all have met.
void ControlServer::gather(int64_t now) {
  std::vector<int> missing;
  for (size_t rank = 0; rank < ranks.size(); ++rank) {
    if (!ranks[rank].met)
      missing.push_back(int(rank));
    else if (!ranks[rank].hello.ready.ok())
      return decide(Status(ranks[rank].hello.ready)
                        .prepend(fmt::format("rank {}", rank)));
  }
  if (missing.empty())
    welcome(now);
  else if (now - started > options.rendezvousMs)
    decide(makeError(ErrorKind::PeerFailed,
                     "{} missing: {} of {} ranks came within {:.0f} s",
                     ranksAre(missing), ranks.size() - missing.size(),
                     ranks.size(), double(options.rendezvousMs) / 1e3));
  else if (now - lastWord > 10000) {
    lastWord = now;
    logInfo("{} missing still: {} of {} ranks came; waiting {:.0f} s in all",
            ranksAre(missing), ranks.size() - missing.size(), ranks.size(),
            double(options.rendezvousMs) / 1e3);
  }
}

Status ControlServer::judgeSilence(int64_t now) {
  std::vector<int> silent;
  bool over = false;
  for (size_t rank = 0; rank < ranks.size(); ++rank) {
    int64_t since = now - ranks[rank].lastSeen;
    over = over || since > options.timeoutMs;
    // Those that fell silent at about the same time go together.
    if (since > options.timeoutMs - 2 * heartbeatMs && since > 3 * heartbeatMs)
      silent.push_back(int(rank));
  }
  if (!over)
    return Status();
  return makeError(ErrorKind::PeerFailed,
                   "{} stopped or out of reach: no sign of life for {:.1f} s",
                   ranksAre(silent), double(options.timeoutMs) / 1e3);
}

Status ControlServer::judgeHang(int64_t now) {
  if (now - lastMoved <= options.timeoutMs)
    return Status();
  std::vector<int> waiting, executing, busy;
  bool inInstruction = true;
  std::pair<uint64_t, uint64_t> fewest(UINT64_MAX, 0);
  for (size_t rank = 0; rank < ranks.size(); ++rank) {
    uint32_t activity = ranks[rank].last.activity;
    std::vector<int> &list = activity == Progress::Waiting ? waiting
                             : activity == Progress::Host  ? busy
                                                           : executing;
    list.push_back(int(rank));
    inInstruction = inInstruction && activity != Progress::Step;
    fewest = std::min(fewest, ranks[rank].advance());
  }
  double seconds = double(now - lastMoved) / 1e3;
  if (waiting.empty())
    return Status(); // slow, but nobody waits for it
  if (!executing.empty())
    return makeError(ErrorKind::PeerFailed,
                     "{} hanging in {}: no rank has got further for {:.1f} s, "
                     "and rank{} {} wait{}",
                     ranksAre(executing),
                     inInstruction ? "an instruction" : "a step", seconds,
                     waiting.size() == 1 ? "" : "s", listRanks(waiting),
                     waiting.size() == 1 ? "s" : "");
  if (busy.empty()) {
    std::vector<int> behind;
    for (size_t rank = 0; rank < ranks.size(); ++rank)
      if (ranks[rank].advance() == fewest)
        behind.push_back(int(rank));
    return makeError(ErrorKind::PeerFailed,
                     "all ranks have been waiting for one another for {:.1f} "
                     "s; {} behind",
                     seconds, ranksAre(behind));
  }
  if (now - lastWarning > options.timeoutMs) {
    lastWarning = now;
    logWarning("rank{} {} wait{} for rank{} {}, which {} been reading or "
               "saving for {:.0f} s",
               waiting.size() == 1 ? "" : "s", listRanks(waiting),
               waiting.size() == 1 ? "s" : "", busy.size() == 1 ? "" : "s",
               listRanks(busy), busy.size() == 1 ? "has" : "have", seconds);
  }
  return Status();
}

/// Adds where the ranks were.
Status ControlServer::withPositions(Status status) {
  std::lock_guard<std::mutex> lock(mutex);
  for (size_t rank = 0; rank < ranks.size() && rank < reportedRanks; ++rank)
    status = withPosition(std::move(status), fmt::format("rank {}", rank),
                          ranks[rank].last, describe);
  return status;
}

void ControlServer::decide(const Status &status) {
  if (decided || finished)
    return;
  decided = true;
  verdict = status;
  Writer writer;
  putStatus(writer, status);
  sendAll(VerdictFrame, writer.take());
}

void ControlServer::sendAll(uint32_t kind, std::string_view payload) {
  for (Connection &connection : connections)
    if (connection.rank >= 0)
      connection.stream.send(kind, payload);
}

} // namespace lmc::runtime
