// See Frames.h.
#include "runtime/job/Frames.h"
#include "runtime/base/OpenFiles.h"

#include <algorithm>
#include <arpa/inet.h>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <thread>
#include <unistd.h>

namespace lmc::runtime {

static constexpr uint32_t frameMagic = 0x4a434d4c; // "LMCJ"

int64_t nowMs() {
  return std::chrono::duration_cast<std::chrono::milliseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

Socket &Socket::operator=(Socket &&other) noexcept {
  if (this != &other) {
    reset();
    fd = other.release();
  }
  return *this;
}
int Socket::release() { return std::exchange(fd, -1); }
void Socket::reset() {
  if (fd >= 0)
    ::close(fd);
  fd = -1;
}

namespace {
struct AddressList {
  ~AddressList() {
    if (first)
      ::freeaddrinfo(first);
  }
  addrinfo *first = nullptr;
};
} // namespace

static Status resolve(const std::string &host, int port, AddressList &list) {
  addrinfo hints = {};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICSERV;
  int error = ::getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints,
                            &list.first);
  if (error != 0)
    return wrongInput("the host {} is not known: {}", host,
                      ::gai_strerror(error));
  return Status();
}

static Socket listenOn(const sockaddr *address, socklen_t length) {
  Socket socket(
      ::socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC, IPPROTO_TCP));
  int on = 1;
  if (!socket ||
      ::setsockopt(socket.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) ||
      ::bind(socket.get(), address, length) || ::listen(socket.get(), 1024) ||
      ::fcntl(socket.get(), F_SETFL, O_NONBLOCK))
    return Socket();
  return socket;
}

StatusOr<Socket> listenAt(const std::string &host, int port) {
  AddressList list;
  LMC_RETURN_IF_ERROR(resolve(host, port, list));
  int reason = 0;
  for (addrinfo *one = list.first; one; one = one->ai_next) {
    if (Socket socket = listenOn(one->ai_addr, one->ai_addrlen))
      return socket;
    reason = errno;
    // Whoever looks for the name finds the one that is there first, too.
    if (reason == EADDRINUSE)
      break;
  }
  if (reason == EADDRNOTAVAIL) { // a name that is translated on the way
    sockaddr_in6 any = {};
    any.sin6_family = AF_INET6;
    any.sin6_port = htons(uint16_t(port));
    if (Socket socket =
            listenOn(reinterpret_cast<sockaddr *>(&any), sizeof any))
      return socket;
    reason = errno;
  }
  return makeError(
      isOutOfFiles(reason) ? ErrorKind::DoesNotFit : ErrorKind::PeerFailed,
      "cannot listen at {}:{}: {}", host, port, std::strerror(reason));
}

static void configure(int fd) {
  int on = 1;
  ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  ::setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
}

/// Connects within `timeoutMs`, without blocking longer; errno tells why not.
static Socket connectOnce(const addrinfo &address, int timeoutMs) {
  Socket socket(::socket(address.ai_family,
                         SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK,
                         IPPROTO_TCP));
  if (!socket)
    return Socket();
  if (::connect(socket.get(), address.ai_addr, address.ai_addrlen) != 0) {
    if (errno != EINPROGRESS)
      return Socket();
    pollfd waiting = {socket.get(), POLLOUT, 0};
    int ready = ::poll(&waiting, 1, timeoutMs);
    int error = ready == 0 ? ETIMEDOUT : 0;
    socklen_t length = sizeof error;
    if (ready > 0)
      ::getsockopt(socket.get(), SOL_SOCKET, SO_ERROR, &error, &length);
    if (error != 0 || ready < 0) {
      errno = error ? error : errno;
      return Socket();
    }
  }
  // A port of our own range, not yet listened at, may connect to itself.
  sockaddr_storage mine = {}, peer = {};
  socklen_t a = sizeof mine, b = sizeof peer;
  ::getsockname(socket.get(), reinterpret_cast<sockaddr *>(&mine), &a);
  ::getpeername(socket.get(), reinterpret_cast<sockaddr *>(&peer), &b);
  if (a == b && std::memcmp(&mine, &peer, a) == 0) {
    errno = ECONNREFUSED;
    return Socket();
  }
  configure(socket.get());
  return socket;
}

StatusOr<Socket> connectTo(const std::string &host, int port,
                           int64_t deadlineMs) {
  std::string reason;
  for (int pauseMs = 5;; pauseMs = std::min(2 * pauseMs, 200)) {
    AddressList list;
    // A name may not be known yet while hosts come up.
    if (Status status = resolve(host, port, list); !status.ok())
      reason = status.message();
    for (addrinfo *one = list.first; one; one = one->ai_next) {
      int64_t left = deadlineMs - nowMs();
      if (Socket socket =
              connectOnce(*one, int(std::clamp<int64_t>(left, 1, 2000))))
        return socket;
      if (isOutOfFiles(errno)) // waiting would not help
        return makeError(ErrorKind::DoesNotFit, "cannot reach {}:{}: {}", host,
                         port, std::strerror(errno));
      reason = std::strerror(errno);
    }
    if (nowMs() + pauseMs >= deadlineMs)
      return makeError(ErrorKind::PeerFailed, "cannot reach {}:{}: {}", host,
                       port, reason);
    std::this_thread::sleep_for(std::chrono::milliseconds(pauseMs));
  }
}

