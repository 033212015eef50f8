// See TcpLinks.h.
#include "runtime/comm/host/TcpLinks.h"
#include "runtime/base/OpenFiles.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

namespace lmc::runtime {

// Read or written under one lock; then the other thread has its turn.
static constexpr size_t turnBytes = 1 << 20;

namespace {
/// What a connecting rank says first. The listener answers with one byte.
struct Greeting {
  uint64_t magic;
  uint32_t from, to;
  uint64_t token;
};
constexpr uint64_t greetingMagic = 0x314b4e494c434d4c; // "LMCLINK1"

/// A connection whose greeting, or answer, is not complete.
struct Half {
  Socket socket;
  int peer; ///< -1: it came to us
  size_t done = 0;
  Greeting greeting{};
};
} // namespace

StatusOr<std::unique_ptr<TcpLinks>> TcpLinks::create(Job &job, Bell &bell,
                                                     Waiter &waiter) {
  std::unique_ptr<TcpLinks> links(new TcpLinks(job, bell, waiter));
  LMC_ASSIGN_OR_RETURN(links->listener, listenAt(job.address(), 0));
  return links;
}

TcpLinks::~TcpLinks() {
  if (!thread.joinable())
    return;
  uint64_t one = 1;
  (void)!::write(stop.get(), &one, sizeof one);
  thread.join();
}

std::string TcpLinks::endpoint() const {
  return fmt::format("{} {}", portOf(listener), job.address());
}

void TcpLinks::addLink(int peer, Socket socket) {
  links[size_t(peer)] = std::make_unique<Link>();
  links[size_t(peer)]->socket = std::move(socket);
}

/// Connects to lower ranks, hears higher ones, until every wanted link stands.
Status TcpLinks::greetAll(const std::vector<std::string> &endpoints,
                          const std::vector<bool> &wanted) {
  std::vector<Half> halves;
  uint64_t token = job.tokenHash();
  for (int peer = 0; peer < job.rank(); ++peer) {
    if (!wanted[size_t(peer)])
      continue;
    const std::string &endpoint = endpoints[size_t(peer)];
    StatusOr<Socket> socket =
        connectTo(endpoint.substr(endpoint.find(' ') + 1),
                  std::atoi(endpoint.c_str()), nowMs() + 20000);
    if (!socket.ok())
      return std::move(socket).status().prepend(
          fmt::format("rank {} connects to rank {}", job.rank(), peer));
    Greeting greeting{greetingMagic, uint32_t(job.rank()), uint32_t(peer),
                      token};
    if (::send(socket->get(), &greeting, sizeof greeting, MSG_NOSIGNAL) !=
        ssize_t(sizeof greeting))
      return lost(peer);
    halves.push_back({*std::move(socket), peer});
  }
  auto missing = [&] {
    for (int peer = 0; peer < job.numRanks(); ++peer)
      if (wanted[size_t(peer)] && !links[size_t(peer)])
        return true;
    return false;
  };
  int64_t deadline = nowMs() + 30000;
  while (missing()) {
    if (job.over())
      return job.verdict();
    if (nowMs() > deadline)
      return makeError(ErrorKind::PeerFailed,
                       "rank {} was not connected to all others within 30 s",
                       job.rank());
    std::vector<pollfd> waiting = {{listener.get(), POLLIN, 0}};
    for (const Half &half : halves)
      waiting.push_back({half.socket.get(), POLLIN, 0});
    ::poll(waiting.data(), waiting.size(), 50);
    while (Socket socket = acceptFrom(listener)) {
      if (halves.size() > 4096)
        halves.erase(halves.begin());
      halves.push_back({std::move(socket), -1});
    }
    if (isOutOfFiles(errno))
      return makeError(ErrorKind::DoesNotFit,
                       "rank {} cannot take the connections of other ranks: {}",
                       job.rank(), std::strerror(errno))
          .help("allow more open files (ulimit -n)");
    for (size_t i = 0; i < halves.size();) {
      Half &half = halves[i];
      size_t wants = half.peer < 0 ? sizeof(Greeting) : 1;
      ssize_t got = ::recv(half.socket.get(),
                           reinterpret_cast<char *>(&half.greeting) + half.done,
                           wants - half.done, MSG_DONTWAIT);
      if (got < 0 && (errno == EAGAIN || errno == EINTR)) {
        ++i;
        continue;
      }
      half.done += size_t(std::max<ssize_t>(got, 0));
      if (got > 0 && half.done < wants) {
        ++i;
        continue;
      }
      int peer = half.peer;
      const Greeting &said = half.greeting;
      if (got > 0 && peer < 0 && said.magic == greetingMagic &&
          said.token == token && said.to == uint32_t(job.rank()) &&
          said.from > uint32_t(job.rank()) &&
          said.from < uint32_t(job.numRanks()) && wanted[said.from] &&
          !links[said.from] &&
          ::send(half.socket.get(), "!", 1, MSG_NOSIGNAL) == 1)
        peer = int(said.from);
      if (got <= 0 && half.peer >= 0)
        return lost(half.peer);
      if (got > 0 && peer >= 0)
        addLink(peer, std::move(half.socket));
      std::swap(half, halves.back());
      halves.pop_back();
    }
  }
  return Status();
}

Status TcpLinks::connect(const std::vector<std::string> &endpoints,
                         const std::vector<bool> &wanted) {
  LMC_RETURN_IF_ERROR(greetAll(endpoints, wanted));
  listener.reset();
  epoll = Socket(::epoll_create1(EPOLL_CLOEXEC));
  stop = Socket(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  epoll_event event = {};
  event.events = EPOLLIN;
  bool ok = epoll && stop &&
            ::epoll_ctl(epoll.get(), EPOLL_CTL_ADD, stop.get(), &event) == 0;
  for (const std::unique_ptr<Link> &link : links)
    if (link) {
      event.data.ptr = link.get();
      ok = ok && ::epoll_ctl(epoll.get(), EPOLL_CTL_ADD, link->socket.get(),
                             &event) == 0;
    }
  if (!ok)
    return jobFailed("cannot watch the connections: {}", std::strerror(errno));
  LMC_ASSIGN_OR_RETURN(thread, startThread("lmc-tcp", [this] { loop(); }));
  return Status();
}

/// A connection that ended: the control plane knows better why.
Status TcpLinks::lost(int peer) {
  if (!job.awaitVerdict(500))
    job.fail(makeError(ErrorKind::PeerFailed,
                       "rank {} lost its connection to rank {}", job.rank(),
                       peer));
  return job.verdict();
}

void TcpLinks::arm(Link &link) {
  epoll_event event = {};
  event.events = link.hasOutgoing() ? EPOLLIN | EPOLLOUT : EPOLLIN;
  event.data.ptr = &link;
  ::epoll_ctl(epoll.get(), EPOLL_CTL_MOD, link.socket.get(), &event);
}

/// The first of the outbox is done with.
void TcpLinks::Link::dropOutgoing() {
  if (outbox[outboxNext].copy.capacity() > 0)
    spareCopies.push_back(std::move(outbox[outboxNext].copy));
  if (++outboxNext == outbox.size()) {
    outbox.clear();
    outboxNext = 0;
  }
}

/// Writes from the outbox; false when the socket takes no more.
bool TcpLinks::write(Link &link) {
  size_t budget = turnBytes;
  while (link.hasOutgoing() && budget > 0) {
    Outgoing &out = link.outbox[link.outboxNext];
    iovec parts[2];
    size_t numParts = 0;
    if (out.done < sizeof(Header))
      parts[numParts++] = {reinterpret_cast<char *>(&out.header) + out.done,
                           sizeof(Header) - out.done};
    uint64_t dataDone =
        out.done < sizeof(Header) ? 0 : out.done - sizeof(Header);
    if (out.header.bytes > dataDone)
      parts[numParts++] = {
          const_cast<std::byte *>(out.data) + dataDone,
          std::min<uint64_t>(out.header.bytes - dataDone, turnBytes)};
    msghdr message = {};
    message.msg_iov = parts;
    message.msg_iovlen = numParts;
    ssize_t sent =
        ::sendmsg(link.socket.get(), &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR)
      continue;
    if (sent < 0) {
      if (errno == EAGAIN || errno == EWOULDBLOCK)
        return false;
      link.closed.store(true);
      while (link.hasOutgoing())
        link.dropOutgoing();
      break;
    }
    budget -= std::min(budget, size_t(sent));
    out.done += uint64_t(sent);
    if (out.done == sizeof(Header) + out.header.bytes)
      link.dropOutgoing();
  }
  return !link.hasOutgoing();
}

Status TcpLinks::post(int peer, Kind kind, uint32_t tag, const std::byte *data,
                      int64_t bytes, bool copy) {
  if (job.over())
    return job.verdict();
  Link &link = *links[size_t(peer)];
  std::lock_guard<std::mutex> lock(link.mutex);
  bool idle = !link.hasOutgoing();
  link.outbox.push_back({{kind, tag, uint64_t(bytes)}, data, {}});
  bool empty = idle && write(link);
  if (!empty) {
    Outgoing &out = link.outbox.back();
    if (copy) {
      if (!link.spareCopies.empty()) {
        out.copy = std::move(link.spareCopies.back());
        link.spareCopies.pop_back();
      }
      uint64_t from = out.done < sizeof(Header) ? 0 : out.done - sizeof(Header);
      out.copy.assign(data + from, data + bytes);
      out.data = out.copy.data() - from;
    }
    if (idle)
      arm(link);
  }
  link.outboxEmpty.store(!link.hasOutgoing());
  return Status();
}

Status TcpLinks::send(int peer, Kind kind, uint32_t tag, const std::byte *data,
                      int64_t bytes) {
  return post(peer, kind, tag, data, bytes, /*copy=*/true);
}
Status TcpLinks::sendInPlace(int peer, Kind kind, uint32_t tag,
                             const std::byte *data, int64_t bytes) {
  return post(peer, kind, tag, data, bytes, /*copy=*/false);
}

Status TcpLinks::flush(int peer) {
  Link &link = *links[size_t(peer)];
  LMC_RETURN_IF_ERROR(waiter.until(
      [&] { return link.outboxEmpty.load() || link.closed.load(); }));
  return link.outboxEmpty.load() ? Status() : lost(peer);
}

/// Collectives come in one order; messages in one order per tag.
bool TcpLinks::matches(const Header &header, const Want &want) {
  return header.kind == want.header.kind &&
         (header.kind == Collective || header.tag == want.header.tag);
}

Status TcpLinks::take(const Header &header, const Want &want, int peer) {
  if (header.bytes == want.header.bytes && header.tag == want.header.tag)
    return Status();
  if (header.kind == Collective)
    return makeError(ErrorKind::Bug,
                     "rank {} and rank {} meet in different collectives", peer,
                     job.rank());
  return makeError(ErrorKind::Bug,
                   "rank {} expects {} bytes from rank {} on channel {}, got "
                   "{}",
                   job.rank(), want.header.bytes, peer, header.tag,
                   header.bytes);
}

void TcpLinks::expect(int peer, Kind kind, uint32_t tag, std::byte *target,
                      int64_t bytes) {
  Link &link = *links[size_t(peer)];
  std::lock_guard<std::mutex> lock(link.mutex);
  link.want = Want();
  link.want.header = {kind, tag, uint64_t(bytes)};
  link.want.target = target;
  link.wantDone.store(false);
  for (size_t i = 0; i < link.inbox.size(); ++i) {
    Incoming &one = link.inbox[i];
    if (!matches(one.header, link.want))
      continue;
    link.want.failure = take(one.header, link.want, peer);
    if (link.want.failure.ok())
      std::memcpy(target, one.data.data(), one.data.size());
    link.inbox.erase(link.inbox.begin() + std::ptrdiff_t(i));
    link.wantDone.store(true);
    return;
  }
  link.want.active = true;
}

Status TcpLinks::await(int peer) {
  Link &link = *links[size_t(peer)];
  LMC_RETURN_IF_ERROR(
      waiter.until([&] { return link.wantDone.load() || link.closed.load(); }));
  if (!link.wantDone.load())
    return lost(peer);
  std::lock_guard<std::mutex> lock(link.mutex);
  return std::exchange(link.want.failure, Status());
}

/// A header is complete: where do its bytes go?
void TcpLinks::beginData(Link &link) {
  link.dataRead = 0;
  link.intoWant = false;
  if (link.want.active && matches(link.header, link.want)) {
    int peer = 0;
    while (links[size_t(peer)].get() != &link)
      ++peer;
    link.want.failure = take(link.header, link.want, peer);
    link.want.active = false;
    link.intoWant = link.want.failure.ok();
    if (!link.intoWant)
      link.wantDone.store(true);
  }
  link.current.header = link.header;
  if (!link.intoWant)
    link.current.data.resize(link.header.bytes);
}

void TcpLinks::endData(Link &link) {
  link.headerRead = 0;
  if (link.intoWant) {
    link.wantDone.store(true);
  } else if (link.want.active && matches(link.header, link.want)) {
    // The want came while the message did.
    int peer = 0;
    while (links[size_t(peer)].get() != &link)
      ++peer;
    link.want.failure = take(link.header, link.want, peer);
    link.want.active = false;
    if (link.want.failure.ok())
      std::memcpy(link.want.target, link.current.data.data(),
                  link.current.data.size());
    link.wantDone.store(true);
  } else {
    link.inbox.push_back(std::move(link.current));
    link.current = Incoming();
  }
  bell.ring();
}

void TcpLinks::read(Link &link) {
  std::lock_guard<std::mutex> lock(link.mutex);
  size_t budget = turnBytes;
  while (budget > 0) {
    std::byte *at;
    size_t room;
    if (link.headerRead < sizeof(Header)) {
      at = reinterpret_cast<std::byte *>(&link.header) + link.headerRead;
      room = sizeof(Header) - link.headerRead;
    } else {
      at = (link.intoWant ? link.want.target : link.current.data.data()) +
           link.dataRead;
      room = std::min<uint64_t>(link.header.bytes - link.dataRead, budget);
    }
    ssize_t got = ::recv(link.socket.get(), at, room, MSG_DONTWAIT);
    if (got < 0 && errno == EINTR)
      continue;
    if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
      return;
    if (got <= 0) {
      // Whoever waits for it asks the control plane why.
      ::epoll_ctl(epoll.get(), EPOLL_CTL_DEL, link.socket.get(), nullptr);
      link.closed.store(true);
      bell.ring();
      return;
    }
    budget -= std::min(budget, size_t(got));
    if (link.headerRead < sizeof(Header)) {
      link.headerRead += size_t(got);
      if (link.headerRead < sizeof(Header))
        continue;
      beginData(link);
    } else {
      link.dataRead += size_t(got);
    }
    if (link.dataRead == link.header.bytes)
      endData(link);
  }
}

void TcpLinks::loop() {
  while (true) {
    epoll_event events[64];
    int count = ::epoll_wait(epoll.get(), events, 64, -1);
    for (int i = 0; i < count; ++i) {
      Link *link = static_cast<Link *>(events[i].data.ptr);
      if (!link)
        return; // told to stop
      if (events[i].events & EPOLLOUT) {
        std::lock_guard<std::mutex> lock(link->mutex);
        write(*link);
        link->outboxEmpty.store(!link->hasOutgoing());
        if (!link->hasOutgoing()) {
          arm(*link);
          bell.ring();
        }
      }
      if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR))
        read(*link);
    }
  }
}

} // namespace lmc::runtime
