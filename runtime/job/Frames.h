// Sockets and the frames that the control plane exchanges over them.
//
// A frame is a header (magic, kind, length; 32 bits each, little endian) and a
// payload. Nothing that comes in is trusted before its magic and length are
// right, so whoever else connects is told apart after a few bytes.
#ifndef LMC_RUNTIME_JOB_FRAMES_H
#define LMC_RUNTIME_JOB_FRAMES_H

#include "runtime/base/Status.h"

#include <cstdint>

namespace lmc::runtime {

/// Milliseconds of a clock that stands still while the machine sleeps.
int64_t nowMs();

class Socket {
public:
  Socket() = default;
  explicit Socket(int fd) : fd(fd) {}
  Socket(Socket &&other) noexcept : fd(other.release()) {}
  Socket &operator=(Socket &&other) noexcept;
  ~Socket() { reset(); }
  int get() const { return fd; }
  explicit operator bool() const { return fd >= 0; }
  int release();
  void reset();

private:
  int fd = -1;
};

/// Listens at `port` (0: any) of the address that `host` names; of all
/// addresses where this machine has not that one.
StatusOr<Socket> listenAt(const std::string &host, int port);
/// Tries until it connects or `deadlineMs` (of nowMs) has come; DoesNotFit, at
/// once, when this process can open no more.
StatusOr<Socket> connectTo(const std::string &host, int port,
                           int64_t deadlineMs);
/// Takes a waiting connection; an empty socket, and errno, when there is none.
Socket acceptFrom(const Socket &listener);
/// This side's numeric address and port.
std::string addressOf(const Socket &socket);
int portOf(const Socket &socket);

/// Builds a payload of numbers and texts.
class Writer {
public:
  Writer &number(uint64_t value);
  Writer &text(std::string_view value);
  std::string take() { return std::move(bytes); }

private:
  std::string bytes;
};

/// Takes one apart; `ok` turns false, and stays, when it does not fit.
class Reader {
public:
  explicit Reader(std::string_view bytes) : rest(bytes) {}
  uint64_t number();
  std::string text();
  bool ok() const { return good; }
  bool finished() const { return good && rest.empty(); }

private:
  std::string_view take(size_t count);
  std::string_view rest;
  bool good = true;
};

void putStatus(Writer &writer, const Status &status);
Status getStatus(Reader &reader);

struct Frame {
  uint32_t kind = 0;
  std::string payload;
};

/// One connection that frames come and go by; never blocks.
class FrameStream {
public:
  FrameStream() = default;
  explicit FrameStream(Socket socket);

  int fd() const { return socket.get(); }
  explicit operator bool() const { return bool(socket); }
  void close() { socket.reset(); }
  /// Says that nothing more will be sent.
  void finishSending();

  enum class Got { Frame, Nothing, Closed, Broken };
  Got receive(Frame &frame);
  void send(uint32_t kind, std::string_view payload);
  /// Writes what waits; false when the connection is gone.
  bool flush();
  bool wantsToWrite() const { return !outgoing.empty(); }

  /// Frames beyond this are Broken.
  size_t maxPayload = 64 << 10;

private:
  Socket socket;
  std::string incoming, outgoing;
};

} // namespace lmc::runtime

#endif // LMC_RUNTIME_JOB_FRAMES_H