Socket acceptFrom(const Socket &listener) {
  Socket socket(::accept4(listener.get(), nullptr, nullptr,
                          SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (socket) {
    configure(socket.get());
    return socket;
  }
  // The system looks for room first, and then whether anybody waits.
  pollfd waiting = {listener.get(), POLLIN, 0};
  int error = errno;
  bool isEmpty = isOutOfFiles(error) && ::poll(&waiting, 1, 0) == 0;
  errno = isEmpty ? EAGAIN : error;
  return Socket();
}

static std::pair<std::string, int> nameOf(const Socket &socket) {
  sockaddr_storage address = {};
  socklen_t length = sizeof address;
  char host[NI_MAXHOST] = "", port[NI_MAXSERV] = "0";
  ::getsockname(socket.get(), reinterpret_cast<sockaddr *>(&address), &length);
  ::getnameinfo(reinterpret_cast<sockaddr *>(&address), length, host,
                sizeof host, port, sizeof port,
                NI_NUMERICHOST | NI_NUMERICSERV);
  return {host, std::atoi(port)};
}
std::string addressOf(const Socket &socket) { return nameOf(socket).first; }
int portOf(const Socket &socket) { return nameOf(socket).second; }

Writer &Writer::number(uint64_t value) {
  for (int i = 0; i < 8; ++i)
    bytes.push_back(char(value >> (8 * i)));
  return *this;
}
Writer &Writer::text(std::string_view value) {
  number(value.size());
  bytes.append(value);
  return *this;
}

std::string_view Reader::take(size_t count) {
  if (!good || count > rest.size()) {
    good = false;
    return {};
  }
  std::string_view taken = rest.substr(0, count);
  rest.remove_prefix(count);
  return taken;
}
uint64_t Reader::number() {
  uint64_t value = 0;
  std::string_view bytes = take(8);
  for (size_t i = 0; i < bytes.size(); ++i)
    value |= uint64_t(uint8_t(bytes[i])) << (8 * i);
  return value;
}
std::string Reader::text() { return std::string(take(size_t(number()))); }

void putStatus(Writer &writer, const Status &status) {
  writer.number(uint64_t(status.exitStatus()));
  if (status.ok())
    return;
  writer.text(status.message()).number(status.lines().size());
  for (const std::string &line : status.lines())
    writer.text(line);
}

Status getStatus(Reader &reader) {
  uint64_t kind = reader.number();
  if (kind == 0)
    return Status();
  Status status(ErrorKind(int(kind)), reader.text());
  for (uint64_t lines = reader.number(); lines > 0 && reader.ok(); --lines)
    status = std::move(status).line(reader.text());
  return status;
}

FrameStream::FrameStream(Socket given) : socket(std::move(given)) {
  if (socket)
    ::fcntl(socket.get(), F_SETFL, O_NONBLOCK);
}

void FrameStream::finishSending() {
  if (socket)
    ::shutdown(socket.get(), SHUT_WR);
}

static uint32_t word(std::string_view bytes, size_t at) {
  uint32_t value;
  std::memcpy(&value, bytes.data() + at, sizeof value);
  return value;
}

FrameStream::Got FrameStream::receive(Frame &frame) {
  constexpr size_t header = 12;
  bool closed = !socket;
  while (true) {
    if (incoming.size() >= 4 && word(incoming, 0) != frameMagic)
      return Got::Broken;
    if (incoming.size() >= header) {
      size_t length = word(incoming, 8);
      if (length > maxPayload)
        return Got::Broken;
      if (incoming.size() >= header + length) {
        frame.kind = word(incoming, 4);
        frame.payload = incoming.substr(header, length);
        incoming.erase(0, header + length);
        return Got::Frame;
      }
    }
    if (closed)
      return Got::Closed;
    char chunk[16384];
    ssize_t got = ::recv(socket.get(), chunk, sizeof chunk, MSG_DONTWAIT);
    if (got > 0)
      incoming.append(chunk, size_t(got));
    else if (got < 0 && errno == EINTR)
      continue;
    else if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
      return Got::Nothing;
    else
      closed = true;
  }
}

void FrameStream::send(uint32_t kind, std::string_view payload) {
  uint32_t header[3] = {frameMagic, kind, uint32_t(payload.size())};
  outgoing.append(reinterpret_cast<const char *>(header), sizeof header);
  outgoing.append(payload);
  (void)flush();
}

bool FrameStream::flush() {
  while (socket && !outgoing.empty()) {
    ssize_t sent = ::send(socket.get(), outgoing.data(), outgoing.size(),
                          MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent > 0)
      outgoing.erase(0, size_t(sent));
    else if (sent < 0 && errno == EINTR)
      continue;
    else
      return sent < 0 && (errno == EAGAIN || errno == EWOULDBLOCK);
  }
  return bool(socket);
}

} // namespace lmc::runtime
