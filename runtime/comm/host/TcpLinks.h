// One connection to each rank that shares no memory with this one (or to all,
// for tests), and the thread that moves bytes through them.
//
// A message is a header (kind, tag, bytes) and its bytes. The sender's thread
// writes what the socket takes at once; the rest goes through the outbox, so
// that a send never waits for its receive. What comes in goes straight to
// where the rank's thread already waits for it, else into an inbox.
//
//   rank's thread                     the links' thread ("lmc-tcp")
//     send    -> socket | outbox  ->   writes outboxes when sockets can
//     expect  -> want             ->   reads into the want | inbox, rings the
//     await   <- done, or inbox        rank's bell
//
// Vectors keep their memory when they empty out, so that a steady exchange
// allocates nothing on the rank's thread.
//
// Each link has a lock that either thread holds for the length of one system
// call or copy. No thread of the control plane takes it.
#ifndef LMC_RUNTIME_COMM_HOST_TCPLINKS_H
#define LMC_RUNTIME_COMM_HOST_TCPLINKS_H

#include "runtime/comm/host/Bell.h"

namespace lmc::runtime {

class TcpLinks {
public:
  enum Kind : uint32_t { Message = 1, Collective = 2 };

  /// Listens at this rank's address.
  static StatusOr<std::unique_ptr<TcpLinks>> create(Job &job, Bell &bell,
                                                    Waiter &waiter);
  ~TcpLinks();
  TcpLinks(const TcpLinks &) = delete;

  std::string endpoint() const;
  /// Connects to the ranks that are wanted, and they to this one; then the
  /// port is closed. Strangers at the port are turned away.
  Status connect(const std::vector<std::string> &endpoints,
                 const std::vector<bool> &wanted);
  bool isLinked(int rank) const { return links[size_t(rank)] != nullptr; }

  /// Copies what the socket does not take at once.
  Status send(int peer, Kind kind, uint32_t tag, const std::byte *data,
              int64_t bytes);
  /// Reads from `data` until flush has returned.
  Status sendInPlace(int peer, Kind kind, uint32_t tag, const std::byte *data,
                     int64_t bytes);
  Status flush(int peer);

  /// Says where the next message of the kind (of the tag, for a Message) is to
  /// go; await returns when it is there. One at a time per peer.
  void expect(int peer, Kind kind, uint32_t tag, std::byte *target,
              int64_t bytes);
  Status await(int peer);

private:
  struct Header {
    uint32_t kind, tag;
    uint64_t bytes;
  };
  struct Outgoing {
    Header header;
    const std::byte *data;
    std::vector<std::byte> copy; ///< what `data` points to, when copied
    uint64_t done = 0;           ///< of header and data together
  };
  struct Incoming {
    Header header;
    std::vector<std::byte> data;
  };
  struct Want {
    bool active = false, direct = false;
    Header header;
    std::byte *target = nullptr;
    Status failure;
  };
  struct Link {
    Socket socket;
    std::mutex mutex;
    std::vector<Outgoing> outbox; ///< written up to outboxNext
    size_t outboxNext = 0;
    std::vector<std::vector<std::byte>> spareCopies;
    std::vector<Incoming> inbox;
    Want want;
    bool hasOutgoing() const { return outboxNext < outbox.size(); }
    void dropOutgoing();
    std::atomic<bool> wantDone{false}, outboxEmpty{true}, closed{false};
    // The message that is being read.
    Header header{};
    uint64_t headerRead = 0, dataRead = 0;
    Incoming current;
    bool intoWant = false;
  };

  TcpLinks(Job &job, Bell &bell, Waiter &waiter)
      : job(job), bell(bell), waiter(waiter), links(size_t(job.numRanks())) {}
  Status post(int peer, Kind kind, uint32_t tag, const std::byte *data,
              int64_t bytes, bool copy);
  Status greetAll(const std::vector<std::string> &endpoints,
                  const std::vector<bool> &wanted);
  void addLink(int peer, Socket socket);
  Status lost(int peer);
  void loop();
  void arm(Link &link);
  bool write(Link &link);
  void read(Link &link);
  void beginData(Link &link);
  void endData(Link &link);
  static bool matches(const Header &header, const Want &want);
  Status take(const Header &header, const Want &want, int peer);

  Job &job;
  Bell &bell;
  Waiter &waiter;
  Socket listener;
  std::vector<std::unique_ptr<Link>> links;
  Socket epoll, stop;
  std::thread thread;
};

} // namespace lmc::runtime

#endif // LMC_RUNTIME_COMM_HOST_TCPLINKS_H
